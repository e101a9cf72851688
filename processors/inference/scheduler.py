"""
Who is generated next: waiting, running, finished.

Pure: numbers in lists.  No tensor, no thread, no clock.  A running sequence has a row of the batch, and rows are kept
without a hole, so that a step is one block of the model's memory: who leaves is replaced by the last one.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, NamedTuple

import msgspec

from processors.inference.generation import Drawing

Finish = Literal["stop", "length"]


class Sequence(msgspec.Struct, kw_only=True, eq=False):
    """One request as tokens."""

    number: int
    prompt: list[int]
    max_tokens: int
    stops: frozenset[int]
    drawing: Drawing = Drawing()
    generated: list[int] = []

    @property
    def length(self) -> int:
        """Tokens that the model has seen once the next step is done: prompt and all generated."""
        return len(self.prompt) + len(self.generated)


class Move(NamedTuple):
    """What a row holds is to be carried to another row."""

    source: int
    target: int


class Scheduler:
    """Who waits, and who runs in which row."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """The index is the row."""

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def admit(self) -> Sequence | None:
        """The next to be prefilled, now in the last row; None where nobody waits or no row is free."""
        if not self.waiting or len(self.running) >= self.slots:
            return None
        sequence = self.waiting.popleft()
        self.running.append(sequence)
        return sequence

    def accept(self, sequence: Sequence, token: int) -> Finish | None:
        """A token for a running sequence; how it has ended, or None where it goes on.  A stop is not kept."""
        if token in sequence.stops:
            return "stop"
        sequence.generated.append(token)
        return "length" if len(sequence.generated) >= sequence.max_tokens else None

    def leave(self, sequence: Sequence) -> Move | None:
        """Take a sequence out, wherever it is; what has to be moved so that the rows stay without a hole."""
        if sequence not in self.running:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return None
        row, last = self.running.index(sequence), len(self.running) - 1
        self.running[row] = self.running[last]
        del self.running[last]
        return Move(last, row) if row != last else None
