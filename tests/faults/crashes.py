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
from dataclasses import dataclass

from conftest import Server
from pipeline import Ended, Pipeline, group_of

from streams.connection import order
from tests.faults.checker import Evidence
from tests.faults.load import Load
from tests.faults.trial import PROCESSES, Trial, trial

SAID_WHY = 2
"""The exit status of a process that cannot start, and has said in one line why."""


@dataclass
class Kill:
    """One kill -9.  Unix seconds."""

    name: str
    at: float
    again: float = 0.0
    """When it was started again."""
    back: float = 0.0
    """When it could serve again."""


Look = Callable[[int, int], None]
"""Called a few times a second with the messages taken and the kills so far."""


class Crashes:
    """
    Args:
        every: seconds between two kills, about.
    """

    def __init__(self, server: Server, *, seed: int, every: float) -> None:
        self.kills: list[Kill] = []
        self._server, self._every = server, every
        self._random = random.Random(seed)  # noqa: S311 - seeded randomness is the point
        self._again: set[asyncio.Task[None]] = set()
        self._down: set[str] = set()

    async def run(self, whole: Pipeline, load: Load, look: Look) -> None:
        """Until cancelled; each is killed once before one is killed again, and whoever is down then comes back."""
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._all(whole))
                both.create_task(self._looks(load, look))
        finally:
            await asyncio.gather(*self._again)
            look(load.done, len(self.kills))

    async def _looks(self, load: Load, look: Look) -> None:
        while True:
            look(load.done, len(self.kills))
            await asyncio.sleep(0.3)

    async def _all(self, whole: Pipeline) -> None:
        while True:
            victims = ["redis", *PROCESSES]
            self._random.shuffle(victims)
            for victim in victims:
                await asyncio.sleep(self._every * self._random.uniform(0.4, 1.6))
                if victim not in self._down:
                    self._again.add(asyncio.create_task(self._kill(whole, victim, self._random.uniform(0, 2))))

    async def _kill(self, whole: Pipeline, victim: str, pause: float) -> None:
        self._down.add(victim)
        kill = Kill(victim, time.time())
        self.kills.append(kill)
        await (asyncio.to_thread(self._server.kill) if victim == "redis" else whole.kill(victim))
        await asyncio.sleep(pause)
        kill.again = time.time()
        await (asyncio.to_thread(self._server.start) if victim == "redis" else _started(whole, victim))
        kill.back = time.time()
        self._down.discard(victim)


async def _started(whole: Pipeline, victim: str) -> None:
    while True:
        try:
            return await whole.start(victim)
        except Ended:
            ended = whole.processes[victim]
            assert await ended.child.wait() == SAID_WHY, f"{victim} {ended.how_it_ended}"
            await asyncio.sleep(0.5)  # Redis is away


async def crash_loop(
    server: Server, *, people: int, messages: int, rate: float, seed: int, every: float, latency: float = 0.2,
    look: Look = lambda _done, _kills: None,
) -> tuple[Trial, list[Kill]]:  # fmt: skip
    """
    A load, and crashes until all of it has been taken.

    Args:
        every: seconds between two kills, about.
    """
    crashes = Crashes(server, seed=seed, every=every)
    ended = await trial(
        server, lambda whole, load: crashes.run(whole, load, look),
        people=people, messages=messages, rate=rate, seed=seed, latency=latency,
    )  # fmt: skip
    return ended, crashes.kills


HEARD = ("202 accepted", "202 accepted, again", "200 webhook", "200 webhook, again", "200 replied")
"""What clients hear where messages come in each of the ways there are."""

HANDED_ON = 5.0
"""Seconds: less than it takes to find a worker dead, more than anything takes that nobody holds."""


WORKING = ("inference", "egress")
"""The groups whose turns a kill may hold up."""


@dataclass
class Recovery:
    """How long a kill held up what was under way."""

    group: str
    seconds: float
    anew: float
    """The same from the last kill of Redis or of a worker of such turns within that time, which began it anew."""


def recoveries(kills: list[Kill], found: Evidence) -> list[Recovery]:
    """
    From each kill (of Redis: from its return) until the last of the messages that were taken and not answered then was
    answered, or the last of such replies delivered, for good; of the ingress, from when it was started again until it
    took one.
    """
    waited = []
    taken = {(each.person, each.message_id): order(each.id)[0] / 1000 for each in found.inbound}
    answered = {(each.person, id): order(each.entry)[0] / 1000 for each in found.outbound for id in each.in_reply_to}
    spans = {
        "inference": [(at, answered[key]) for key, at in taken.items() if key in answered],
        "egress": _deliveries(found),
    }
    spans["redis"] = [*spans["inference"], *spans["egress"]]
    for kill in kills:
        group = group_of(kill.name)
        since = _begins(kill)
        if group == "ingress":
            ends = [min((at for at in taken.values() if at > since), default=since)]
        else:
            ends = [end for begin, end in spans[group] if begin < kill.at < end]
        end = max([since, *ends])
        held_up = ("redis", *WORKING) if group == "redis" else ("redis", group)
        begun = [_begins(other) for other in kills if group_of(other.name) in held_up and other.at < end]
        waited.append(Recovery(group, end - since, max(0.0, end - max([since, *begun]))))
    return waited


def _begins(kill: Kill) -> float:
    """From when on it can be recovered from: a worker's death by the others, Redis's once it is back."""
    return {"redis": kill.back, "ingress": kill.again}.get(group_of(kill.name), kill.at)


def idle(ended: Trial, kills: list[Kill]) -> list[str]:
    """What a run has not tried: who was never killed, what no client was ever told, whose death took nothing along."""
    recovered = recoveries(kills, ended.evidence)
    killed, held = {kill.name for kill in kills}, {each.group for each in recovered if each.seconds > HANDED_ON}
    return [
        *(f"{name} was never killed" for name in ("redis", *PROCESSES) if name not in killed),
        *(f"nobody heard {answer!r}" for answer in HEARD if answer not in ended.answers),
        *(f"no worker of {group} died with something in work" for group in WORKING if group not in held),
    ]


def by_group(recovered: list[Recovery]) -> dict[str, list[float]]:
    """Of each, the seconds."""
    groups = sorted({each.group for each in recovered})
    return {group: [each.seconds for each in recovered if each.group == group] for group in groups}


def _deliveries(found: Evidence) -> list[tuple[float, float]]:
    # The last of each: one that came again, because its worker died before it was settled, held up what is behind it.
    last = {delivery.id: delivery.at for delivery in found.deliveries if delivery.taken}
    return [(order(reply.entry)[0] / 1000, last[reply.id]) for reply in found.outbound if reply.id in last]
