"""A group that only looks, for the sweep over groups."""

from __future__ import annotations

from streams.effects import Effects, Turn, handler


@handler()
async def look(turn: Turn) -> Effects | None:
    """Settle the turn, and do nothing."""
    return None
