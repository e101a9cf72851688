"""
What a consumer does beside its turns: beat for itself, and sweep up after those that died.

A consumer is dead when the same sweeper saw its heartbeat missing in two rounds and Redis has answered this sweeper
without a gap, same server and role, for a full heartbeat: after an outage everybody's heartbeat is gone, and nobody is
dead for that.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from streams import log, metrics, wire
from streams.connection import Store
from streams.errors import CauceError, Unavailable
from streams.turns import HEARTBEAT_MS, Turns

ROUND = 1.5
"""Seconds between two rounds; every second one beats."""


class Broken(CauceError):
    """This process cannot do its work any more and had better be started anew."""


class Housekeeping:
    """The rounds of one consumer."""

    def __init__(self, store: Store, turns: Turns, resources: Any) -> None:
        self._store = store
        self._turns = turns
        self._describe: Callable[[], dict[str, Any]] | None = getattr(resources, "describe", None)
        self._working: Callable[[], bool] = getattr(resources, "ready", lambda: True)
        self._log = log.get(turns.group.name)
        self._missing: set[str] = set()
        self._server = ""
        self._steady_since = float("inf")
        self._beaten = float("-inf")

    @property
    def fresh(self) -> bool:
        """The last beat is younger than a heartbeat lives."""
        return asyncio.get_running_loop().time() - self._beaten < HEARTBEAT_MS / 1000

    async def run(
        self,
        held: Callable[[], list[str]],
        lose: Callable[[str], None],
        ring_in: Callable[[int], None],
    ) -> None:
        """
        Go the rounds until cancelled.

        Args:
            held: the tokens of the leases we hold now.
            lose: called with each of them that is no longer ours.
            ring_in: called with the milliseconds until the next key is due.
        """
        loop = asyncio.get_running_loop()
        number = 0
        while True:
            started = loop.time()
            if not self._working():
                # The model's thread is dead, say: whoever watches this process starts it anew.
                raise Broken(f"the resources of group {self._turns.group.name} no longer work")
            try:
                if number % 2 == 0:
                    await self._beat(held, lose, ring_in)
                await self._sweep(ring_in)
            except Unavailable as error:
                self._log.debug("round.skipped", why=str(error))
                self._missing, self._steady_since = set(), float("inf")
            number += 1
            wait = ROUND * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
            due = loop.time() + wait
            await asyncio.sleep(wait)
            metrics.loop_lag(loop.time() - due)
            if loop.time() - started > HEARTBEAT_MS / 1000:
                # We were stopped or blocked: our own view of who is silent is worth nothing now.
                self._missing, self._steady_since = set(), float("inf")

    async def _beat(
        self, held: Callable[[], list[str]], lose: Callable[[str], None], ring_in: Callable[[int], None]
    ) -> None:
        named = held()
        lost, next_due_ms = await self._turns.beat(named)
        self._beaten = asyncio.get_running_loop().time()
        for token in lost:
            self._log.warning("lease.lost", token=token)
            lose(token)
        ring_in(next_due_ms)
        if self._describe is not None:
            key = self._store.keys.of("model", self._turns.consumer)
            await self._store.command("SET", key, wire.encode(self._describe()), "PX", HEARTBEAT_MS)

    async def _sweep(self, ring_in: Callable[[int], None]) -> None:
        now = asyncio.get_running_loop().time()
        server = _identity(await self._store.pipeline([("INFO", "server"), ("INFO", "replication")]))
        if server != self._server:
            self._server, self._steady_since, self._missing = server, now, set()
        self._steady_since = min(self._steady_since, now)
        silent = await self._turns.silent()
        if now - self._steady_since >= HEARTBEAT_MS / 1000:
            for consumer in silent & self._missing:
                freed = await self._turns.sweep(consumer)
                if freed is not None:
                    self._log.warning("worker.swept", consumer=consumer, turns=freed)
                    ring_in(0)
        self._missing = silent


def _identity(replies: list[Any]) -> str:
    """Which server answers, and in which role."""
    found = []
    for reply in replies:
        if not isinstance(reply, bytes):
            raise Unavailable(f"Redis does not say who it is: {reply}")
        found += [line for line in reply.decode().splitlines() if line.startswith(("run_id:", "role:"))]
    return " ".join(found)
