"""Every process is restarted in turn under load, as a deployment does it: nobody notices."""

from __future__ import annotations

import os
import random
import time

import pytest
from conftest import Server
from pipeline import Pipeline, group_of

from bench.ports import free_port
from streams.turns import HEARTBEAT_MS
from tests.faults.checker import Evidence
from tests.faults.load import Load
from tests.faults.trial import PROCESSES, trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

ROUNDS = 3
UNHARMED = 2.0
"""Seconds by which the slow machine of a test may delay a reply while everything starts anew."""
CALM = 250
"""Messages that are taken before the first restart."""


class Restarts:
    """Everything anew, some rounds of it, after a while in which nothing happens.  Unix seconds."""

    def __init__(self) -> None:
        self.began = self.ended = 0.0
        self.said: list[str] = []
        """By the processes that there were."""

    async def run(self, whole: Pipeline, load: Load) -> None:
        await load.taken(CALM)
        self.began = time.time()
        for _ in range(ROUNDS):
            for name in (*PROCESSES, "ingress2"):
                old = whole.processes[name]
                # A port has room for one; of a group, half get their successor before they go.
                await (after if group_of(name) == "ingress" or name[-1] == "2" else before)(whole, name)
                self.said += old.lines
            await load.taken(20)
        self.ended = time.time()
        self.said += [line for process in whole.processes.values() for line in process.lines]


async def after(whole: Pipeline, name: str) -> None:
    await whole.stop(name)
    await whole.start(name)


async def before(whole: Pipeline, name: str) -> None:
    old = whole.processes.pop(name)
    await whole.start(name)
    assert await old.end() == 0, old.lines


def waits(found: Evidence, since: float, until: float) -> list[float]:
    """Seconds from when a message was first said until its reply came to the webhook, of those said in this time."""
    came = {(each.person, id): each.at for each in reversed(found.deliveries) if each.taken for id in each.in_reply_to}
    return sorted(came[key] - each.at for each in found.said if since <= each.at < until
                  if (key := (each.person, each.id)) in came)  # fmt: skip


async def test_everything_is_restarted_under_load_and_nobody_notices(own_server: Server) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))  # noqa: S311 - printed, no secret
    print(f"\nSEED={seed}")  # noqa: T201 - what a failure is repeated with
    restarts, start = Restarts(), time.time()
    ended = await trial(
        own_server, restarts.run, people=60, rate=40, seed=seed, latency=0.1,
        own={"ingress2": {"INGRESS_PORT": str(free_port())}},
    )  # fmt: skip
    assert not ended.violations, f"SEED={seed}: {ended.says()}"
    # And whoever stopped said goodbye, and had delivered what it had in work
    assert not [line for line in restarts.said if "worker.swept" in line or "left_silently" in line]
    posts = [each.id for each in ended.evidence.deliveries]
    assert len(posts) == len(set(posts))
    calm = waits(ended.evidence, start, restarts.began)
    rolling = waits(ended.evidence, restarts.began, restarts.ended)
    print(f"{len(rolling)} messages in {restarts.ended - restarts.began:.0f} s; clients heard {ended.answers}")  # noqa: T201 - the figures
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        one, other = (each[int(len(each) * share)] for each in (calm, rolling))
        print(f"{name}: {one:.2f} s before, {other:.2f} s during the restarts, {other / one:.1f} times as long")  # noqa: T201
        assert other < one + UNHARMED
    # No message had to wait for somebody to be missed
    assert rolling[-1] < HEARTBEAT_MS / 1000
