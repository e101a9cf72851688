"""
The places of one process for the turns of one group, shared by the workers of its shards.

Pure but for an event: a worker asks for some, leases as many keys at most, and gives back what it did not need.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Room:
    """
    Args:
        places: turns that may be in work at once.
        sharers: workers among which they are shared.
    """

    def __init__(self, places: int, sharers: int = 1) -> None:
        self.suspects: set[str] = set()
        """Tokens in work whose entry was in work when workers died: one at a time, whatever the shard."""
        self.rings: list[Callable[[], None]] = []
        """What wakes each of the workers."""
        self._free = places
        self._sharers = sharers
        self._given = asyncio.Event()

    def some(self) -> int:
        """As many places as one may have now, a fair share of what is free; 0 where none is."""
        share = -(-self._free // self._sharers)
        self._free -= share
        return share

    def back(self, places: int) -> None:
        """These are free again."""
        self._free += places
        self._given.set()

    async def wait(self) -> None:
        """Until somebody gives some back; who has waited longest goes first."""
        self._given.clear()
        await self._given.wait()

    def cleared(self, token: str) -> None:
        """A suspect is not in work any more; another may be, in any shard."""
        if token in self.suspects:
            self.suspects.discard(token)
            for ring in self.rings:
                ring()
