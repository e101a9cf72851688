"""A master dies, or a slot moves, under load: behind sentinels and in a cluster.  The tests start all the servers."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Iterator

import pytest
from conftest import binary
from deployments import Cluster, Ground, Watched
from pipeline import Pipeline

from tests.faults.load import Load
from tests.faults.trial import trial

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


async def test_the_master_behind_sentinels_dies_and_nobody_notices(ground: Ground, seed: int) -> None:
    watched = Watched(ground, *SAFELY)

    async def failover(whole: Pipeline, load: Load) -> None:
        for dying in watched.servers:  # the one that takes over from the first dies in its turn
            await _taken(load, load.done + 200)
            await asyncio.to_thread(watched.fail_over, dying)
        await _taken(load, load.done + 200)

    ended = await trial(
        watched, failover, people=PEOPLE, rate=RATE, seed=seed, placement='durability = "replica"', latency=0.1
    )
    assert not ended.violations, ended.says()


async def test_a_master_of_the_cluster_dies_and_nobody_notices(ground: Ground, seed: int) -> None:
    cluster = Cluster(ground, *SAFELY)

    async def failover(whole: Pipeline, load: Load) -> None:
        await _taken(load, 200)
        await asyncio.to_thread(cluster.fail_over, cluster.owner("{0}"))
        await _taken(load, load.done + 300)

    placement = 'shards = 4\ndurability = "replica"'
    ended = await trial(cluster, failover, people=PEOPLE, rate=RATE, seed=seed, placement=placement, latency=0.1)
    assert not ended.violations, ended.says()


async def test_a_slot_moves_to_another_master_under_load(ground: Ground, seed: int) -> None:
    cluster = Cluster(ground, "appendonly yes", replicas=False)

    async def move(whole: Pipeline, load: Load) -> None:
        for _ in range(3):
            before = load.done
            await asyncio.to_thread(cluster.move, "{0}", slowly=0.05)
            await _taken(load, before + 200)

    ended = await trial(cluster, move, people=PEOPLE, rate=RATE, seed=seed, placement="shards = 2", latency=0.1)
    assert not ended.violations, ended.says()


async def _taken(load: Load, count: int) -> None:
    """Until so many messages have been taken."""
    async with asyncio.timeout(60):
        while load.done < count:  # noqa: ASYNC110 - a load in other hands
            await asyncio.sleep(0.1)
