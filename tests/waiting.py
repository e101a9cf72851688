"""Waiting for what another process does, or what Redis comes to hold: neither rings a bell for a test."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


async def until(holds: Callable[[], Awaitable[bool]], *, within: float = 20) -> None:
    """
    Look again and again until it holds.

    Raises:
        TimeoutError: it does not within so many seconds.
    """
    async with asyncio.timeout(within):
        while not await holds():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.01)
