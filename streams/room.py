"""
The places of one process for the turns of one group, shared by the workers of its shards; and the one place for a turn
that was in work when workers died, shared by all its groups.

Pure but for an event: a worker asks for some, leases as many keys at most, and gives back what it did not need.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from streams.tables import Group

MOST_AT_ONCE = 200
"""Places that one has at once: a take of so many holds Redis up for some milliseconds, and others wait for it."""


def places(group: Group, resources: Any) -> int:
    """Turns that one process handles at once: `concurrency`, or fewer where its resources say that they hold fewer."""
    capacity = getattr(resources, "capacity", None)
    most = capacity() if capacity else None
    return group.concurrency if most is None else max(1, min(group.concurrency, most))


class Suspects:
    """Turns whose entry was in work when workers died: one at a time, whatever the group and the shard."""

    def __init__(self) -> None:
        self.rings: list[Callable[[], None]] = []
        """What wakes each of the workers."""
        self._in_work: set[str] = set()
        self._asking = False
        self._refused: set[Callable[[], None]] = set()

    @contextlib.contextmanager
    def ask(self, ring: Callable[[], None]) -> Iterator[int]:
        """
        While the context is open, so many may be taken: one, while none is in work and nobody else asks; else none.

        Args:
            ring: wakes who is told none because of somebody else's question, once that has its answer.
        """
        if self._asking:
            self._refused.add(ring)
        if self._asking or self._in_work:
            yield 0
            return
        self._asking = True
        try:
            yield 1
        finally:
            self._asking = False
            refused, self._refused = self._refused, set()
            for each in refused:
                each()

    def add(self, token: str) -> None:
        """One has been taken; to be called before anybody else can ask."""
        self._in_work.add(token)

    def cleared(self, token: str) -> None:
        """It is not in work any more, if it was one; another may be."""
        if token in self._in_work:
            self._in_work.discard(token)
            for ring in self.rings:
                ring()


class Room:
    """
    Args:
        places: turns that may be handled at once; what has been handled and waits for its commit needs none.
        sharers: workers among which they are shared.
        suspects: of the process; None: this group is alone in it.
    """

    def __init__(self, places: int, sharers: int = 1, suspects: Suspects | None = None) -> None:
        self.suspects = suspects or Suspects()
        self._free = self._places = places
        self._sharers = sharers
        self._given = asyncio.Event()
        self._rings: set[Callable[[], None]] = set()

    def some(self) -> int:
        """
        As many places as one may have now; 0 where none is free.  A fair share of what is free, and half of all at
        most: while those work, the take for the others is on its way.
        """
        share = min(-(-self._free // self._sharers), -(-self._places // 2), MOST_AT_ONCE)
        self._free -= share
        return share

    def back(self, places: int) -> None:
        """These are free again."""
        self._free += places
        self._given.set()
        for ring in self._rings:
            ring()

    @property
    def full(self) -> bool:
        """None is free."""
        return self._free == 0

    @contextlib.contextmanager
    def ringing(self, ring: Callable[[], None]) -> Iterator[None]:
        """While the context is open, `ring` is called when somebody gives some back."""
        self._rings.add(ring)
        try:
            yield
        finally:
            self._rings.discard(ring)

    @property
    def shared(self) -> bool:
        """Others may need what one keeps."""
        return self._sharers > 1

    async def wait(self) -> None:
        """Until somebody gives some back; who has waited longest goes first."""
        self._given.clear()
        await self._given.wait()
