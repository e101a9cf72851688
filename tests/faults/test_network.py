"""
A bad network between each process and Redis, and between egress and the webhook, under a steady load.

Each fault meets the ingress, a worker of inference and one of egress, one after the other, while their twins are well;
the checker of the crash loops judges.  A fault lasts in real time, because what it tries are real timeouts.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import pytest
from conftest import Server
from pipeline import Pipeline

from ingress.append import _APPEND
from streams.turns import _BEAT, _SETTLE, _TAKE
from tests.faults.load import Load
from tests.faults.proxy import Proxy
from tests.faults.trial import trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

VICTIMS = ("ingress", "inference", "egress")
CALLS = {"ingress": (_APPEND,), "inference": (_TAKE, _SETTLE, _BEAT), "egress": (_TAKE, _SETTLE, _BEAT)}

Fault = Callable[[Proxy, str], Awaitable[None]]


def seed() -> int:
    chosen = int(os.environ.get("SEED") or random.randrange(10**6))  # noqa: S311 - printed, no secret
    print(f"\nSEED={chosen}")  # noqa: T201 - what a failure is repeated with
    return chosen


async def lasts(seconds: float) -> None:
    await asyncio.sleep(seconds)


async def cut(wire: Proxy, _: str) -> None:
    wire.cut()
    await lasts(3)


async def resets(wire: Proxy, _: str) -> None:
    for _again in range(15):
        wire.reset()
        await lasts(0.2)


async def stalls(wire: Proxy, _: str) -> None:
    wire.stall()
    await lasts(4)


async def stalls_beyond_its_heartbeat(wire: Proxy, _: str) -> None:
    wire.stall()
    await lasts(14)


async def is_slow(wire: Proxy, _: str) -> None:
    wire.slow(bytes_per_second=50_000, latency=0.1)
    await lasts(4)


async def loses_its_connections(wire: Proxy, _: str) -> None:
    for _again in range(2):
        wire.lose()
        await lasts(3)


async def half_closes(wire: Proxy, _: str) -> None:
    for _again in range(8):
        wire.half_close()
        await lasts(0.4)


async def swallows_replies(wire: Proxy, victim: str) -> None:
    for call in CALLS[victim]:
        wire.spoil(4, of=call.sha)
        await lasts(3.5)


async def cuts_replies_short(wire: Proxy, victim: str) -> None:
    for after, call in enumerate(CALLS[victim], start=1):
        wire.spoil(4, after=after * 3, of=call.sha)
        await lasts(3.5)


FAULTS = (cut, resets, stalls, stalls_beyond_its_heartbeat, is_slow, loses_its_connections, half_closes,
          swallows_replies, cuts_replies_short)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_the_network_to_redis(own_server: Server, fault: Fault) -> None:
    async with AsyncExitStack() as stack:
        wires = {name: await stack.enter_async_context(Proxy(own_server.socket)) for name in VICTIMS}

        async def disturb(whole: Pipeline, _: Load) -> None:
            await lasts(1)
            for victim, wire in wires.items():
                hits = wire.hits
                await fault(wire, victim)
                wire.heal()
                assert wire.hits > hits, f"nothing of {victim} met it"
                await lasts(0.5)

        chosen = seed()
        ended = await trial(
            own_server, disturb, people=30, rate=40, seed=chosen,
            own={name: {"REDIS_URL": wire.redis_url} for name, wire in wires.items()},
        )  # fmt: skip
    assert not ended.violations, f"SEED={chosen}: {ended.says()}"
