"""A group that may fall behind loses its oldest entries, counted, and nobody else loses anything."""

from __future__ import annotations

from typing import Any

import pytest
from protocol import end, ids, named, nothing, say

from streams import metrics, topology
from streams.connection import Store
from streams.effects import Handler
from streams.errors import ConfigurationError
from streams.memory import Memory
from streams.retention import trim
from streams.topology import Topology
from streams.turns import Turns
from streams.watch import Watch


def two_groups(max_len: int = 10, **archive: Any) -> Topology:
    """`g` writes replies; `archive` may fall behind."""
    table = {"reads": "inbound", "handler": "nowhere:nothing"}
    groups = {"g": {**table, "writes": ["outbound"]}, "archive": {**table, "when_full": "skip", **archive}}
    return topology.parse({"streams": {"inbound": {"max_len": max_len}, "outbound": {}}, "groups": groups})


async def opened(store: Store, top: Topology) -> tuple[Turns, Turns]:
    both = [Turns(store, top, top.groups[name], Handler(handle=nothing)) for name in ("g", "archive")]
    for turns in both:
        await turns.open()
    return both[0], both[1]


async def settle_all(turns: Turns) -> None:
    while grants := (await turns.take(100, 200, 1)).grants:
        for grant in grants:
            await end(turns, grant)


async def state(store: Store, group: str) -> dict[str, Any]:
    """All that Redis keeps of a group's turns."""
    found: dict[str, Any] = {}
    for kind, read in (("leases", "HKEYS"), ("due", "ZCARD"), ("attempts", "HKEYS"), ("hints", "HKEYS")):
        found[kind] = await store.command(read, store.keys.group(kind, group))
    found["boxes"] = sorted(await store.command("KEYS", f"group:{group}:box:*"))
    found["pending"] = (await store.command("XPENDING", "inbound", group))[0]
    return found


NOTHING = {"leases": [], "due": 0, "attempts": [], "hints": [], "boxes": [], "pending": 0}


async def test_at_the_cap_it_loses_what_it_has_not_read_and_the_stream_has_room_again(each_store: Store) -> None:
    # Given an archive whose worker died before it read anything, and a bot that has answered all
    top = two_groups()
    bot, archive = await opened(each_store, top)
    said = [await say(each_store, f"+{n}") for n in range(10)]
    await settle_all(bot)
    before = metrics.SKIPPED.labels("archive")._value.get()
    # When its stream is at the cap
    assert (await trim(each_store, top))["inbound"] == 2
    # Then just enough of the oldest is gone, and counted
    assert await ids(each_store) == said[2:]
    assert metrics.SKIPPED.labels("archive")._value.get() - before == 2
    assert await each_store.command("GET", "group:archive:skipped") == b"2"
    # And the archive goes on with what is left, in order, once
    assert await each_store.command("GET", "group:archive:cursor") == said[1].encode()
    taken = await archive.take(100, 200, 1)
    assert [grant.turn.messages[0].id for grant in taken.grants] == said[2:]
    assert taken.read == 8


@pytest.mark.parametrize("order", ["key", "none"])
async def test_it_loses_what_it_had_taken_with_every_trace_of_it(each_store: Store, order: str) -> None:
    # Given an archive that died with ten turns it had taken, one of them tried before and parked
    top = two_groups(order=order)
    bot, archive = await opened(each_store, top)
    for n in range(10):
        await say(each_store, f"+{n}")
    await settle_all(bot)
    for grant in (await archive.take(10, 200, 1)).grants:
        await end(archive, grant, delay_ms=60_000)
    # When Redis is nearly full, round after round
    while (await trim(each_store, top, Memory(used=81, limit=100)))["inbound"]:
        pass
    # Then nothing is left of them anywhere
    assert await ids(each_store) == []
    assert await state(each_store, "archive") == NOTHING
    assert await each_store.command("GET", "group:archive:skipped") == b"10"


async def test_of_a_person_whose_newer_message_stays_only_the_older_one_goes(each_store: Store) -> None:
    top = two_groups()
    bot, archive = await opened(each_store, top)
    for n in range(8):
        await say(each_store, "+1" if n == 0 else f"+{n + 1}")
    last = await say(each_store, "+1", '"newer"')
    await say(each_store, "+99")
    await settle_all(bot)
    for grant in (await archive.take(100, 200, 1)).grants:
        await end(archive, grant, delay_ms=0)
    await trim(each_store, top)
    [mine] = [grant for grant in (await archive.take(100, 200, 1)).grants if grant.turn.key == "+1"]
    assert [message.id for message in mine.turn.messages] == [last]


async def test_what_a_group_that_sheds_has_not_settled_stays_whoever_else_may_skip(each_store: Store) -> None:
    top = two_groups()
    bot, _ = await opened(each_store, top)
    said = [await say(each_store, f"+{n}") for n in range(10)]
    await bot.take(10, 200, 1)
    assert (await trim(each_store, top, Memory(used=99, limit=100)))["inbound"] == 0
    assert await ids(each_store) == said
    assert await each_store.command("GET", "group:archive:skipped") is None


