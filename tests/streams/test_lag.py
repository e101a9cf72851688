"""How far behind a group is, also where Redis has miscounted it since its last restart."""

from __future__ import annotations

from typing import Any

from protocol import a_consumer, a_topology, end, ids, say

from streams import backlog, lag
from streams.connection import Store
from streams.memory import Memory
from streams.retention import trim
from streams.turns import Turns


async def told(store: Store) -> dict[bytes, Any]:
    row = (await store.command("XINFO", "GROUPS", store.keys.stream("inbound")))[0]
    return dict(zip(row[::2], row[1::2], strict=True))


async def a_group_that_redis_has_miscounted(store: Store, **table: Any) -> Turns | None:
    """It has settled 60 entries, of which Redis has counted 10, as after a restart; None before Redis 7."""
    turns = await a_consumer(store, **table)
    for number in range(60):
        await say(store, f"+{number}")
    for grant in (await turns.take(100, 100, 1)).grants:
        await end(turns, grant)
    if b"entries-read" not in await told(store):
        return None
    await store.command("XGROUP", "SETID", store.keys.stream("inbound"), "g", (await ids(store))[-1], "ENTRIESREAD", 10)
    assert (await told(store))[b"lag"] == 50
    return turns


async def test_a_group_that_has_read_all_is_counted_anew(each_store: Store) -> None:
    turns = await a_group_that_redis_has_miscounted(each_store)
    last = (await ids(each_store))[-1]
    assert await lag.mend(each_store, "inbound", ["g", "nobody"]) == (turns is not None)
    found = await told(each_store)
    assert (found.get(b"lag", 0), found[b"last-delivered-id"]) == (0, last.encode())
    # and what comes next is read as ever
    assert not await lag.mend(each_store, "inbound", ["g"])
    if turns:
        await say(each_store, "+new")
        assert (await told(each_store))[b"lag"] == 1
        assert not await lag.mend(each_store, "inbound", ["g"])
        assert [grant.turn.key for grant in (await turns.take(5, 100, 1)).grants] == ["+new"]


async def test_nobody_is_refused_for_a_backlog_that_redis_imagines(each_store: Store) -> None:
    await a_group_that_redis_has_miscounted(each_store)
    await say(each_store, "+new")
    assert not await backlog.full(each_store, a_topology(max_backlog=20))
    assert await backlog.full(each_store, a_topology(max_backlog=1))


async def test_nothing_is_skipped_for_a_backlog_that_redis_imagines(each_store: Store) -> None:
    turns = await a_group_that_redis_has_miscounted(each_store, max_backlog=20, when_full="skip", writes=[])
    new = [await say(each_store, f"+new{number}") for number in range(15)]
    await trim(each_store, a_topology(max_backlog=20, when_full="skip", writes=[]), Memory(used=0, limit=100))
    if turns:
        assert [grant.turn.messages[0].id for grant in (await turns.take(50, 100, 1)).grants] == new


async def test_where_there_is_no_stream_nothing_is_counted(each_store: Store) -> None:
    assert not await lag.mend(each_store, "inbound", ["g"])
    await each_store.command("SET", each_store.keys.stream("inbound"), "somebody else's")
    assert not await lag.mend(each_store, "inbound", ["g"])
