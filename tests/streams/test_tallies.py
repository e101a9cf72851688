"""Counts are committed with the acknowledgement: once, all or nothing, in bounded memory."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from conftest import Server
from protocol import a_consumer, a_topology, end, kill, nothing, say

from streams import tallies
from streams.buckets import Calendar
from streams.connection import Store
from streams.effects import Effects, Handler, Tally
from streams.endings import ending
from streams.stores import Stores
from streams.tallies import Counted
from streams.turns import Grant, Impossible, Turns

NOW = int(time.time() * 1000)
CALENDAR = Calendar()
DAY = CALENDAR.bucket("day", NOW / 1000)
PLAIN = {"order": "none", "writes": []}


def a_tally(**more: Any) -> Effects:
    return Effects(tallies=[Tally(at_ms=NOW, **more)])


async def counted(store: Store, name: str = "g") -> Counted:
    """What there is of today."""
    [found] = await tallies.read(store, name, [DAY])
    return found


async def taken(store: Store, turns: Turns, count: int) -> list[Grant]:
    for number in range(count):
        await say(store, f"+{number}")
    return (await turns.take(count, count, 1)).grants


def packed(turns: Turns, grant: Grant, effects: Effects) -> Any:
    return ending(turns._store.keys, turns.group, grant.turn, grant.token, [grant.turn.id], effects=effects)


async def test_many_turns_are_counted_in_one_act_each_once(each_store: Store) -> None:
    turns = await a_consumer(each_store, **PLAIN)
    grants = await taken(each_store, turns, 90)
    ends = [
        packed(turns, grant, a_tally(
            counts={"in": 1, f"actions.{number % 3}": 2}, distinct={"people": f"+{number % 40}"},
            timings={"reply": number * 10},
        )) for number, grant in enumerate(grants)
    ]  # fmt: skip
    await turns.settle(ends)
    # When the call is repeated, because its answer was lost
    assert {done for done, _ in await turns.settle(ends)} == {False}  # type: ignore[misc]
    # Then all of it is there once, in the minute, the hour and the day
    for bucket in CALENDAR.around(NOW):
        [found] = await tallies.read(each_store, "g", [bucket])
        assert found.counts == {"in": 90, "actions.0": 60, "actions.1": 60, "actions.2": 60}
        assert found.distinct == {"people": 40}
        assert found.timings["reply"].total() == 90
    assert await tallies.distinct(each_store, "g", "people", list(CALENDAR.around(NOW))) == 40


async def test_a_turn_that_another_has_taken_over_counts_nothing(each_store: Store) -> None:
    first = await a_consumer(each_store, **PLAIN)
    [grant] = await taken(each_store, first, 1)
    await kill(each_store, first, a_topology(**PLAIN))
    second = await a_consumer(each_store, **PLAIN)
    [again] = (await second.take(1, 1, 1)).grants
    assert (await end(first, grant, a_tally(counts={"in": 1})))[0] is False
    assert (await counted(each_store)).counts == {}
    await end(second, again, a_tally(counts={"in": 1}))
    assert (await counted(each_store)).counts == {"in": 1}


@pytest.mark.parametrize("kind", ["tally", "distinct"])
async def test_a_key_of_another_type_in_the_place_of_a_count_makes_the_turn_fail(each_store: Store, kind: str) -> None:
    turns = await a_consumer(each_store, **PLAIN)
    one, two = await taken(each_store, turns, 2)
    where = f"g:{DAY.name}" if kind == "tally" else f"g:{DAY.name}:people"
    await each_store.command("XADD", each_store.keys.of(kind, where), "*", "a", "b")
    wrong = a_tally(counts={"in": 1}, distinct={"people": "+1"})
    results = await turns.settle([packed(turns, one, wrong), packed(turns, two, Effects())])
    assert isinstance(results[0], Impossible)
    assert results[1] == (True, -1)
    assert await each_store.command("HLEN", "group:g:leases") == 1


async def test_numbers_that_somebody_spoilt_are_left_alone_and_hold_up_nothing(each_store: Store) -> None:
    turns = await a_consumer(each_store, **PLAIN)
    [grant] = await taken(each_store, turns, 1)
    await each_store.command("HSET", "tally:g:" + DAY.name, "in", "many")
    await each_store.command("SET", f"distinct:g:{DAY.name}:people", "no log")
    assert (await end(turns, grant, a_tally(counts={"in": 1, "out": 1}, distinct={"people": "+1"})))[0]
    found = await counted(each_store)
    assert (found.counts, found.distinct) == ({"out": 1}, {"people": 0})


async def test_a_bucket_holds_a_thousand_names_and_counts_the_rest_as_other(each_store: Store) -> None:
    turns = await a_consumer(each_store, **PLAIN)
    for first in range(0, 1200, 100):
        grants = await taken(each_store, turns, 1)
        await end(turns, grants[0], a_tally(counts={f"n{number}": 1 for number in range(first, first + 100)}))
    [grant] = await taken(each_store, turns, 1)
    await end(turns, grant, a_tally(counts={"n0": 1, "new": 5}))
    found = (await counted(each_store)).counts
    assert len(found) == 1001
    assert (found["n0"], found["other"], found.total()) == (2, 205, 1206)


async def test_every_count_has_an_end_from_its_time_on(each_store: Store) -> None:
    turns = await a_consumer(each_store, **PLAIN)
    one, two = await taken(each_store, turns, 2)
    await end(turns, one, a_tally(counts={"in": 1}, distinct={"people": "+1"}))
    names = sorted(name.decode() for name in await each_store.command("KEYS", "[td]*"))
    assert len([name for name in names if name.startswith(("tally:", "distinct:"))]) == 6
    ends = {name: await each_store.command("PTTL", name) for name in names if ":g:" in name}
    assert all(left > 0 for left in ends.values())
    assert 729 * 86_400_000 < ends["tally:g:" + DAY.name] <= 730 * 86_400_000
    # When it is counted again, and when something is counted that is older than what is kept
    await end(turns, two, Effects(tallies=[Tally(at_ms=NOW, counts={"in": 1}), Tally(at_ms=1, counts={"in": 1})]))
    # Then nothing lives any longer
    for name, left in ends.items():
        assert await each_store.command("PTTL", name) <= left
    assert (await counted(each_store)).counts == {"in": 2}


async def test_a_full_redis_commits_the_turn_with_its_counts(each_own_server: Server) -> None:
    store = Store.open(each_own_server.url)
    turns = await a_consumer(store, **PLAIN)
    [grant] = await taken(store, turns, 1)
    await store.command("CONFIG", "SET", "maxmemory", "1")
    assert (await end(turns, grant, a_tally(counts={"in": 1}, distinct={"people": "+1"})))[0]
    await store.command("CONFIG", "SET", "maxmemory", "0")
    found = await counted(store)
    assert (found.counts, found.distinct) == ({"in": 1}, {"people": 1})
    await store.close()


async def test_a_burial_is_counted_and_what_is_tried_again_is_not(store: Store) -> None:
    turns = await a_consumer(store, **PLAIN)
    one, two = await taken(store, turns, 2)
    await end(turns, one, a_tally(counts={"buried": 1}), bury="no use")
    await end(turns, two, a_tally(counts={"parked": 1}), delay_ms=0)
    assert (await counted(store)).counts == {"buried": 1}


async def test_groups_count_under_their_own_name_or_one_that_they_share(store: Store) -> None:
    turns = await a_consumer(store, **PLAIN, tallies="shop")
    [grant] = await taken(store, turns, 1)
    await end(turns, grant, a_tally(counts={"in": 1}))
    assert (await counted(store, "shop")).counts == {"in": 1}
    assert (await counted(store)).counts == {}
    assert tallies.writers(a_topology(tallies="shop")) == {"shop": ["g"]}


@pytest.mark.parametrize("name", ["", "a:b", "#people", "~reply", "x" * 101, "line\nbreak"])
async def test_a_name_that_could_be_taken_for_another_fails_its_turn(store: Store, name: str) -> None:
    turns = await a_consumer(store, **PLAIN)
    [grant] = await taken(store, turns, 1)
    for wrong in ({"counts": {name: 1}}, {"distinct": {name: "x"}}, {"timings": {name: 1}}):
        with pytest.raises(ValueError, match="a tally cannot be called"):
            packed(turns, grant, a_tally(**wrong))


async def test_shards_count_for_themselves_and_add_up(any_server: Server, store: Store) -> None:
    stores = Stores.open(any_server.url, shards=3)
    top = a_topology(**PLAIN)
    for shard in stores:
        turns = Turns(shard, top, top.groups["g"], Handler(handle=nothing))
        await turns.open()
        await shard.command("XADD", shard.keys.stream("inbound"), "*", "key", "+1", "body", "{}")
        [grant] = (await turns.take(1, 1, 1)).grants
        await end(turns, grant, a_tally(counts={"in": 1}, distinct={"people": f"+{shard.keys.shard}"}))
    found = await asyncio.gather(*(counted(shard) for shard in stores))
    assert [each.counts for each in found] == [{"in": 1}] * 3
    assert await store.command("EXISTS", *(f"tally:{{{shard}}}:g:{DAY.name}" for shard in range(3))) == 3
    await stores.close()