async def test_a_turn_in_work_is_left_to_end_by_itself(each_store: Store) -> None:
    # Given an archive that works on the oldest message while its stream fills up
    top = two_groups()
    bot, archive = await opened(each_store, top)
    await say(each_store, "+0")
    [grant] = (await archive.take(1, 200, 1)).grants
    for n in range(1, 10):
        await say(each_store, f"+{n}")
    await settle_all(bot)
    # When the entry itself has to go
    assert (await trim(each_store, top))["inbound"] == 2
    # Then the turn is still its own and ends as ever, and only what it had not begun is counted as lost
    assert (await end(archive, grant))[0]
    assert await each_store.command("GET", "group:archive:skipped") == b"1"
    await settle_all(archive)
    assert await state(each_store, "archive") == NOTHING


async def test_a_turn_whose_worker_dies_after_its_entry_went_mutes_nobody(each_store: Store) -> None:
    top = two_groups()
    bot, archive = await opened(each_store, top)
    await say(each_store, "+0")
    await archive.take(1, 200, 1)
    for n in range(1, 10):
        await say(each_store, f"+{n}")
    await settle_all(bot)
    await trim(each_store, top)
    await each_store.command("DEL", archive._heartbeat)
    assert await Watch(each_store, top).sweep(named(archive)._replace(group="archive")) == 1
    heir = Turns(each_store, top, top.groups["archive"], Handler(handle=nothing))
    await settle_all(heir)
    assert await state(each_store, "archive") == NOTHING
    # The person is heard again
    latest = await say(each_store, "+0")
    assert [grant.turn.id for grant in (await heir.take(10, 200, 1)).grants] == [latest]


async def test_it_may_be_only_so_far_behind_as_it_says(each_store: Store) -> None:
    # Given a stream with room for many more, and an archive that took some and has not read others
    top = two_groups(max_len=1000, max_backlog=5)
    bot, archive = await opened(each_store, top)
    for n in range(6):
        await say(each_store, f"+{n}")
    for grant in (await archive.take(10, 200, 1)).grants:
        await end(archive, grant, delay_ms=0)
    said = [await say(each_store, f"-{n}") for n in range(6)]
    await settle_all(bot)
    # When it is looked at, twice, for two workers may
    await trim(each_store, top)
    await trim(each_store, top)
    # Then it has lost the oldest of both kinds, and no entry is gone for anybody else
    assert await each_store.command("GET", "group:archive:skipped") == b"7"
    assert await each_store.command("XLEN", "inbound") == 12
    assert [grant.turn.id for grant in (await archive.take(10, 200, 1)).grants] == said[1:]


@pytest.mark.slow
async def test_a_thousand_and_more_go_in_slices(each_store: Store) -> None:
    top = two_groups(max_len=2500)
    bot, archive = await opened(each_store, top)
    for start in range(0, 1200, 100):
        await each_store.pipeline([("XADD", "inbound", "*", "key", f"+{start + n}", "body", "{}") for n in range(100)])
    while (await archive.take(1000, 1000, 1)).read:
        pass
    await each_store.pipeline([("XADD", "inbound", "*", "key", f"-{n}", "body", "{}") for n in range(1700)])
    await settle_all(bot)
    await kill_of(each_store, top, archive)
    assert (await trim(each_store, top))["inbound"] == 900
    assert int(await each_store.command("GET", "group:archive:skipped")) == 900
    while (await trim(each_store, top, Memory(used=81, limit=100)))["inbound"]:
        pass
    assert await state(each_store, "archive") == NOTHING


async def kill_of(store: Store, top: Topology, turns: Turns) -> None:
    """Its worker dies and is swept."""
    await store.command("DEL", turns._heartbeat)
    await Watch(store, top).sweep(named(turns)._replace(group=turns.group.name))


async def test_its_own_word_counts_where_streams_toml_has_it_no_longer(each_store: Store) -> None:
    top = two_groups()
    bot, _ = await opened(each_store, top)
    del top.groups["archive"]
    for n in range(10):
        await say(each_store, f"+{n}")
    await settle_all(bot)
    assert (await trim(each_store, top))["inbound"] == 2


async def test_a_full_redis_lets_it_skip(each_store: Store) -> None:
    top = two_groups()
    bot, archive = await opened(each_store, top)
    for n in range(10):
        await say(each_store, f"+{n}")
    await settle_all(bot)
    await archive.take(3, 3, 1)
    await kill_of(each_store, top, archive)
    await each_store.command("CONFIG", "SET", "maxmemory", "1")
    try:
        while (await trim(each_store, top, Memory(used=99, limit=100)))["inbound"]:
            pass
    finally:
        await each_store.command("CONFIG", "SET", "maxmemory", "0")
    assert await ids(each_store) == []
    assert await each_store.command("GET", "group:archive:skipped") == b"10"


def test_only_a_group_that_writes_nothing_may_skip() -> None:
    with pytest.raises(ConfigurationError, match=r"groups.archive.when_full = 'skip' is only for a group"):
        two_groups(writes=["outbound"])
    with pytest.raises(ConfigurationError, match="did you mean 'skip'"):
        two_groups(when_full="skipp")
