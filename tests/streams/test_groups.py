"""The groups that Redis knows, and forgetting one."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import Server
from protocol import a_consumer, a_topology, end, ids, kill, nothing, redis_ms, say

from streams import groups
from streams.connection import Store
from streams.effects import Handler
from streams.errors import Unavailable
from streams.groups import Registration, drop, registered, roll
from streams.retention import trim
from streams.stores import Stores
from streams.turns import Turns

DAY = 86_400_000


async def leavings(store: Store) -> list[bytes]:
    """All keys that are of a group."""
    return sorted(await store.command("KEYS", "*group*"))


async def worked(store: Store, people: int = 3) -> None:
    """Group `g` died with one turn in work, one parked, one not taken, and one not read."""
    turns = await a_consumer(store)
    for n in range(people):
        await say(store, f"+{n}")
    _, *others = (await turns.take(2, 2000, 1)).grants
    for grant in others:
        await end(turns, grant, delay_ms=60_000)
    await say(store, "+9")
    await kill(store, turns)


async def test_a_dropped_group_leaves_nothing_and_holds_nothing_back(each_store: Store) -> None:
    # Given a group that nobody consumes, and a stream of its unsettled entries older than `keep`
    now = await redis_ms(each_store)
    turns = await a_consumer(each_store)
    await say(each_store, "+1", id=f"{now - 9 * DAY}-0")
    await turns.take(1, 200, 1)
    await say(each_store, "+2", id=f"{now - 8 * DAY}-0")
    await kill(each_store, turns)
    assert (await trim(each_store, a_topology()))["inbound"] == 0
    # When it is dropped
    await drop(Stores.alone(each_store), "inbound", "g")
    # Then no key of it is left, and retention waits for it no longer
    assert await leavings(each_store) == []
    assert await each_store.command("XINFO", "GROUPS", "inbound") == []
    assert (await trim(each_store, a_topology()))["inbound"] == 2


async def test_dropping_tells_how_many_people_waited_and_again_changes_nothing(each_store: Store) -> None:
    await worked(each_store)
    assert await drop(Stores.alone(each_store), "inbound", "g") == 3
    before = sorted(await each_store.command("KEYS", "*"))
    assert await drop(Stores.alone(each_store), "inbound", "g") == 0
    assert sorted(await each_store.command("KEYS", "*")) == before


async def test_a_group_that_is_consumed_is_not_dropped_unless_forced(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1")
    await turns.take(1, 200, 1)
    before = await leavings(each_store)
    with pytest.raises(groups.Consumed, match="1 live worker"):
        await drop(Stores.alone(each_store), "inbound", "g")
    assert await leavings(each_store) == before
    await drop(Stores.alone(each_store), "inbound", "g", forced=True)
    left = [key for key in await leavings(each_store) if b":heartbeat:" not in key]
    assert left == []


async def test_a_drop_cut_off_in_the_middle_is_still_listed_and_the_same_drop_ends_it(
    each_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given more people than one call forgets, and a drop that ends after its first
    await worked(each_store, people=1200)
    whole, calls = Store.run, []

    async def cut(self: Store, *args: Any, **how: Any) -> Any:
        if calls:
            raise Unavailable("cut off")
        calls.append(args)
        return await whole(self, *args, **how)

    with monkeypatch.context() as cutting:
        cutting.setattr(Store, "run", cut)
        with pytest.raises(Unavailable):
            await drop(Stores.alone(each_store), "inbound", "g")
    # Then it is still listed, and what it holds back is still held back
    assert "g" in await registered(each_store)
    assert len(await leavings(each_store)) > 100
    await say(each_store, "+1")
    assert (await trim(each_store, a_topology()))["inbound"] == 0
    # And the next one ends it
    await drop(Stores.alone(each_store), "inbound", "g")
    assert await leavings(each_store) == []


async def test_a_group_is_listed_and_dropped_over_all_shards(any_server: Server, store: Store) -> None:
    # Given two shards, of which the second alone has something that waits, and has lost something
    stores = Stores.open(any_server.url, shards=2)
    top = a_topology()
    for shard in stores:
        await Turns(shard, top, top.groups["g"], Handler(handle=nothing)).open()
    last = list(stores)[1]
    await last.command("XADD", last.keys.stream("inbound"), "*", "key", "+1")
    await last.command("SET", last.keys.group("skipped", "g"), "7")
    [g] = await roll(stores, top)
    assert (g.lag, g.skipped) == (1, 7)
    await drop(stores, "inbound", "g")
    assert await leavings(store) == []
    await stores.close()


async def test_a_full_redis_lets_a_group_be_dropped(each_store: Store) -> None:
    await worked(each_store)
    await each_store.command("CONFIG", "SET", "maxmemory", "1")
    try:
        await drop(Stores.alone(each_store), "inbound", "g")
    finally:
        await each_store.command("CONFIG", "SET", "maxmemory", "0")
    assert await leavings(each_store) == []


async def test_a_dropped_group_that_comes_back_begins_where_it_is_told_to(each_store: Store) -> None:
    await worked(each_store)
    await drop(Stores.alone(each_store), "inbound", "g")
    turns = await a_consumer(each_store)
    assert len((await turns.take(9, 200, 1)).grants) == 4


async def test_the_roll_names_whoever_is_registered_or_described(each_store: Store) -> None:
    # Given a group that nobody consumes, one that was taken out of streams.toml, and one that has never started
    await worked(each_store)
    await each_store.command("HSET", "groups", "gone", '{"reads":"outbound","handler":"x:y"}')
    await each_store.command("SET", "group:gone:skipped", "7")
    top = a_topology(max_backlog=100)
    top.groups["new"] = groups.Group(name="new", reads="outbound", handler="a:b", when_full="skip")
    g, gone, new = await roll(Stores.alone(each_store), top)
    assert (g.name, g.stream, g.registered, g.workers, g.lag, g.max_backlog) == ("g", "inbound", True, 0, 4, 100)
    assert 0 < g.oldest_s < 60
    assert "`cauce group drop inbound g`" in g.deserted
    assert (gone.name, gone.described, gone.skipped) == ("gone", False, 7)
    assert "not in streams.toml" in gone.deserted
    assert (new.name, new.registered, new.when_full, new.deserted) == ("new", False, "skip", "")


async def test_a_group_that_is_consumed_is_not_complained_of(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await turns.take(1, 200, 1)
    [g] = await roll(Stores.alone(each_store), a_topology())
    assert (g.workers, g.deserted) == (1, "")


async def test_what_streams_toml_says_now_counts_but_for_the_stream(each_store: Store) -> None:
    await a_consumer(each_store)
    top = a_topology(writes=[], when_full="skip")
    assert (await registered(each_store, top))["g"].when_full == "skip"
    top.groups["g"].reads = "outbound"
    assert (await registered(each_store, top))["g"] == Registration("inbound", "nowhere:nothing")


async def test_somebody_elses_value_in_our_table_is_no_group(each_store: Store) -> None:
    await each_store.command("HSET", "groups", "odd", "no json")
    assert await registered(each_store) == {}
    assert await ids(each_store) == []
