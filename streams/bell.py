"""
What an idle worker sleeps on, until something is appended, a key's time has come, or somebody rings.

One blocking read on a connection of its own, at most 2 s long.  Behind it, on the same connection, may lie the take
that is to follow: Redis carries it out the moment it wakes the read, so that a message is taken without a further
round trip.  While the worker is busy the bell is silent, however much is appended.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from typing import Any

from streams.connection import Store, entries, order
from streams.errors import Unavailable
from streams.line import Argument
from streams.tables import Group

BLOCK_MS = 2_000

_PAUSE = 0.5
"""Seconds between two reads that fail."""


class Bell:
    """
    Rings for one consumer of one group.

    Args:
        newer: told of each lease of ours whose turn is superseded, by whoever has read the message that does it.
    """

    def __init__(
        self, store: Store, group: Group, consumer: str, newer: Callable[[str], None] = lambda _token: None
    ) -> None:
        self._newer = newer
        self._store = store
        self._follower = store.follower()
        self._stream = store.keys.stream(group.reads)
        self._others, self._own = store.keys.of("bell", group.name), store.keys.of("bell", consumer)
        """Other processes ring the first: a reply that egress held back for a request may go, or need not."""
        self._cursor = self._taken = self._own_last = "0-0"
        self._others_last: str | None = None
        self._rung = False
        self._due = math.inf
        """When a key's time comes, on the loop's clock."""
        self._until = -math.inf
        """Until when the read under way lasts, if nothing ends it."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf
        """When it rings; uvloop's own handle of a time that has come cannot say so."""
        self._ringing: asyncio.Task[None] | None = None
        self._failed = -math.inf

    @property
    def rung(self) -> bool:
        """There may be something to take, since the last `hush`."""
        return self._rung or self._due <= asyncio.get_running_loop().time()

    @property
    def asleep(self) -> bool:
        return self._until > -math.inf

    def ring(self) -> None:
        """Wake the worker now."""
        self._rung = True
        if self.asleep and self._ringing is None:
            self._ringing = asyncio.create_task(self._wake())

    def ring_in(self, ms: int) -> None:
        """Wake it in so many milliseconds, or earlier; a negative number is never."""
        if ms < 0:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + ms / 1000
        self._due = min(self._due, at)
        if at < min(self._until, self._timer_at):
            self._silence()
            self._timer, self._timer_at = loop.call_at(at, self.ring), at

    def hush(self) -> None:
        """Before a take: what rang until now is answered by it."""
        self._rung, self._due = False, math.inf

    async def wait(self, cursor: str, now_ms: int, then: Sequence[Argument] = ()) -> Any:
        """
        Return when there may be something to take after `cursor`, or a time that `ring_in` was told has come.

        Args:
            now_ms: Redis's clock at the take; what others rang before it is answered by it.
            then: a command that Redis carries out at that moment.

        Returns:
            its reply; None where there is none, whether or not Redis carried it out.
        """
        if self.rung:
            return None
        # Not back to where it has rung before: that take has read all there was, and what it did not get is not ours
        # (a group whose position somebody has set by hand).
        went_back, self._taken = order(cursor) < order(self._taken), cursor
        self._cursor = cursor if went_back else max(cursor, self._cursor, key=order)
        self._others_last = self._others_last or f"{now_ms - 1}-0"
        now = asyncio.get_running_loop().time()
        self._until = min(now + BLOCK_MS / 1000, self._due)
        self._due = math.inf
        after = {self._stream: self._cursor, self._others: self._others_last, self._own: self._own_last}
        try:
            found, reply = await self._follower.read_then(after, max(1, math.ceil((self._until - now) * 1000)), then)
        except Unavailable:
            return await self._failing()
        finally:
            self._until = -math.inf
            self._silence()
        for told, some in found:
            name, newest = told.decode(), some[-1][0].decode()
            if name == self._own:
                self._own_last = newest
                for token in [fields["newer"] for _, fields in entries(some) if "newer" in fields]:
                    self._newer(token.decode())
            elif name == self._others:
                self._others_last = newest
            else:
                self._cursor = newest
        return reply

    async def _failing(self) -> None:
        """The next take says so, patiently; but where it works and this does not, not without a pause."""
        loop = asyncio.get_running_loop()
        if loop.time() - self._failed < _PAUSE:
            await asyncio.sleep(_PAUSE)
        self._failed = loop.time()

    async def _wake(self) -> None:
        """By an entry that the read follows, which cannot come too early for it."""
        try:
            added, _ = await self._store.pipeline(
                [("XADD", self._own, "MAXLEN", "~", 1000, "*", "ring", 1), ("EXPIRE", self._own, 3600)]
            )
        except Unavailable as error:
            added = error
        self._ringing = None
        if isinstance(added, Exception):  # Redis is full, say
            await self._follower.close()

    def _silence(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, math.inf

    async def hang_up(self) -> None:
        """End the read under way, whether Redis answers or not."""
        self._rung = True
        await self._follower.close()

    async def close(self) -> None:
        self._silence()
        if self._ringing is not None:
            self._ringing.cancel()
        await self._follower.close()
