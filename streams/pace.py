"""
How fast a worker goes: as fast as it can, or beside the others, where they are far ahead of it.

A group that is new has all before it that a stream has kept, and nobody waits for it.  Redis does one thing at a time,
so while people write such a group asks for little at once, and rests between two calls for longer than they took: the
longer, the more Redis has to do for others.  Its process wakes up only where nobody else runs.  While nobody writes it
hurries, as it does where it would not catch up; after an outage, when all are equally far behind, all do.  Knows no
Redis.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable

OLD_MS = 60_000
"""Nobody waits for what was said so long ago, or they have learnt to."""

QUIET_MS = 10_000
"""So long after the last message nobody is there who would notice."""

LITTLE = 5
"""Entries that a call reads or ends while somebody would: a fifth of a millisecond of Redis's time."""

RESTS = 5.0
"""Times what a call took, between two of them."""


WINDOW_MS = 10_000
"""So long it is looked at whether it catches up: comes on twice as fast as time does."""


def stand_aside(aside: bool) -> None:
    """
    Whether this thread, when it wakes up, waits for whoever runs instead of taking the processor from them: Linux's
    SCHED_BATCH, see sched(7), which anybody may choose and leave again.
    """
    if hasattr(os, "SCHED_BATCH"):
        with contextlib.suppress(OSError):  # where whoever runs us has chosen otherwise, so be it
            os.sched_setscheduler(0, os.SCHED_BATCH if aside else os.SCHED_OTHER, os.sched_param(0))


class Pace:
    """Of one worker."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        aside: Callable[[bool], None] = stand_aside,
    ) -> None:
        self._clock, self._sleep, self._aside = clock, sleep, aside
        self.gentle = False
        self._since: tuple[int, int] | None = None
        """When the window began, and where it was then."""
        self._late = False
        """It has not caught up as it went, and hurries until it has."""

    async def read(self, count: int, cursor: str, now_ms: int, furthest_ms: Callable[[], Awaitable[int]]) -> None:
        """
        So many new entries were read, the last of which is `cursor`.

        Args:
            furthest_ms: the time of the last entry that any other group of the stream has read; asked where it matters.
        """
        at_ms, gentle = int(cursor.partition("-")[0]), False
        behind = count > 0 and now_ms - at_ms > OLD_MS
        self._late = behind and self._late
        if behind and not self._late:
            furthest = await furthest_ms()
            gentle = furthest - at_ms > OLD_MS and now_ms - furthest < QUIET_MS and self._comes_on(now_ms, at_ms)
        if not gentle:
            self._since = None
        if gentle != self.gentle:
            self.gentle = gentle
            self._aside(gentle)

    def _comes_on(self, now_ms: int, at_ms: int) -> bool:
        began_ms, from_ms = self._since = self._since or (now_ms, at_ms)
        if (elapsed_ms := now_ms - began_ms) >= WINDOW_MS:
            self._late = at_ms - from_ms < 2 * elapsed_ms
            self._since = now_ms, at_ms
        return not self._late

    def at_once(self, most: int) -> int:
        """Of so many at full speed."""
        return min(most, LITTLE) if self.gentle else most

    def begins(self) -> float:
        """Before a call; what it returns is for `rest`."""
        return self._clock()

    async def rest(self, began: float) -> None:
        """After it."""
        if self.gentle:
            await self._sleep(RESTS * (self._clock() - began))
