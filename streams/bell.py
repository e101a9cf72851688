"""
What wakes an idle worker: something appended, a key whose time has come, or a ring from this very process.

One blocking read on a connection of its own, at most 2 s long, and one timer.  While the worker is busy the bell is
silent, however much is appended.
"""

from __future__ import annotations

import asyncio

from streams.connection import Store, order
from streams.errors import Unavailable
from streams.tables import Group

BLOCK_MS = 2_000


class Bell:
    """Rings for one group."""

    def __init__(self, store: Store, group: Group) -> None:
        self._follower = store.follower()
        self._stream = store.keys.stream(group.reads)
        self._others = store.keys.of("bell", group.name)
        """Other processes ring here: a reply that egress held back for a request may go, or need not."""
        self._cursor = self._taken = "0-0"
        self._last: str | None = None
        self._rung = asyncio.Event()
        self._idle = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0

    def ring(self) -> None:
        """Wake the worker now."""
        self._rung.set()

    def ring_in(self, ms: int) -> None:
        """Wake it in so many milliseconds, or earlier; a negative number is never."""
        if ms < 0:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + ms / 1000
        if loop.time() < self._timer_at <= at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(at, self.ring), at

    def hush(self) -> None:
        """Before a take: what rang until now is answered by it."""
        self._rung.clear()

    async def wait(self, cursor: str, next_due_ms: int, now_ms: int) -> None:
        """
        Return when there may be something to take after `cursor`, or when `next_due_ms` have passed.

        Args:
            now_ms: Redis's clock at the take; what others rang before it is answered by it.
        """
        # Not back to where it has rung before: that take has read all there was, and what it did not get is not ours
        # (a group whose position somebody has set by hand).
        went_back, self._taken = order(cursor) < order(self._taken), cursor
        self._cursor = cursor if went_back else max(cursor, self._cursor, key=order)
        self._last = self._last or f"{now_ms - 1}-0"
        self.ring_in(next_due_ms)
        self._idle.set()
        try:
            await self._rung.wait()
        finally:
            self._idle.clear()

    async def run(self) -> None:
        """Follow the stream until cancelled."""
        while True:
            await self._idle.wait()
            try:
                found = await self._follower.read(
                    {self._stream: self._cursor, self._others: self._last or "$"}, block_ms=BLOCK_MS
                )
            except Unavailable:
                # The next take says so, patiently; without the ring an idle worker would not notice.
                self.ring()
                await asyncio.sleep(0.5)
                continue
            for name, entries in found:
                if name == self._others:
                    self._last = entries[-1][0]
                else:
                    self._cursor = entries[-1][0]
            if found:
                self.ring()
                self._idle.clear()

    async def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._follower.close()
