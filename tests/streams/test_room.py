"""What the workers of one process share."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Server, emptied
from protocol import kill, nothing

from streams import topology
from streams.connection import Store
from streams.effects import Handler, Turn
from streams.keys import shard_of
from streams.room import Room, Suspects
from streams.stores import Stores
from streams.turns import Turns
from streams.worker import Worker


@pytest.fixture
def stores(any_server: Server) -> Stores:
    """Two shards of an empty Redis."""
    asyncio.run(emptied(any_server).close())
    return Stores.open(any_server.url, shards=2)


def two_groups() -> topology.Topology:
    group: dict[str, Any] = {"reads": "inbound", "handler": "nowhere:nothing"}
    return topology.parse({"shards": 2, "streams": {"inbound": {}}, "groups": {"g": group, "h": group}})


async def a_suspect(store: Store, top: topology.Topology, group: str) -> None:
    """Somebody whose message of this group was in work when two workers died."""
    keys = store.keys
    person = next(f"+{n}" for n in range(99) if shard_of(f"+{n}", keys.shards) == keys.shard)
    await store.command("XADD", keys.stream("inbound"), "*", "key", person, "type", "text", "body", "{}", "for", group)
    for _ in range(2):
        turns = Turns(store, top, top.groups[group], Handler(handle=nothing))
        await turns.open()
        assert len((await turns.take(5, 100, 1)).grants) == 1
        await kill(store, turns, top)


@pytest.mark.parametrize(("elsewhere", "group"), [(1, "g"), (0, "h")], ids=["in another shard", "of another group"])
async def test_a_suspect_is_alone_in_its_process(stores: Stores, elsewhere: int, group: str) -> None:
    # Given two suspects, and a process that serves both
    top, in_work, go_on = two_groups(), asyncio.Queue[str](), asyncio.Event()
    here, there = stores.first, list(stores)[elsewhere]
    await a_suspect(here, top, "g")
    await a_suspect(there, top, group)

    async def handle(turn: Turn) -> None:
        in_work.put_nowait(turn.id)
        await go_on.wait()

    suspects = Suspects()
    workers = [
        Worker(store, top, top.groups[name], Handler(handle=handle), room=Room(5, suspects=suspects))
        for store, name in ((here, "g"), (there, group))
    ]
    running = [asyncio.create_task(worker.run(5)) for worker in workers]
    # When both workers have taken what they may
    first = await asyncio.wait_for(in_work.get(), 5)
    for worker in workers:
        await worker.opened.wait()
    leases = [await here.command("HLEN", here.keys.group("leases", "g"))]
    leases += [await there.command("HLEN", there.keys.group("leases", group))]
    # Then only one is in work, and the other follows it without a beat
    assert sorted(leases) == [0, 1]
    go_on.set()
    assert await asyncio.wait_for(in_work.get(), 1) != first
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
    await stores.close()


def test_whoever_reads_on_without_a_place_is_rung_for_when_there_is_one_and_not_afterwards() -> None:
    room, rung = Room(2), list[int]()
    assert (room.some(), room.full, room.some(), room.full) == (1, False, 1, True)
    with room.ringing(lambda: rung.append(1)):
        room.back(1)
    room.back(1)
    assert (rung, room.full) == ([1], False)


class Narrow:
    """Resources that hold few."""

    def capacity(self) -> int:
        return 2


async def test_a_worker_takes_no_more_than_its_resources_hold_and_leaves_the_rest_to_others(
    any_server: Server,
) -> None:
    # Given five people who wait, and a worker whose model holds two
    store, top, release = emptied(any_server), two_groups(), asyncio.Event()
    group, held = top.groups["g"], asyncio.Queue[str]()
    for number in range(5):
        await store.command("XADD", "inbound", "*", "key", f"+{number}", "type", "text", "body", "{}")

    async def handle(turn: Turn) -> None:
        held.put_nowait(turn.key)
        await release.wait()

    async def served_elsewhere(turn: Turn) -> None:
        elsewhere.put_nowait(turn.key)

    worker = Worker(store, top, group, Handler(handle=handle), Narrow())
    running = asyncio.create_task(worker.run(5))
    async with asyncio.timeout(10):
        mine = {await held.get() for _ in range(2)}

        # When one comes that holds more
        elsewhere = asyncio.Queue[str]()
        other = Worker(store, top, group, Handler(handle=served_elsewhere))
        helping = asyncio.create_task(other.run(5))
        others = {await elsewhere.get() for _ in range(3)}

    # Then it has the other three
    assert held.empty()
    assert others.isdisjoint(mine)
    release.set()
    for each in (worker, other):
        each.stop()
    await asyncio.gather(running, helping)
    await store.close()
