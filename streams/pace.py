"""
How fast a worker goes: as fast as it can, or beside the others, where they are far ahead of it.

A group that is new has all before it that a stream has kept, and nobody waits for it.  Redis does one thing at a time,
so such a group asks for little at once, and rests between two calls for longer than they took: the longer, the more
Redis has to do for others.  After an outage all are equally far behind, and all hurry.  Knows no Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable

OLD_MS = 60_000
"""Nobody waits for what was said so long ago, or they have learnt to."""

LITTLE = 40
"""Entries that a call reads or ends then, about: a millisecond of Redis's time."""

RESTS = 3.0
"""Times what a call took, between two of them."""


class Pace:
    """Of one worker."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock, self._sleep = clock, sleep
        self.gentle = False

    async def read(self, count: int, cursor: str, now_ms: int, furthest_ms: Callable[[], Awaitable[int]]) -> None:
        """
        So many new entries were read, the last of which is `cursor`.

        Args:
            furthest_ms: the time of the last entry that any other group of the stream has read; asked where it matters.
        """
        at_ms = int(cursor.partition("-")[0])
        self.gentle = count > 0 and now_ms - at_ms > OLD_MS and await furthest_ms() - at_ms > OLD_MS

    def at_once(self, most: int) -> int:
        """Of so many at full speed."""
        return min(most, LITTLE) if self.gentle else most

    @contextlib.asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Around a call."""
        began = self._clock()
        yield
        if self.gentle:
            await self._sleep(RESTS * (self._clock() - began))
