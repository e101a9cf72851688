"""
Redis away, emptied, restarted or failed over, a group or a stream destroyed, a process frozen: all goes on by itself.

Within 10 s, nobody restarted, one warning where there is one to give, and pages that tell the truth meanwhile.  The
seconds are printed.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Iterator

import pytest
from conftest import Server, binary
from deployments import Ground, until
from pipeline import Pipeline, Process, json_of, pipeline

from tests.faults.healing import Healed, answered_once, healing
from tests.faults.proxy import Proxy
from tests.faults.test_kills import ANA, in_work
from tests.faults.test_network import holding
from tests.faults.trial import PROCESSES, TOKEN

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

PROMISED, TAKEN_OVER = 10.0, 15.0
HEARTBEAT = 8.0
SAFELY = ("appendonly yes", "appendfsync always")
OF_A_TURN = {"turn.refused", "lease.lost"}
"""Warnings that tell of one turn and its person, not of the fault."""


def healed(found: Healed, fault: str) -> None:
    """What holds after every fault."""
    print(f"\n{fault}: the first message after it was answered in {found.seconds:.1f} s")  # noqa: T201 - the figure
    assert found.seconds < PROMISED
    assert not found.errors
    pages = {look.page: look for look in found.at_rest}
    assert {look.status for look in found.at_rest} == {200}
    assert pages["ingress/health"].told == (200, "ok", "ok")
    assert pages["ingress/metrics"].gauge("cauce_group_workers") == [2, 2]
    assert pages["ingress/metrics"].gauge("cauce_group_lag") == [0, 0]
    assert pages["ingress/metrics"].gauge("cauce_redis_up") == [1]


def warned(found: Healed) -> dict[str, dict[str, int]]:
    """Who warned of the fault, and how often."""
    return {name: told for name, events in found.warnings.items()
            if (told := {event: count for event, count in events.items() if event not in OF_A_TURN})}  # fmt: skip


def said_once(found: Healed, event: str, times: int) -> None:
    """All warnings are of this event, so many in all, and no process gave two."""
    assert list(warned(found).values()) == [{event: 1}] * times, found.warnings


async def test_redis_is_down_for_longer_than_every_heartbeat(own_server: Server) -> None:
    async def down(_: Pipeline) -> float:
        own_server.kill()
        await asyncio.sleep(HEARTBEAT + 7)  # the fault itself
        held = time.time()
        await asyncio.to_thread(own_server.start)
        return held

    found = await healing(own_server, down)
    healed(found, "Redis down for 15 s")
    assert not found.violations
    # Then each process has said once that it is lost and once that it is back, and for how long it was away
    assert warned(found) == {name: {"redis.lost": 1} for name in PROCESSES}
    assert len(found.backs) == len(PROCESSES)
    assert all(abs(seconds - (found.over - found.began)) < 2 for seconds in found.backs)
    # And no page has claimed to know what nobody could know
    assert {look.status for look in found.during("ingress/health/ready", 0.1)} == {503}
    assert {look.told for look in found.during("ingress/health", 0.1)} == {(503, "degraded", "unreachable")}
    for look in found.during("ingress/metrics", 2):
        assert look.gauge("cauce_redis_up") == [0]
        assert all(map(math.isnan, look.gauge("cauce_group_lag") + look.gauge("cauce_group_workers")))
    for name in PROCESSES[1:]:
        assert {look.status for look in found.during(f"{name}/health/ready", HEARTBEAT + 0.5)} == {503}


@pytest.mark.long
async def test_redis_is_killed_and_started_again_at_once(own_server: Server) -> None:
    async def restart(_: Pipeline) -> None:
        own_server.kill()
        await asyncio.to_thread(own_server.start)

    found = await healing(own_server, restart)
    healed(found, "Redis restarted")
    assert not found.violations
    # What is over within a second is nobody's news; on a slow machine it may be longer
    assert all(told == {"redis.lost": 1} for told in warned(found).values()), found.warnings


async def test_a_worker_is_frozen_for_longer_than_its_heartbeat(own_server: Server) -> None:
    async def freeze(whole: Pipeline) -> None:
        await holding(whole, "inference")
        whole.processes["inference"].child.send_signal(signal.SIGSTOP)
        await asyncio.sleep(HEARTBEAT + 6)  # the fault itself
        whole.processes["inference"].child.send_signal(signal.SIGCONT)

    found = await healing(own_server, freeze, latency=0.5)
    healed(found, "a worker frozen for 14 s")
    assert not found.violations
    said_once(found, "worker.swept", 1)
    # What it held when it was frozen was another's when it woke
    assert OF_A_TURN & found.warnings["inference"].keys()
    assert found.during("ingress/metrics", HEARTBEAT + 2)[-1].gauge("cauce_group_workers") == [1, 2]


@pytest.mark.long
async def test_the_groups_are_destroyed(own_server: Server) -> None:
    async def destroy(whole: Pipeline) -> None:
        for group, stream in (("inference", "inbound"), ("egress", "outbound")):
            assert await whole.store.command("XGROUP", "DESTROY", stream, group) == 1

    found = await healing(own_server, destroy)
    healed(found, "XGROUP DESTROY of both groups")
    assert not found.violations
    said_once(found, "group.recreated", 2)


@pytest.mark.long
async def test_the_scripts_are_flushed(own_server: Server) -> None:
    async def flush(whole: Pipeline) -> None:
        await whole.store.command("SCRIPT", "FLUSH")

    found = await healing(own_server, flush)
    healed(found, "SCRIPT FLUSH")
    assert not found.violations
    # Nothing was lost and nobody has waited
    assert warned(found) == {}


@pytest.mark.parametrize(
    ("loss", "groups"),
    [
        (("FLUSHALL",), 2),
        pytest.param(("DEL", "inbound"), 1, marks=pytest.mark.long),
        pytest.param(("DEL", "outbound"), 1, marks=pytest.mark.long),
    ],
    ids=["FLUSHALL", "DEL inbound", "DEL outbound"],
)
async def test_redis_loses_what_it_holds(own_server: Server, loss: tuple[str, ...], groups: int) -> None:
    waited: list[tuple[float, int, dict[str, str]]] = []

    async def lose(whole: Pipeline) -> None:
        await whole.store.command(*loss)
        start = time.monotonic()
        body = {"user_id": ANA, "message": "¿siguen ahí?", "message_id": "waits"}
        status, answer = await whole.post("/chat", body, Authorization=f"Bearer {TOKEN}", Prefer="wait=20")
        waited.append((time.monotonic() - start, status, answer))

    found = await healing(own_server, lose, duplicates=0)
    healed(found, " ".join(loss))
    said_once(found, "group.recreated", groups)
    # Then what was said afterwards is answered, and once
    [(seconds, status, answer)] = waited
    print(f"a request that waited was answered in {seconds:.1f} s")  # noqa: T201 - the figure
    assert (status, answer["reply"]) == (200, "¿siguen ahí?")
    assert seconds < PROMISED
    assert ANA not in {each.person for each in found.evidence.deliveries}
    assert answered_once(found.evidence, found.began + 0.1) == []


@pytest.fixture
def ground() -> Iterator[Ground]:
    with Ground(binary("redis-server")) as ground:
        yield ground


class Address:
    """One address, whoever is behind it."""

    def __init__(self, url: str) -> None:
        self.url = url


@pytest.mark.long
async def test_the_replica_is_promoted_behind_the_same_address(ground: Ground) -> None:
    master = ground.node(*SAFELY)
    replica = ground.node(f"replicaof 127.0.0.1 {master.port}", *SAFELY)
    replica.follows()

    async with Proxy(("127.0.0.1", master.port)) as wire:

        async def promote(_: Pipeline) -> None:
            # Whoever is connected stays connected, to what is a replica from now on.
            assert await asyncio.to_thread(master.ask, "FAILOVER") == "OK"
            await asyncio.to_thread(until, lambda: "role:slave" in master.ask("INFO", "replication"), "no failover")
            await asyncio.sleep(3)  # the fault itself: nobody has heard of it yet
            wire.lead_to(("127.0.0.1", replica.port))

        found = await healing(Address(wire.redis_url), promote)
    healed(found, "failover to a replica, the old master read-only")
    assert not found.violations
    assert warned(found) == {name: {"redis.lost": 1} for name in PROCESSES}
    assert {look.told[2] for look in found.during("ingress/health", 0.5)} == {"refusing"}
    assert {look.status for look in found.during("ingress/health/ready", 0.5)} == {503}
    assert found.during("ingress/metrics", 0)[-1].gauge("cauce_redis_up") == [0]


@pytest.mark.long
async def test_a_slow_turn_outlives_an_outage_and_frozen_sweepers(own_server: Server) -> None:
    """Every heartbeat runs out while Redis is down, and whoever would sweep wakes up when it has just come back."""
    async with pipeline(own_server, MODEL="echo?latency=25") as whole:
        await whole.say(ANA, "Hola", "m1")
        await in_work(whole, "inference")
        started = time.monotonic()
        await whole.start("inference2", "egress2")
        others = [whole.processes[name].child for name in ("inference2", "egress", "egress2")]
        # Given an outage longer than a heartbeat, in which all others are frozen
        for child in others:
            child.send_signal(signal.SIGSTOP)
        own_server.kill()
        await asyncio.sleep(HEARTBEAT + 2)  # the fault itself
        await asyncio.to_thread(own_server.start)
        for child in others:
            child.send_signal(signal.SIGCONT)
        # Then the turn ends where it began
        [delivery] = await whole.sink.received(1, seconds=40)
        assert 24 < time.monotonic() - started < 32
        assert json_of(delivery)["in_reply_to"] == ["m1"]
        said = "\n".join(line for process in whole.processes.values() for line in process.lines)
        assert not any(event in said for event in ("worker.swept", "lease.lost", "turn.refused"))


@pytest.mark.long
async def test_a_frozen_workers_turn_is_taken_over_and_it_goes_on_once_it_wakes(own_server: Server) -> None:
    async with pipeline(own_server, MODEL="echo?latency=4") as whole:
        await whole.say(ANA, "Hola", "m1")
        await in_work(whole, "inference")
        frozen = whole.processes["inference"]
        frozen.child.send_signal(signal.SIGSTOP)
        start = time.monotonic()
        await whole.start("inference2")
        # When it is silent for too long, then another answers in its place
        [delivery] = await whole.sink.received(1, seconds=TAKEN_OVER + 4)
        print(f"\na frozen worker's turn was answered in {time.monotonic() - start:.1f} s, 4 s of it generation")  # noqa: T201 - the figure
        assert json_of(delivery)["in_reply_to"] == ["m1"]
        # And what it brings when it wakes is refused, whether it commits first or beats first
        frozen.child.send_signal(signal.SIGCONT)
        await _either(frozen, "turn.refused", "lease.lost")
        # And it works on by itself
        await whole.processes.pop("inference2").end()
        await whole.say(ANA, "sigues", "m2")
        _, second = await whole.sink.received(2, seconds=PROMISED + 4)
        assert json_of(second)["in_reply_to"] == ["m2"]
        history = await whole.conversation(ANA)
        assert history is not None
        assert [line["content"] for line in history["messages"]] == ["Hola", "Hola", "sigues", "sigues"]


async def _either(process: Process, *events: str) -> None:
    """Until it says one of these."""
    saying = [asyncio.create_task(process.says(event, within=PROMISED)) for event in events]
    done, rest = await asyncio.wait(saying, return_when=asyncio.FIRST_COMPLETED)
    for task in rest:
        task.cancel()
    await asyncio.gather(*rest, return_exceptions=True)
    for task in done:
        task.result()
