"""Nothing unsettled is ever trimmed."""

from __future__ import annotations

import asyncio

import pytest
from protocol import a_consumer, a_topology, end, ids, nothing, redis_ms, say

from streams import retention, topology
from streams.connection import Store
from streams.effects import Handler
from streams.memory import Memory
from streams.retention import trim
from streams.turns import Turns

DAY = 86_400_000


async def test_what_is_settled_and_older_than_keep_goes_and_nothing_else(each_store: Store) -> None:
    now = await redis_ms(each_store)
    turns = await a_consumer(each_store)
    old, older_unsettled, young = f"{now - 9 * DAY}-0", f"{now - 8 * DAY}-0", f"{now - DAY}-0"
    await say(each_store, "+1", id=old)
    await say(each_store, "+2", id=older_unsettled)
    await say(each_store, "+3", id=young)
    for grant in (await turns.take(5, 100, 1)).grants:
        if grant.turn.key != "+2":
            await end(turns, grant)
    assert (await trim(each_store, a_topology()))["inbound"] == 1
    assert await ids(each_store) == [older_unsettled, young]


async def test_what_a_group_has_not_even_read_stays_however_old(each_store: Store) -> None:
    now = await redis_ms(each_store)
    await a_consumer(each_store)
    await say(each_store, "+1", id=f"{now - 30 * DAY}-0")
    assert (await trim(each_store, a_topology()))["inbound"] == 0


@pytest.mark.parametrize("behind", ["first", "last"])
@pytest.mark.parametrize("done", [0, 4])
async def test_what_one_group_has_not_settled_stays_whatever_the_others_have(
    each_store: Store, behind: str, done: int
) -> None:
    # Given old entries that two of three groups have settled, and the third so many of them
    table = {"reads": "inbound", "handler": "nowhere:nothing"}
    top = topology.parse({"streams": {"inbound": {}}, "groups": dict.fromkeys(("first", "middle", "last"), table)})
    long_ago = await redis_ms(each_store) - 30 * DAY
    said = [await say(each_store, f"+{n}", id=f"{long_ago}-{n}") for n in range(10)]
    for name in top.groups:
        turns = Turns(each_store, top, top.groups[name], Handler(handle=nothing))
        await turns.open()
        for grant in (await turns.take(20, 100, 1)).grants[: done if name == behind else None]:
            await end(turns, grant)
    # Then just those go, also where the stream is at its cap and Redis is full
    top.streams["inbound"].max_len = 10
    for share in (0, 71, 85, 100):
        await trim(each_store, top, Memory(used=share, limit=100))
        assert await ids(each_store) == said[done:]


async def test_near_the_cap_what_is_settled_goes_before_its_time_and_no_more_than_makes_room(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    said = [await say(each_store, "+1") for _ in range(9)]
    await end(turns, (await turns.take(5, 100, 1)).grants[0])
    left = await say(each_store, "+1")
    top = a_topology()
    top.streams["inbound"].max_len = 10
    assert (await trim(each_store, top))["inbound"] == 2
    assert await ids(each_store) == [*said[2:], left]


async def test_a_redis_that_is_nearly_full_loses_the_oldest_of_what_is_settled(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    said = [await say(each_store, "+1") for _ in range(20)]
    await end(turns, (await turns.take(5, 100, 1)).grants[0])
    left = await say(each_store, "+1")
    nearly_full = Memory(used=71, limit=100)
    assert (await trim(each_store, a_topology(), nearly_full))["inbound"] == 3
    assert await ids(each_store) == [*said[3:], left]
    # Round after round, but never what is not settled
    while (await trim(each_store, a_topology(), nearly_full))["inbound"]:
        pass
    assert await ids(each_store) == [left]


async def test_where_the_ingress_sheds_all_that_is_settled_goes_at_once(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    an_hour_ago = await redis_ms(each_store) - 3_600_000
    for n in range(20):
        await say(each_store, "+1", id=f"{an_hour_ago}-{n}")
    await end(turns, (await turns.take(5, 100, 1)).grants[0])
    left = await say(each_store, "+1")
    assert (await trim(each_store, a_topology(), Memory(used=85, limit=100)))["inbound"] == 20
    assert await ids(each_store) == [left]


async def test_what_may_be_wanted_by_a_reader_that_has_not_come_yet_stays(each_store: Store) -> None:
    an_hour_ago = await redis_ms(each_store) - 3_600_000
    said = [await say(each_store, "+1", id=f"{an_hour_ago}-{n}") for n in range(10)]
    top = a_topology()
    top.streams["inbound"].max_len = 10
    await trim(each_store, top, Memory(used=99, limit=100))
    assert await ids(each_store) == said


async def test_a_stream_that_no_group_reads_keeps_what_is_young(each_store: Store) -> None:
    now = await redis_ms(each_store)
    for age in (8, 1):
        await each_store.command("XADD", "outbound", f"{now - age * DAY}-0", "key", "+1")
    await trim(each_store, a_topology())
    assert await ids(each_store, "outbound") == [f"{now - DAY}-0"]


async def test_dead_letters_go_after_thirty_days(each_store: Store) -> None:
    now = await redis_ms(each_store)
    for age in (31, 29):
        await each_store.command("XADD", "inbound.dead", f"{now - age * DAY}-0", "key", "+1")
    assert (await trim(each_store, a_topology()))["inbound.dead"] == 1


async def test_dead_letters_are_never_more_than_their_cap(each_store: Store) -> None:
    # Buried by many turns, or put there by whatever else
    top = a_topology()
    top.dead.max_len = 200
    turns = Turns(each_store, top, top.groups["g"], Handler(handle=nothing))
    await turns.open()
    for n in range(500):
        await say(each_store, f"+{n}")
    while grants := (await turns.take(100, 500, 1)).grants:
        for grant in grants:
            await end(turns, grant, bury="never")
    assert await each_store.command("XLEN", "inbound.dead") < 300
    top.dead.max_len = 100
    await trim(each_store, top)
    assert await each_store.command("XLEN", "inbound.dead") == 100


async def test_while_redis_has_lost_the_group_nothing_of_its_stream_goes(each_store: Store) -> None:
    # Given entries that are taken and not settled, and a stream near its cap
    turns = await a_consumer(each_store)
    for _ in range(10):
        await say(each_store, "+1")
    await turns.take(5, 100, 1)
    top = a_topology()
    top.streams["inbound"].max_len = 10
    await each_store.command("XGROUP", "DESTROY", "inbound", "g")
    assert (await trim(each_store, top))["inbound"] == 0


async def test_an_error_of_redis_ends_one_round_and_not_the_trimming(each_store: Store, monkeypatch) -> None:
    # Given a stream of which something else has made a list
    monkeypatch.setattr("streams.retention.EVERY", 0)
    await each_store.command("RPUSH", "inbound", "x")
    trimming = asyncio.create_task(retention.run([each_store], a_topology()))
    now = await redis_ms(each_store)
    await each_store.command("XADD", "outbound", f"{now - 8 * DAY}-0", "key", "+1")
    await asyncio.sleep(0)
    await each_store.command("DEL", "inbound")
    async with asyncio.timeout(20):
        while await each_store.command("XLEN", "outbound"):  # noqa: ASYNC110 - Redis alone knows
            await asyncio.sleep(0)
    assert not trimming.done()
    trimming.cancel()
