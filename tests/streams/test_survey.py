"""How the groups are doing, whatever Redis itself knows of it."""

from __future__ import annotations

from protocol import a_consumer, a_topology, end, say

from streams import metrics
from streams.connection import Store
from streams.memory import Memory
from streams.stores import Stores
from streams.survey import lengths, survey
from streams.tables import Group


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


async def test_dead_letters_are_counted_once_for_a_stream_that_several_groups_read(each_store: Store) -> None:
    # Given two groups of one stream, and one dead letter of it
    stores, topology = Stores.alone(each_store), a_topology()
    topology.groups["h"] = Group(name="h", reads="inbound", handler="a:b")
    await each_store.command("XADD", "inbound.dead", "*", "group", "g")
    # When they are looked at, Then each says of which stream it is, so that whoever adds up counts it once
    metrics.observe(await survey(stores, topology), Memory())
    told = [line for line in metrics.text().decode().splitlines() if line.startswith("cauce_group_dead{")]
    ours = [line for line in told if 'group="g"' in line or 'group="h"' in line]
    assert sorted(ours) == [f'cauce_group_dead{{group="{name}",stream="inbound"}} 1.0' for name in "gh"]
    assert (await lengths(stores, topology))["inbound"]["dead"] == 1


async def test_somebody_elses_keys_in_place_of_ours_are_no_error(each_store: Store) -> None:
    await a_consumer(each_store)
    await each_store.command("DEL", "group:g:consumers", "inbound")
    await each_store.command("SET", "group:g:consumers", "x")
    await each_store.command("RPUSH", "inbound", "x")
    seen = (await survey(Stores.alone(each_store), a_topology()))["g"]
    assert (seen.lag, seen.workers) == (0, 0)
