"""
Who is generated next: waiting, running, finished.

Pure: numbers in lists.  No tensor, no thread, no clock.  A running sequence has a row of the batch, and rows are kept
without a hole, so that a step is one block of the model's memory: who leaves is replaced by the last one.  One more at
a time has its prompt read, piece by piece, in the row behind the running ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Series
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
    read: int = 0
    """Tokens of the prompt that the model has seen."""
    recalled: int = 0
    """Of these, what it knew from another time."""

    @property
    def length(self) -> int:
        """Tokens that the model has seen once the next step is done: prompt and all generated."""
        return len(self.prompt) + len(self.generated)


class Move(NamedTuple):
    """What a row holds is to be carried to another row."""

    source: int
    target: int


class Piece(NamedTuple):
    """Of whose prompt is read next, in which row, and up to where."""

    row: int
    sequence: Sequence
    end: int

    @property
    def whole(self) -> bool:
        """The prompt ends with it."""
        return self.end == len(self.sequence.prompt)


APART = 256
"""Tokens that may be computed for nothing before rows of different lengths are rather computed apart."""


def runs(lengths: Series[int]) -> list[tuple[int, int]]:
    """
    Neighbouring rows that are computed together, each run as if all its rows were as long as its longest.

    The cheapest way to cut them, where a token costs one and a run `APART`: so a long one does not tax the short.

    Returns:
        for each run its first row, and the one after its last.
    """
    best: list[tuple[int, int]] = [(0, 0)]  # up to each row: what it costs, and where the last run begins
    for end in range(1, len(lengths) + 1):
        longest, found = 0, (-1, 0)
        for first in range(end - 1, -1, -1):
            longest = max(longest, lengths[first])
            cost = best[first][0] + longest * (end - first) + APART
            if found[0] < 0 or cost < found[0]:
                found = cost, first
        best.append(found)
    cut: list[tuple[int, int]] = []
    end = len(lengths)
    while end:
        cut.append((best[end][1], end))
        end = best[end][1]
    return cut[::-1]


class Scheduler:
    """Who waits, and who runs in which row."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """The index is the row."""
        self.reading: Sequence | None = None
        """In the row behind them."""

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running or self.reading)

    @property
    def rows(self) -> int:
        """In use, from the first on."""
        return len(self.running) + (self.reading is not None)

    def add(self, sequence: Sequence) -> None:
        self.waiting.append(sequence)

    def admit(self) -> Sequence | None:
        """Whose prompt is read next: as before, or the first who waits; None where nobody does or no row is free."""
        if self.reading is None and self.waiting and len(self.running) < self.slots:
            self.reading = self.waiting.popleft()
        return self.reading

    def row(self, sequence: Sequence) -> int | None:
        """Where what the model knows of it lies; None where it waits, or has left."""
        if sequence is self.reading:
            return len(self.running)
        return self.running.index(sequence) if sequence in self.running else None

    def begin(self) -> None:
        """The prompt is read; it runs, in the row where it is."""
        assert self.reading is not None  # noqa: S101 - only called with one
        self.running.append(self.reading)
        self.reading = None

    def accept(self, sequence: Sequence, token: int) -> Finish | None:
        """A token for a running sequence; how it has ended, or None where it goes on.  A stop is not kept."""
        if token in sequence.stops:
            return "stop"
        sequence.generated.append(token)
        return "length" if len(sequence.generated) >= sequence.max_tokens else None

    def leave(self, sequence: Sequence) -> list[Move]:
        """Take a sequence out, wherever it is; what has to be moved, in this order, so that no row is a hole."""
        if sequence is self.reading:
            self.reading = None
            return []
        if sequence not in self.running:
            if sequence in self.waiting:
                self.waiting.remove(sequence)
            return []
        row, last = self.running.index(sequence), len(self.running) - 1
        self.running[row] = self.running[last]
        del self.running[last]
        moves = [Move(last, row)] if row != last else []
        if self.reading is not None:
            moves.append(Move(last + 1, last))
        return moves
