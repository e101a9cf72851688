"""
What a consumer does beside its turns: beat for itself, and sweep up after those that died.

A consumer is dead when the same sweeper saw its heartbeat missing in two rounds and Redis has answered this sweeper
without a gap, same server and role, its clock going as ours, for a full heartbeat: after an outage, or where the clock
was set ahead, everybody's heartbeat is gone, and nobody is dead for that.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any

from streams import log, metrics, wire
from streams.connection import Store
from streams.errors import CauceError, Unavailable
from streams.turns import HEARTBEAT_MS, Beaten, Turns
from streams.watch import Consumer, Watch

BEAT = 3.0
"""Seconds between two beats."""

ROUND = 1.5
"""Seconds between two looks at the others."""

RETRY = 0.3
"""Seconds after which a beat that did not get through is tried again."""

STEP = 1.0
"""Seconds by which Redis's clock may gain on ours between two looks; more, and it was set."""


class Broken(CauceError):
    """This process cannot do its work any more and had better be started anew."""


class Housekeeping:
    """The rounds of one consumer."""

    def __init__(self, store: Store, turns: Turns, watch: Watch, resources: Any) -> None:
        self._store = store
        self._turns = turns
        self._watch = watch
        describe: Callable[[], dict[str, Any]] | None = getattr(resources, "describe", None)
        self._describe = describe if store.keys.shard == 0 else None  # a model is there once for all shards
        self._drop: Callable[[], None] = getattr(resources, "forget", lambda: None)
        self._erased = b""
        self._working: Callable[[], bool] = getattr(resources, "ready", lambda: True)
        self._log = log.get(turns.group.name)
        self._missing: set[Consumer] = set()
        self._server: str | None = None
        self._said_unknown = False
        self._steady_since = float("inf")
        self._ahead = float("inf")
        """By how much Redis's clock was ahead of ours at the last look, at most."""
        self._beaten = float("-inf")

    @property
    def fresh(self) -> bool:
        """The last beat is younger than a heartbeat lives."""
        return asyncio.get_running_loop().time() - self._beaten < HEARTBEAT_MS / 1000

    async def run(
        self,
        held: Callable[[], list[str]],
        told: Callable[[Beaten], None],
    ) -> None:
        """
        Go the rounds until cancelled.

        Args:
            held: the tokens of the leases we hold now.
            told: called with what each beat brought; what was settled while we named it is lost, too.
        """
        # Apart: whatever holds up a look at the others must not hold up our own sign of life.
        async with asyncio.TaskGroup() as rounds:
            rounds.create_task(self._beats(held, told))
            rounds.create_task(self._looks())

    async def _beats(self, held: Callable[[], list[str]], told: Callable[[Beaten], None]) -> None:
        while True:
            if not self._working():
                # The model's thread is dead, say: whoever watches this process starts it anew.
                raise Broken(f"the resources of group {self._turns.group.name} no longer work")
            try:
                await self._beat(held, told)
                wait = _jittered(BEAT)
            except Unavailable as error:
                self._log.debug("round.skipped", why=str(error))
                wait = RETRY
            await self._rest(wait)

    async def _looks(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            try:
                await self._sweep()
            except Unavailable as error:
                self._log.debug("round.skipped", why=str(error))
                self._forget()
            await self._rest(_jittered(ROUND))
            if loop.time() - started > HEARTBEAT_MS / 1000:
                # We were stopped or blocked: our own view of who is silent is worth nothing now.
                self._forget()

    def _forget(self) -> None:
        self._missing, self._steady_since = set(), float("inf")

    async def _beat(self, held: Callable[[], list[str]], told: Callable[[Beaten], None]) -> None:
        beaten = await self._turns.beat(held())
        self._beaten = asyncio.get_running_loop().time()
        told(beaten)
        if beaten.erased != self._erased:
            # After what it was told it has lost: what is kept of that goes as well.
            self._erased = beaten.erased
            self._drop()
        if self._describe is not None:
            key = self._store.keys.of("model", self._turns.consumer)
            # A full Redis refuses it, and the beat has been heard all the same.
            await self._store.pipeline([("SET", key, wire.encode(self._describe()), "PX", HEARTBEAT_MS)])

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        *told, clock = await self._store.pipeline([("INFO", "server"), ("INFO", "replication"), ("TIME",)])
        server, seconds = self._identity(told), int(clock[0]) + int(clock[1]) / 1e6
        if server != self._server or seconds - loop.time() > self._ahead + STEP:
            self._server, self._steady_since, self._missing = server, now, set()
        self._ahead = seconds - now
        self._steady_since = min(self._steady_since, now)
        silent = await self._watch.silent() - {Consumer(self._turns.group.name, self._turns.consumer)}
        if now - self._steady_since >= HEARTBEAT_MS / 1000:
            for dead in silent & self._missing:
                freed = await self._watch.sweep(dead)
                if freed is not None:
                    metrics.RECOVERIES.labels(dead.group).inc(freed)
                    self._log.warning("worker.swept", group=dead.group, consumer=dead.name, turns=freed)
        self._missing = silent

    async def _rest(self, seconds: float) -> None:
        """And measure by how much longer it was: what held the loop."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        await asyncio.sleep(seconds)
        metrics.loop_lag(self._turns.group.name, loop.time() - due)

    def _identity(self, replies: list[Any]) -> str:
        """Which server answers, and in which role; empty where this Redis tells nobody, or not us."""
        told = b"".join(reply for reply in replies if isinstance(reply, bytes)).decode(errors="replace")
        found = " ".join(line for line in told.splitlines() if line.startswith(("run_id:", "role:")))
        if not found and not self._said_unknown:
            self._said_unknown = True
            self._log.warning("redis.unnamed", hint="this user may not run INFO: a failover goes unnoticed")
        return found


def _jittered(seconds: float) -> float:
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - jitter, not a secret
