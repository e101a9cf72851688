"""A master dies, or a slot moves, under load: behind sentinels and in a cluster.  The tests start all the servers."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterator

import pytest
from conftest import binary, sometimes
from deployments import Alone, Cluster, Ground, Watched
from pipeline import Pipeline, Redis, pipeline
from protocol import a_consumer, a_topology

from streams.errors import Unavailable
from streams.stores import Stores
from streams.watch import Watch
from tests.faults import evidence
from tests.faults.load import Load
from tests.faults.trial import both, trial

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

SAFELY = ("appendonly yes", "min-replicas-to-write 1", "min-replicas-max-lag 2")
PEOPLE, RATE = 40, 40


@pytest.fixture
def ground() -> Iterator[Ground]:
    with Ground(binary("redis-server")) as ground:
        yield ground


@pytest.fixture
def seed() -> int:
    """Printed, to repeat a failure with: SEED=…"""
    seed = int(os.environ.get("SEED") or random.randrange(10**6))  # noqa: S311 - printed, no secret
    print(f"\nSEED={seed}")  # noqa: T201 - what a failure is repeated with
    return seed


@pytest.mark.parametrize("times", sometimes([1, 2], [1]))
async def test_the_master_behind_sentinels_dies_and_nobody_notices(ground: Ground, seed: int, times: int) -> None:
    watched = Watched(ground, *SAFELY)

    async def failover(whole: Pipeline, load: Load) -> None:
        for dying in watched.servers[:times]:  # the one that takes over from the first dies in its turn
            await load.taken(200)
            await asyncio.to_thread(watched.fail_over, dying)
        await load.taken(200)

    ended = await trial(
        watched, failover, people=PEOPLE, rate=RATE, seed=seed, placement='durability = "replica"', latency=0.1
    )
    assert not ended.violations, ended.says()


async def test_a_master_of_the_cluster_dies_and_nobody_notices(ground: Ground, seed: int) -> None:
    cluster = Cluster(ground, *SAFELY)

    async def failover(whole: Pipeline, load: Load) -> None:
        await load.taken(200)
        await asyncio.to_thread(cluster.fail_over, cluster.owner("{0}"))
        await load.taken(300)

    placement = 'shards = 4\ndurability = "replica"'
    ended = await trial(cluster, failover, people=PEOPLE, rate=RATE, seed=seed, placement=placement, latency=0.1)
    assert not ended.violations, ended.says()


@pytest.mark.parametrize("times", sometimes([1, 3], [1]))
async def test_a_slot_moves_to_another_master_under_load(ground: Ground, seed: int, times: int) -> None:
    cluster = Cluster(ground, "appendonly yes", replicas=False)

    async def move(whole: Pipeline, load: Load) -> None:
        await load.taken(100)
        for _ in range(times):
            met = cluster.turned_away()
            await asyncio.to_thread(cluster.move, "{0}", slowly=0.03)
            assert cluster.turned_away() > met, "nobody met it"
            await load.taken(200)

    ended = await trial(cluster, move, people=PEOPLE, rate=RATE, seed=seed, placement="shards = 2", latency=0.1)
    assert not ended.violations, ended.says()


async def test_nobody_is_taken_for_dead_while_a_slot_under_way_lets_nobody_beat(ground: Ground) -> None:
    # Given a worker that lives, in a slot some of whose keys may be elsewhere already
    cluster = Cluster(ground, replicas=False)
    stores = Stores.open(cluster.url, patience=0.5)
    turns = await a_consumer(stores.first)
    await turns.take(1, 1, 1)
    watch = Watch(stores.first, a_topology())
    cluster.open_slot("{0}")
    # When its heartbeat ends, for a beat is turned away
    with pytest.raises(Unavailable):
        await turns.beat([])
    await stores.first.command("DEL", stores.first.keys.group("heartbeat", "g", turns.consumer))
    # Then that says nothing of it
    with pytest.raises(Unavailable):
        await watch.silent()
    # And once the slot is whole again it beats before anybody looks
    cluster.close_slot("{0}")
    await turns.beat([])
    assert await watch.silent() == set()
    await stores.close()


@pytest.mark.long
@pytest.mark.parametrize("durability", ["memory", "replica"])
async def test_what_a_failover_takes_from_memory_it_leaves_to_a_replica(ground: Ground, durability: str) -> None:
    # Given a master whose replica hears nothing any more
    watched = Watched(ground)

    async def cut_off(whole: Pipeline, load: Load) -> None:
        await load.taken(50)
        watched.replica.freeze()
        watched.master.ask("CLIENT", "KILL", "TYPE", "replica")
        await load.answered(50)  # of so many answers it hears nothing
        await asyncio.to_thread(watched.master.kill)
        watched.replica.thaw()
        # When it takes over
        await asyncio.to_thread(watched.replaced, watched.master)
        watched.master.start()
        await load.taken(50)

    lost = await _lost(watched, cut_off, durability)
    # Then what it never heard of is lost, unless its sender was told so only when a replica had it
    assert lost == 0 if durability == "replica" else lost > 0


@pytest.mark.parametrize("durability", ["memory", "fsync"])
async def test_what_a_restart_takes_from_memory_it_leaves_to_the_disk(ground: Ground, durability: str) -> None:
    alone = Alone(ground, *([] if durability == "memory" else ["appendonly yes", "appendfsync always"]))

    async def restarted(whole: Pipeline, load: Load) -> None:
        await load.taken(100)
        await asyncio.to_thread(alone.server.kill)
        await asyncio.to_thread(alone.server.start)
        await load.taken(50)

    lost = await _lost(alone, restarted, durability)
    assert lost == 0 if durability == "fsync" else lost > 0


async def _lost(redis: Redis, disturb: Callable[[Pipeline, Load], Awaitable[None]], durability: str) -> int:
    """How many of the messages that clients were told to be accepted are not on the stream."""
    async with pipeline(redis, "ingress", placement=f'durability = "{durability}"') as whole:
        load = Load(whole.url, people=PEOPLE, messages=10**9, rate=50, seed=1, token="none", duplicates=0)
        await both(load, disturb(whole, load))
        there = {each.message_id + each.person for each in await evidence.inbound(whole.stores)}
    accepted = [message for message in load.said if message.entries]
    lost = sum(message.id + message.person not in there for message in accepted)
    print(f"\n{durability}: {lost} of {len(accepted)} accepted messages lost")  # noqa: T201 - the figure
    return lost
