"""
Who is killed when, and started again: kill -9 of ingress, inference, egress and Redis at random, under a load.

Everything random comes from the seed; what really met what depends on the machine.  Whoever is killed is started again
after a pause, again and again where Redis is away just then, as a supervisor would.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from conftest import Server
from pipeline import Ended, Pipeline, group_of, pipeline

from streams.connection import order
from tests.faults import evidence
from tests.faults.checker import Evidence, Violation, violations
from tests.faults.load import Load

TOKEN = "a-token-for-those-who-post-and-read"
PROCESSES = ("ingress", "inference", "inference2", "egress", "egress2")
QUIET_WITHIN = 60.0
"""Seconds after the last fault and the last message in which all has to be delivered."""


@dataclass
class Kill:
    """One kill -9.  Unix seconds."""

    name: str
    at: float
    again: float = 0.0
    """When it was started again."""
    back: float = 0.0
    """When it could serve again."""


@dataclass
class Run:
    """What came of it."""

    seed: int
    kills: list[Kill]
    evidence: Evidence
    violations: list[Violation]
    answers: dict[str, int]
    seconds: float
    """From the first message to the last delivery."""
    recoveries: dict[str, list[float]] = field(default_factory=dict)
    """Whom it befell → seconds until what it held up was done."""


class Crashes:
    """
    Args:
        every: seconds between two kills, about.
    """

    def __init__(self, whole: Pipeline, server: Server, *, seed: int, every: float) -> None:
        self.kills: list[Kill] = []
        self._whole, self._server, self._every = whole, server, every
        self._random = random.Random(seed)  # noqa: S311 - seeded randomness is the point
        self._again: set[asyncio.Task[None]] = set()
        self._down: set[str] = set()

    async def run(self) -> None:
        """Until cancelled; each is killed once before one is killed again."""
        while True:
            victims = ["redis", *PROCESSES]
            self._random.shuffle(victims)
            for victim in victims:
                await asyncio.sleep(self._every * self._random.uniform(0.4, 1.6))
                if victim not in self._down:
                    self._again.add(asyncio.create_task(self._kill(victim, self._random.uniform(0, 2))))

    async def all_back(self) -> None:
        """Whoever is down is up again."""
        await asyncio.gather(*self._again)

    async def _kill(self, victim: str, pause: float) -> None:
        self._down.add(victim)
        kill = Kill(victim, time.time())
        self.kills.append(kill)
        await (asyncio.to_thread(self._server.kill) if victim == "redis" else self._whole.kill(victim))
        await asyncio.sleep(pause)
        kill.again = time.time()
        await (asyncio.to_thread(self._server.start) if victim == "redis" else self._start(victim))
        kill.back = time.time()
        self._down.discard(victim)

    async def _start(self, victim: str) -> None:
        while True:
            try:
                return await self._whole.start(victim)
            except Ended:
                await asyncio.sleep(0.5)  # Redis is away, and it has said so


async def crash_loop(
    server: Server, *, people: int, messages: int, rate: float, seed: int, every: float, latency: float = 0.2,
    progress: Callable[[Load, Crashes], None] = lambda _load, _crashes: None,
) -> Run:  # fmt: skip
    """
    A load, crashes until all of it has been taken, and everything checked once all is quiet.

    Args:
        every: seconds between two kills, about.
        latency: seconds that a reply, and its delivery, take, so that there is something to be killed in.
        progress: called a few times a second.
    """
    longest = max(1000, 20 * messages // people)
    async with pipeline(
        server, *PROCESSES,
        streams=f"[history]\nmax_messages = {longest}\n",
        ENVIRONMENT="production", INGRESS_TOKENS=TOKEN, OPERATOR_TOKENS=f"{TOKEN}-of-operators",
        MODEL=f"echo?latency={latency}", DEBOUNCE="0.1", RATE_LIMIT_PER_MINUTE="0", SESSION_EXPIRE_TIME="86400",
    ) as whole:  # fmt: skip
        whole.sink.plan(delay=latency, count=None)
        load = Load(
            whole.url, people=people, messages=messages, rate=rate, seed=seed,
            headers={"Authorization": f"Bearer {TOKEN}"},
        )  # fmt: skip
        crashes = Crashes(whole, server, seed=seed, every=every)
        start = time.time()
        speaking, killing = asyncio.create_task(load.run()), asyncio.create_task(crashes.run())
        try:
            while not (await asyncio.wait({speaking, killing}, timeout=0.3, return_when=asyncio.FIRST_COMPLETED))[0]:
                progress(load, crashes)
        finally:
            killing.cancel()
            speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=False)
        await crashes.all_back()
        await _until_quiet(whole, lambda: progress(load, crashes))
        found = await evidence.gather(whole, load.said)
    return Run(
        seed=seed, kills=crashes.kills, evidence=found, violations=violations(found), answers=dict(load.answers),
        seconds=max((each.at for each in found.deliveries), default=start) - start,
        recoveries=recoveries(crashes.kills, found),
    )  # fmt: skip


async def _until_quiet(whole: Pipeline, look: Callable[[], None]) -> None:
    """Until nothing is left to do, or it takes too long: then the checker says what is left."""
    until = time.monotonic() + QUIET_WITHIN
    while time.monotonic() < until and not await evidence.quiet(whole.store):
        await asyncio.sleep(0.2)  # only Redis knows
        look()


def recoveries(kills: list[Kill], found: Evidence) -> dict[str, list[float]]:
    """
    How long each kill held up what was under way: from the kill (of Redis: from its return) until the last of the
    messages that were taken and not answered then was answered, or of the replies delivered; of the ingress, from when
    it was started again until it took one.  Where another kill fell into that time, its delay is in it as well.
    """
    waited: dict[str, list[float]] = {}
    taken = {(each.person, each.message_id): order(each.id)[0] / 1000 for each in found.inbound}
    answered = {(each.person, id): order(each.entry)[0] / 1000 for each in found.outbound for id in each.in_reply_to}
    spans = {
        "inference": [(at, answered[key]) for key, at in taken.items() if key in answered],
        "egress": _deliveries(found),
    }
    spans["redis"] = [*spans["inference"], *spans["egress"]]
    for kill in kills:
        group = group_of(kill.name)
        since = kill.back if group == "redis" else kill.at
        if group == "ingress":
            since = kill.again
            ends = [min((at for at in taken.values() if at > since), default=since)]
        else:
            ends = [end for begin, end in spans[group] if begin < kill.at < end]
        waited.setdefault(group, []).append(max([0.0, *(end - since for end in ends)]))
    return waited


def _deliveries(found: Evidence) -> list[tuple[float, float]]:
    first: dict[str, float] = {}
    for delivery in found.deliveries:
        if delivery.taken:
            first.setdefault(delivery.id, delivery.at)
    return [(order(reply.entry)[0] / 1000, first[reply.id]) for reply in found.outbound if reply.id in first]
