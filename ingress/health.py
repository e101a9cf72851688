"""
Is it well?  Three answers: this process lives; this ingress can take messages; how the whole pipeline does.

Readiness never asks after workers or lag: an ingress that can store must stay in service while they are away.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ingress.append import INBOUND
from ingress.pressure import Pressure
from ingress.refusal import Json, Refused
from streams.connection import Store
from streams.errors import Unavailable
from streams.stores import Stores
from streams.survey import GroupView, survey
from streams.topology import Topology

PATIENCE = 2.0
"""Seconds after which Redis counts as away: whoever asks has a time limit of their own."""

SLOW = 60.0
"""Seconds that the oldest message may wait before the pipeline counts as degraded."""


class Picture(msgspec.Struct):
    """How everything does."""

    status: str
    redis: str
    """ok, full, refusing (it answers, and takes no writes of ours), unreachable."""
    groups: dict[str, dict[str, float]] = {}
    reasons: list[str] = []
    """Why it is degraded."""


class Health:
    """The three pages."""

    def __init__(self, stores: Stores, topology: Topology, pressures: Sequence[Pressure]) -> None:
        self._stores = stores
        self._topology = topology
        self._pressures = pressures

    async def live(self, _: Request) -> Response:
        """The loop turns, or this would not be answered."""
        return Json({"status": "live"})

    async def ready(self, _: Request) -> Response:
        if why := (await self._look_at_redis())[1]:
            # Whoever asks does so every few seconds; that it is not ready is their news.
            raise Refused(503, "not_ready", why, headers={"Retry-After": "2"}, told=True)
        return Json({"status": "ready"})

    async def whole(self, _: Request) -> Response:
        picture, can_append = await self.look()
        if can_append:
            return Json(picture)
        body = msgspec.to_builtins(picture) | {"error": "not_ready", "detail": "; ".join(picture.reasons)}
        return Json(body, 503, {"Retry-After": "2"})

    async def look(self) -> tuple[Picture, bool]:
        """The picture, and whether messages can be taken."""
        redis, why = await self._look_at_redis()
        reasons, views = [why] if why else [], {}
        try:
            if redis != "unreachable":  # whoever asks has waited long enough for it
                async with asyncio.timeout(PATIENCE):
                    views = await survey(self._stores, self._topology)
        except (Unavailable, TimeoutError):
            redis = "unreachable"
            reasons = reasons or ["the groups cannot be counted"]
        for name, view in views.items():
            reasons += _complaints(name, view)
        groups: dict[str, dict[str, float]] = {
            name: {"workers": view.workers, "lag": view.lag, "oldest_s": round(view.oldest_s, 3)}
            for name, view in views.items()
        }
        return Picture("degraded" if reasons else "ok", redis, groups, reasons), not why

    async def _look_at_redis(self) -> tuple[str, str]:
        """How it does, and why nothing can be appended now, not for everybody at least; empty where it can."""
        shards = zip(self._stores, self._pressures, strict=True)
        found = await asyncio.gather(*(self._look_at_shard(store, pressure) for store, pressure in shards))
        return next((trouble for trouble in found if trouble[1]), ("ok", ""))

    async def _look_at_shard(self, store: Store, pressure: Pressure) -> tuple[str, str]:
        keys = store.keys
        test = keys.of("test", secrets.token_hex(8))
        try:
            async with asyncio.timeout(PATIENCE):
                replies: list[Any] = await store.pipeline(
                    [("SET", test, "1", "PX", 10_000), ("XLEN", keys.stream(INBOUND)), ("DEL", test)]
                )
                crowded = await pressure.measure(INBOUND)
        except (Unavailable, TimeoutError) as error:
            return "unreachable", str(error) or "Redis does not answer"
        # Before what it refuses: one that is full refuses as well.
        if crowded:
            return "full", crowded
        for reply in replies:
            if isinstance(reply, Exception):
                return "refusing", f"Redis does not take writes: {reply}"
        return "ok", ""


def _complaints(name: str, view: GroupView) -> list[str]:
    found = []
    if not view.workers:
        found.append(f"group {name} has no worker")
    if view.oldest_s > SLOW:
        found.append(f"group {name}: the oldest of {view.lag} messages has waited for {view.oldest_s:.0f} s")
    return found
