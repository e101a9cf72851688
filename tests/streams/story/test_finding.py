"""A message is found without looking through all that lies before and behind it."""

from __future__ import annotations

import pytest
from conftest import Server, emptied

from streams import marks, topology, wire
from streams.connection import Store, info
from streams.sieve import sift
from streams.stores import Stores
from streams.story import finding

HOUR_MS = 3_600_000
NOON_MS = 1_728_129_600_000


async def test_an_id_that_the_ingress_made_says_where_to_look(store: Store) -> None:
    # Given a day of messages without an id of their own, one a minute, by an ingress whose clock is 30 s ahead
    top, made = topology.parse({"groups": {}}), dict[int, str]()
    for minute in range(24 * 60):
        at = NOON_MS + minute * 60_000
        made[at] = marks.made(at + 30_000)
        body = f'{{"user_id":"+1","message_id":"{made[at]}"}}'
        await store.command("XADD", "inbound", f"{at}-0", "key", "+1", "type", "text", "body", body)
    looked = list[int]()
    finder = finding.Finder(Stores.alone(store), top, looked.append)

    # When one of the morning is asked for
    asked = NOON_MS + 20 * HOUR_MS
    place = await finder.message(made[asked])

    # Then it is found among its neighbours
    assert place.id == f"{asked}-0"
    assert sum(looked) <= 3

    # And one that came hours later than its id says is found as well, among all
    strayed = marks.made(NOON_MS + 2 * HOUR_MS)
    body = f'{{"user_id":"+1","message_id":"{strayed}"}}'
    newest = await store.command("XADD", "inbound", "*", "key", "+1", "type", "text", "body", body)
    assert (await finder.message(strayed)).id == newest.decode()
    with pytest.raises(finding.Unknown, match=r"through the 1,441 entries of inbound"):
        await finder.message(marks.made(NOON_MS))


async def test_a_trace_that_the_ingress_began_says_where_to_look_and_anybody_else_s_is_found_among_all(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a day of messages, one a minute, one of which somebody else's program began
    top, traces, strangers = topology.parse({"groups": {}}), dict[int, str](), "4bf92f3577b34da6a3ce929d0e0e4736"
    for minute in range(24 * 60):
        at = NOON_MS + minute * 60_000
        monkeypatch.setattr("time.time_ns", lambda at=at: (at - 30_000) * 1_000_000)
        traces[at] = wire.new_trace()
        trace = f"00-{strangers}-00f067aa0ba902b7-01" if minute == 7 else traces[at]
        await store.command("XADD", "inbound", f"{at}-0", "key", "+1", "type", "text", "body", "{}", "trace", trace)
    looked = list[int]()
    finder = finding.Finder(Stores.alone(store), top, looked.append)

    # When one of the morning is asked for
    asked = NOON_MS + 20 * HOUR_MS
    place = await finder.message(traces[asked][3:35])

    # Then it is found among its neighbours
    assert place.id == f"{asked}-0"
    assert sum(looked) <= 3

    # And the other among all
    assert (await finder.message(strangers)).id == f"{NOON_MS + 7 * 60_000}-0"


def test_a_trace_is_one_of_w3c_and_tells_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: NOON_MS * 1_000_000 + 999_999)
    made = {wire.new_trace() for _ in range(100)}
    assert len(made) == 100
    assert all(wire.trace_from(trace) == trace for trace in made)
    assert {wire.trace_ms(trace[3:35]) for trace in made} == {NOON_MS}


async def test_what_would_be_older_than_the_stream_is_not_looked_for_backwards(each_store: Store) -> None:
    # Given that Redis, asked for the last of what comes before the first entry, steps over all of them
    for number in range(3):
        await each_store.command("XADD", "inbound", f"{NOON_MS + number}-0", "key", "+1")
    await each_store.command("CONFIG", "RESETSTAT")
    # When such a time is asked for
    slices = [each async for each in sift(each_store, "inbound", ["x"], last=f"({NOON_MS}-0", back=True)]
    # Then it is not asked for that
    assert [(each.looked, each.more) for each in slices] == [(0, False)]
    assert "cmdstat_xrevrange" not in info(await each_store.command("INFO", "commandstats"))


async def test_whose_it_is_tells_which_of_two_shards_is_meant(any_server: Server) -> None:
    # Given two people of two shards, whose messages have one id, and a shard where nobody has written
    await emptied(any_server).close()
    stores, top = Stores.open(any_server.url, shards=3), topology.parse({"groups": {}})
    people = [next(name for name in map(str, range(99)) if stores.of(name) is store) for store in stores][:2]
    for person in people:
        key = stores.of(person).keys.stream("inbound")
        await stores.of(person).command("XADD", key, f"{NOON_MS}-0", "key", person, "body", "{}")
    finder = finding.Finder(stores, top)
    for person in people:
        assert (await finder.message(f"{NOON_MS}-0", person)).store is stores.of(person)
    await stores.close()


async def test_what_was_carried_here_is_among_a_persons_messages_and_what_was_put_back_is_not(store: Store) -> None:
    for number, more in enumerate(([], ["origin", "1-0", "for", "g"], ["origin", "2-0", "replayed", "1"])):
        await store.command("XADD", "inbound", f"{NOON_MS + number}-0", "key", "+1", "body", "{}", *more)
    finder = finding.Finder(Stores.alone(store), topology.parse({"groups": {}}))
    found = [place.id async for place in finder.of("+1", since_ms=0, count=9)]
    assert found == [f"{NOON_MS + 2}-0", f"{NOON_MS}-0"]
