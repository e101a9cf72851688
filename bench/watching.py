"""A group that only looks, for the sweep over groups."""

from __future__ import annotations

from streams.effects import Effects, Turn, handler


@handler()
async def look(turn: Turn) -> Effects | None:
    """Settle the turn, and do nothing."""
    return None


@handler(batch=True)
async def look_at_many(turns: list[Turn]) -> None:
    """Nothing more, for many at once."""
