"""
Is there room?  The ingress stops taking while the workers still have room to finish what is there.

Asks Redis now and then, beside the appends and never in their way; an idle ingress asks nothing.  Where there is none
it first makes some, as the workers do, for they may be away.
"""

from __future__ import annotations

import asyncio
import contextlib

from streams import backlog, memory, retention
from streams.connection import Store
from streams.errors import CauceError, Unavailable
from streams.topology import Topology

EVERY = 1.0
"""Seconds for which an answer holds."""

GULP = 0.01
"""Of `maxmemory`: after so much was appended the answer no longer holds."""


class Backlog(CauceError):
    """What was accepted is too much already, and nothing of the request was appended."""


class Pressure:
    """How full Redis and its streams are, as this process knows it."""

    def __init__(self, store: Store, topology: Topology) -> None:
        self._store = store
        self._topology = topology
        self._seen = memory.Memory()
        self._full: dict[str, str] = {}
        self._looked = self._relieved = float("-inf")
        self._appended = 0
        self._looking: asyncio.Task[None] | None = None

    @property
    def scarce(self) -> bool:
        """Redis is full enough for marks to live less long."""
        return self._seen.share >= memory.MARKS_SHORTEN

    @property
    def high(self) -> bool:
        """There was no room when it was last looked at."""
        return bool(self._full) or self._seen.share >= memory.SHED

    def fault(self, stream: str) -> CauceError | None:
        """What a message for this stream is refused with: Unavailable (Redis is nearly full), Backlog, or nothing."""
        if self._seen.share >= memory.SHED:
            return Unavailable(f"Redis is at {self._seen.share:.0%} of its maxmemory", retry_after=5)
        if self._full:
            for name in self._topology.downstream(stream):
                if name in self._full:
                    return Backlog(self._full[name])
        return None

    async def refresh(self) -> None:
        """Where there was no room, see whether there is by now: an ingress that refuses all appends nothing."""
        if self.high:
            self.look()
            if self._looking is not None:
                await asyncio.wait({self._looking})

    def look(self, appended: int = 0) -> None:
        """
        Ask in the background, unless somebody just has.

        Args:
            appended: bytes that Redis has been given; where they would soon fill it, it is asked sooner.
        """
        self._appended += appended
        now = asyncio.get_running_loop().time()
        much = self._seen.limit is not None and self._appended > self._seen.limit * GULP > 0
        if self._looking is None and (much or now - self._looked >= EVERY):
            self._looked, self._appended = now, 0
            self._looking = asyncio.create_task(self._ask())

    async def measure(self, stream: str) -> str:
        """
        Ask now; why there is no room for a message on this stream, or nothing where there is some.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        await self._measure()
        return str(self.fault(stream) or "")

    async def _measure(self) -> None:
        self._seen = await memory.look(self._store)
        self._full = await backlog.full(self._store, self._topology)

    async def relieve(self) -> bool:
        """Forget what may be forgotten, unless that was just tried; says whether anything was."""
        now = asyncio.get_running_loop().time()
        if now - self._relieved < EVERY:
            return False
        self._relieved = now
        made = await retention.make_room(self._store, self._topology, self._seen)
        if made:
            await self._measure()
        return made

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    async def _ask(self) -> None:
        try:
            with contextlib.suppress(Unavailable):
                await self._measure()
                if self.high:
                    await self.relieve()
        finally:
            self._looking = None
