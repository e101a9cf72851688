"""
Is Redis nearly full?  The ingress stops taking while the workers still have room to finish what is there.

Asks Redis now and then, beside the appends and never in their way; an idle ingress asks nothing.
"""

from __future__ import annotations

import asyncio
import contextlib

from streams.connection import Store
from streams.errors import Unavailable

SHED = 0.85
"""Of `maxmemory`; beyond it messages are refused with 503."""

EVERY = 1.0
"""Seconds for which an answer holds."""


class Pressure:
    """How full Redis is, as this process knows it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._share = 0.0
        self._looked = float("-inf")
        self._looking: asyncio.Task[None] | None = None

    def check(self) -> None:
        """
        Raises:
            Unavailable: Redis is nearly full.
        """
        if self._share >= SHED:
            self.look()
            raise Unavailable(f"Redis is at {self._share:.0%} of its maxmemory", retry_after=5)

    def look(self) -> None:
        """Ask in the background, unless somebody just has."""
        now = asyncio.get_running_loop().time()
        if self._looking is None and now - self._looked >= EVERY:
            self._looked = now
            self._looking = asyncio.create_task(self._ask())

    async def measure(self) -> float:
        """
        Ask now; the share of `maxmemory` in use, 0 where there is no limit, or we may not know.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        [told] = await self._store.pipeline([("INFO", "memory")])
        # A user without INFO is no reason to take nothing: what Redis has no room for it refuses itself.
        lines = told.decode(errors="replace").splitlines() if isinstance(told, bytes) else []
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        limit = int(fields.get("maxmemory", 0))
        self._share = int(fields.get("used_memory", 0)) / limit if limit else 0.0
        return self._share

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._looking

    async def _ask(self) -> None:
        try:
            with contextlib.suppress(Unavailable):
                await self.measure()
        finally:
            self._looking = None
