"""How the groups are doing, whatever Redis itself knows of it."""

from __future__ import annotations

from protocol import a_consumer, a_topology, end, say

from streams.connection import Store
from streams.stores import Stores
from streams.survey import survey


async def test_what_is_unread_in_work_and_settled_is_told_apart(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    for person in ("+1", "+2", "+3"):
        await say(each_store, person)
    one, two, _ = (await turns.take(5, 100, 1)).grants
    await end(turns, one)
    await end(turns, two, delay_ms=60_000)
    await say(each_store, "+4")
    await say(each_store, "+5")
    seen = (await survey(Stores.alone(each_store), a_topology()))["g"]
    assert (seen.lag, seen.pending, seen.in_work, seen.workers) == (4, 2, 1, 1)


async def test_a_deleted_entry_is_not_waited_for(each_store: Store) -> None:
    # Redis's own count is unknown after this, from version 7 on; before, it has none
    await a_consumer(each_store)
    first, _ = await say(each_store, "+1"), await say(each_store, "+2")
    await each_store.command("XDEL", "inbound", first)
    assert (await survey(Stores.alone(each_store), a_topology()))["g"].lag == 1


async def test_a_group_that_no_worker_has_opened_waits_for_everything(each_store: Store) -> None:
    for person in ("+1", "+2"):
        await say(each_store, person)
    seen = (await survey(Stores.alone(each_store), a_topology()))["g"]
    assert (seen.lag, seen.workers) == (2, 0)
    assert seen.oldest_s < 60


async def test_somebody_elses_keys_in_place_of_ours_are_no_error(each_store: Store) -> None:
    await a_consumer(each_store)
    await each_store.command("DEL", "group:g:consumers", "inbound")
    await each_store.command("SET", "group:g:consumers", "x")
    await each_store.command("RPUSH", "inbound", "x")
    seen = (await survey(Stores.alone(each_store), a_topology()))["g"]
    assert (seen.lag, seen.workers) == (0, 0)
