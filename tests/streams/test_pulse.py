"""What Redis tells whoever looks every second."""

from __future__ import annotations

import json

from conftest import Server
from protocol import a_consumer, a_topology, end, say

from streams import published
from streams.connection import Store
from streams.pulse import Finger
from streams.stores import Stores


async def test_what_was_appended_is_counted_also_where_it_was_trimmed(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    for person in ("+1", "+2", "+3"):
        await say(each_store, person)
    one, *_ = (await turns.take(5, 100, 1)).grants
    await end(turns, one)
    finger = Finger(Stores.alone(each_store), a_topology())
    seen = await finger.feel()
    assert (seen.streams["inbound"].entries, seen.streams["inbound"].added, seen.groups["g"].lag) == (3, 3, 2)
    assert seen.streams["outbound"].added == 0
    await each_store.command("XTRIM", "inbound", "MAXLEN", 1)
    counts = b"entries-added" in await each_store.command("XINFO", "STREAM", "inbound")
    assert (await finger.feel()).streams["inbound"].added == (3 if counts else 1)


async def test_all_shards_are_one_and_their_server_is_counted_once(any_server: Server, store: Store) -> None:
    stores = Stores.open(any_server.url, shards=3)
    for each in stores:
        await each.command("XADD", each.keys.stream("inbound"), "*", "key", "+1")
    await store.command("CONFIG", "SET", "maxmemory", 1 << 30)
    try:
        seen = await Finger(stores, a_topology()).feel()
    finally:
        await store.command("CONFIG", "SET", "maxmemory", 0)
    assert seen.streams["inbound"].added == 3
    assert seen.server.limit_bytes == 1 << 30
    assert seen.server.memory_bytes > 0
    await stores.close()


async def test_a_workers_model_is_seen_with_the_look_after_the_worker(store: Store) -> None:
    turns = await a_consumer(store)
    await turns.take(1, 1, 1)
    told = {"name": "demo", "slots": 4, "running": 3, "waiting": 2}
    await store.command("SET", f"model:{turns.consumer}", json.dumps(told))
    finger = Finger(Stores.alone(store), a_topology())
    assert (await finger.feel()).models == []
    assert (await finger.feel()).models == [told | {"workers": 1}]


async def test_somebody_elses_keys_in_place_of_ours_are_no_error(each_store: Store) -> None:
    for name in ("inbound", "inbound.dead", "group:g:consumers"):
        await each_store.command("SET", name, "x")
    assert (await Finger(Stores.alone(each_store), a_topology()).feel()).streams["inbound"].entries == 0


def test_workers_of_one_model_are_told_together_and_what_they_have_to_do_adds_up() -> None:
    replies = [
        b'{"name":"demo","running":1,"waiting":0}', b'{"name":"demo","running":2,"waiting":5}', None, b"no JSON",
        b'{"name":"other"}', b"[]",
    ]  # fmt: skip
    assert published.models(replies) == [
        {"name": "demo", "workers": 2, "running": 3, "waiting": 5},
        {"name": "other", "workers": 1},
    ]
