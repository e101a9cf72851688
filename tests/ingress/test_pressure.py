"""Where there is no room the ingress refuses, leaves nothing half done, and takes again by itself."""

from __future__ import annotations

import asyncio

import pytest
from protocol import end

from ingress import pressure
from ingress.append import Appender, Waiter
from ingress.pressure import Backlog
from streams.connection import Store
from streams.errors import Unavailable
from streams.topology import Topology, parse
from tests.ingress.front import ANA, Puppet, a_topology, front
from tests.ingress.test_append import arrival


async def keys(store: Store) -> list[bytes]:
    return sorted(await store.command("KEYS", "*"))


def behind_at_most(count: int, *, max_len: int = 1000) -> Topology:
    """`g` reads inbound and may be so far behind; `out` reads what it writes, likewise."""
    table = {"handler": "nowhere:nothing", "max_backlog": count}
    groups = {"g": {**table, "reads": "inbound", "writes": ["outbound"]}, "out": {**table, "reads": "outbound"}}
    streams = {"inbound": {"max_len": max_len}, "outbound": {"max_len": max_len}, "statuses": {}}
    return parse({"streams": streams, "groups": groups})


async def looked(appender: Appender) -> Appender:
    """Its ingress has just asked Redis."""
    await appender.pressure.measure("inbound")
    return appender


async def test_a_group_too_far_behind_sheds_and_a_refused_message_leaves_no_trace(each_store: Store) -> None:
    # Given a group that is as far behind as it may be, partly with what it has taken
    top = behind_at_most(3)
    puppet = await Puppet(each_store, top).start()
    appender = Appender(each_store, top)
    await appender.append([arrival("m1"), arrival("m2"), arrival("m3", key="+2")])
    [grant] = (await puppet.turns.take(1, 2, 1)).grants
    await looked(appender)
    # When a message comes, and one that waits for its reply
    before = await keys(each_store)
    for waiter in (None, Waiter(ms=5000, bell="b", ticket="t")):
        with pytest.raises(Backlog, match=r"group g has 3 to settle \(max_backlog 3\)"):
            await appender.append([arrival("m4", waiter=waiter), arrival("s1", stream="statuses")])
    # Then there is no entry, no mark and nobody waiting
    assert await keys(each_store) == before
    assert await each_store.command("XLEN", "inbound") == 3
    # But a repeat of what was accepted is told so, and other streams take theirs
    assert (await appender.append([arrival("m1")]))[0].outcome == "duplicate"
    assert (await appender.append([arrival("s1", stream="statuses")]))[0].outcome == "new"
    # And once the group has caught up the refused one is new
    await end(puppet.turns, grant)
    await looked(appender)
    assert (await appender.append([arrival("m4")]))[0].outcome == "new"
    await appender.close()


async def test_what_waits_further_on_sheds_as_well(store: Store) -> None:
    # Given replies that nobody delivers
    top = behind_at_most(2)
    appender = Appender(store, top)
    for _ in range(2):
        await store.command("XADD", "outbound", "*", "key", "+1")
    await looked(appender)
    with pytest.raises(Backlog, match="group out has 2 to settle"):
        await appender.append([arrival("m1")])
    await appender.close()


async def test_where_redis_does_not_know_how_much_is_unread_it_is_counted(each_store: Store) -> None:
    # Given more entries than one look steps over, and one deleted, after which Redis 7 does not know either
    top = behind_at_most(6000, max_len=100_000)
    await Puppet(each_store, top).start()
    appender = await looked(Appender(each_store, top))
    for start in range(0, 6001, 1000):
        rows = [("XADD", "inbound", f"{start + n + 1}-0", "key", "+1") for n in range(min(1000, 6001 - start))]
        await each_store.pipeline(rows)
    await each_store.command("XDEL", "inbound", "3000-0")
    assert "6,000 to settle" in await appender.pressure.measure("inbound")
    await each_store.command("XDEL", "inbound", "3001-0")
    assert await appender.pressure.measure("inbound") == ""
    await appender.close()


async def test_a_full_stream_first_forgets_what_is_settled_though_no_worker_is_there(each_store: Store) -> None:
    # Given a stream full of answered messages that are not a day old, and no worker to trim them
    top = a_topology(streams={"inbound": {"max_len": 10}})
    puppet = await Puppet(each_store, top).start()
    appender = Appender(each_store, top)
    await appender.append([arrival(f"m{n}") for n in range(10)])
    await end(puppet.turns, (await puppet.turns.take(1, 100, 1)).grants[0])
    # When more come than fit
    taken = await appender.append([arrival("a1"), arrival("a2")])
    # Then they are taken
    assert [one.outcome for one in taken] == ["new", "new"]
    assert await each_store.command("XLEN", "inbound") == 10
    await appender.close()


