"""
What was computed for one reply and can serve the next: keys and values, found again by the tokens that they are of.

Pure: values are whatever their owner keeps.  A prompt's longest kept beginning is found by a chain of hashes over
blocks of tokens, as vLLM's automatic prefix caching does it, and is compared token by token before it counts: by its
tokens a beginning is the same or it is not, and by no name.  Bounded in bytes; the least recently used goes first.
"""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

BLOCK = 16
"""Tokens; a beginning that is shorter is not worth looking for."""

Value = TypeVar("Value")


@dataclass(eq=False)
class _Entry(Generic[Value]):
    tokens: list[int]
    value: Value
    size: int


class Kept(Generic[Value]):
    """At most `budget` bytes of values."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.size = 0
        self._entries: OrderedDict[int, _Entry[Value]] = OrderedDict()
        """The least recently used first."""
        self._blocks: defaultdict[int, dict[int, None]] = defaultdict(dict)
        """By the hash of all tokens up to a block's end: who begins so, the newest last."""
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._entries)

    def best(self, tokens: Sequence[int]) -> tuple[Value, int] | None:
        """The value whose tokens begin as these do for longest, and for how many; None where none does for a block."""
        found, number = 0, -1
        for length, chain in _chain(tokens):
            if not (those := self._blocks.get(chain)):
                break
            found, number = length, next(reversed(those))
        if not found:
            return None
        entry = self._entries[number]
        if entry.tokens[:found] != list(tokens[:found]):
            return None  # two beginnings with one hash
        most = min(len(entry.tokens), len(tokens))
        while found < most and entry.tokens[found] == tokens[found]:
            found += 1
        self._entries.move_to_end(number)
        return entry.value, found

    def has(self, tokens: Sequence[int]) -> bool:
        """A value of exactly these tokens, or of more that begin with them."""
        best = self.best(tokens)
        return best is not None and best[1] == len(tokens)

    def keep(self, tokens: list[int], value: Value, size: int) -> None:
        """
        Keep a value, in place of those whose tokens are its beginning.

        Args:
            size: bytes; one larger than the budget is not kept.
        """
        if size > self.budget or len(tokens) < BLOCK:
            return
        for number in self._beginnings(tokens):
            self._drop(number)
        while self.size + size > self.budget:
            self._drop(next(iter(self._entries)))
        self._numbers += 1
        self._entries[self._numbers] = _Entry(tokens, value, size)
        self.size += size
        for _, chain in _chain(tokens):
            self._blocks[chain][self._numbers] = None

    def forget(self) -> None:
        """Drop all."""
        self.size = 0
        self._entries.clear()
        self._blocks.clear()

    def _beginnings(self, tokens: list[int]) -> list[int]:
        found = []
        for length, chain in _chain(tokens):
            for number in self._blocks.get(chain, ()):
                own = self._entries[number].tokens
                if len(own) - len(own) % BLOCK == length and own == tokens[: len(own)]:
                    found.append(number)
        return found

    def _drop(self, number: int) -> None:
        entry = self._entries.pop(number)
        self.size -= entry.size
        for _, chain in _chain(entry.tokens):
            del self._blocks[chain][number]
            if not self._blocks[chain]:
                del self._blocks[chain]


def _chain(tokens: Sequence[int]) -> Iterator[tuple[int, int]]:
    """The end of each whole block, and a hash of all tokens up to it."""
    chain = 0
    for end in range(BLOCK, len(tokens) + 1, BLOCK):
        chain = hash((chain, *tokens[end - BLOCK : end]))
        yield end, chain