async def test_what_would_just_not_fit_makes_room_for_itself(each_store: Store) -> None:
    # Given a stream that is nearly full, which no look has found wanting
    top = a_topology(streams={"inbound": {"max_len": 10}})
    puppet = await Puppet(each_store, top).start()
    appender = Appender(each_store, top)
    await appender.append([arrival(f"m{n}") for n in range(9)])
    await end(puppet.turns, (await puppet.turns.take(1, 100, 1)).grants[0])
    # When one request brings more than there is room for, beside one that fits
    found = await asyncio.gather(appender.append([arrival("a1"), arrival("a2")]), appender.append([arrival("b1")]))
    assert [[one.outcome for one in each] for each in found] == [["new", "new"], ["new"]]
    await appender.close()


async def test_a_dead_archive_does_not_silence_the_bot(each_store: Store) -> None:
    # Given an archive that may fall behind and has not read a thing
    table = {"reads": "inbound", "handler": "nowhere:nothing"}
    groups = {"g": {**table, "writes": ["outbound"]}, "archive": {**table, "when_full": "skip"}}
    top = parse({"streams": {"inbound": {"max_len": 10}, "outbound": {}, "statuses": {}}, "groups": groups})
    puppet = await Puppet(each_store, top).start()
    await each_store.command("XGROUP", "CREATE", "inbound", "archive", "0")
    await each_store.command("SET", "group:archive:cursor", "0-0")
    await each_store.command("HSET", "groups", "archive", '{"reads":"inbound","when_full":"skip"}')
    appender = Appender(each_store, top)
    await appender.append([arrival(f"m{n}") for n in range(10)])
    await end(puppet.turns, (await puppet.turns.take(1, 100, 1)).grants[0])
    # Then the next message is taken, and the gap is counted
    assert (await appender.append([arrival("a1")]))[0].outcome == "new"
    assert await each_store.command("GET", "group:archive:skipped") == b"2"
    await appender.close()


async def test_an_ingress_that_refused_takes_the_first_message_once_there_is_room(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(pressure, "EVERY", 0.0)
    top = behind_at_most(1)
    puppet = await Puppet(store, top).start()
    appender = Appender(store, top)
    await appender.append([arrival("m1")])
    await looked(appender)
    await appender.pressure.refresh()  # whoever is asking already asked before
    await end(puppet.turns, (await puppet.turns.take(1, 100, 1)).grants[0])
    assert (await appender.append([arrival("m2")]))[0].outcome == "new"
    await appender.close()


async def test_a_redis_nearly_full_refuses_what_is_new_and_still_knows_what_it_has(store: Store) -> None:
    appender = Appender(store, a_topology())
    await appender.append([arrival("m1")])
    used = int((await store.command("INFO", "memory")).decode().partition("used_memory:")[2].split()[0])
    await store.command("CONFIG", "SET", "maxmemory", str(int(used * 1.1)))
    try:
        await looked(appender)
        before = await keys(store)
        with pytest.raises(Unavailable, match="maxmemory"):
            await appender.append([arrival("m2", waiter=Waiter(ms=5000, bell="b", ticket="t"))])
        assert await keys(store) == before
        assert (await appender.append([arrival("m1")]))[0].outcome == "duplicate"
    finally:
        await store.command("CONFIG", "SET", "maxmemory", "0")
    await appender.close()


@pytest.mark.parametrize(("share", "lives_ms"), [(0.7, 8 * 86_400_000), (0.79, 3_600_000)])
async def test_while_redis_is_nearly_full_marks_live_less_long(store: Store, share: float, lives_ms: int) -> None:
    appender = Appender(store, a_topology())
    used = int((await store.command("INFO", "memory")).decode().partition("used_memory:")[2].split()[0])
    await store.command("CONFIG", "SET", "maxmemory", str(int(used / share)))
    try:
        await looked(appender)
        await appender.append([arrival("m1")])
    finally:
        await store.command("CONFIG", "SET", "maxmemory", "0")
    [mark] = await store.command("KEYS", "seen:*")
    assert 0 <= lives_ms - await store.command("PTTL", mark) < 60_000
    await appender.close()


async def test_the_refusal_says_when_to_come_back(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "EVERY", 0.0)
    top = behind_at_most(1)
    await Puppet(store, top).start()
    async with front(store, top) as door:
        await door.say("Hola", "m1")
        assert (await door.get("/health/ready"))[1]["error"] == "not_ready"
        status, answer, headers = await door.ask("POST", "/chat", json={"user_id": ANA, "message": "x"})
        assert (status, answer["error"], headers["retry-after"]) == (503, "backlog", "10")
        assert (await door.say("Hola", "m1"))["duplicate"] is True
