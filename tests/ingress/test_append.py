"""Many requests, one write: everything or nothing, once, whatever is lost on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Server, emptied
from protocol import redis_ms

from ingress.append import MOST, Appended, Appender, Arrival, Backlog, Waiter
from streams import marks
from streams.connection import Store
from streams.errors import Unavailable
from tests.ingress.front import a_topology, entries


def arrival(message_id: str, text: str = "hola", key: str = "+1", stream: str = "inbound", **more: Any) -> Arrival:
    return Arrival(
        stream=stream, key=key, type="text", body=f'"{text}"'.encode(), message_id=message_id, text=text, **more
    )


async def bodies(store: Store, stream: str = "inbound") -> list[str]:
    return [entry["body"].strip('"') for entry in await entries(store, stream)]


async def scripts_run(store: Store) -> int:
    told = (await store.command("INFO", "commandstats")).decode()
    return sum(
        int(line.partition("calls=")[2].partition(",")[0])
        for line in told.splitlines()
        if line.startswith(("cmdstat_eval:", "cmdstat_evalsha:"))
    )


async def test_an_entry_is_readable_in_redis(each_store: Store) -> None:
    front, trace = Appender(each_store, a_topology()), "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    [one] = await front.append([arrival("m1", "¡Hola!", trace=trace, received_ms=1728123456789)])
    assert one.outcome == "new"
    assert await entries(each_store) == [
        {
            "key": "+1", "type": "text", "body": '"¡Hola!"', "v": "1", "trace": trace,
            "received": "1728123456789",
        }
    ]  # fmt: skip
    await front.close()


async def test_a_repeat_is_told_the_first_entry_and_another_text_is_not_taken(each_store: Store) -> None:
    front = Appender(each_store, a_topology())
    [first] = await front.append([arrival("m1")])
    [again] = await front.append([arrival("m1")])
    [other] = await front.append([arrival("m1", "adiós")])
    [elsewhere] = await front.append([arrival("m1", key="+2")])
    assert (again.outcome, again.entry_id) == ("duplicate", first.entry_id)
    assert (other.outcome, other.entry_id) == ("reused", first.entry_id)
    assert elsewhere.outcome == "new"
    assert len(await bodies(each_store)) == 2
    await front.close()


async def marked(store: Store, front: Appender, person: str = "+1", message_id: str = "m1") -> marks.Mark:
    value = await store.command("GET", marks.name(store.keys, front.digest, person, message_id))
    mark = marks.Mark.read(value)
    assert mark is not None
    return mark


async def test_a_mark_counts_the_repeats_of_its_message_and_lives_no_longer_for_it(each_store: Store) -> None:
    front = Appender(each_store, a_topology())
    [first] = await front.append([arrival("m1")])
    assert await marked(each_store, front) == marks.Mark(first.entry_id, 0, 0)
    key = marks.name(each_store.keys, front.digest, "+1", "m1")
    await each_store.command("PEXPIRE", key, 60_000)
    for times in (1, 2):
        [again] = await front.append([arrival("m1")])
        assert again == Appended("duplicate", first.entry_id)
        told = await marked(each_store, front)
        assert (told.entry, told.repeats) == (first.entry_id, times)
        assert abs(told.repeated_ms - await redis_ms(each_store)) < 10_000
    # Another text is no repeat of it
    await front.append([arrival("m1", "adiós")])
    assert (await marked(each_store, front)).repeats == 2
    assert 0 < await each_store.command("PTTL", key) <= 60_000
    await front.close()


async def test_a_repeat_is_told_so_also_by_a_redis_that_is_full(own_server: Server) -> None:
    store = Store.open(own_server.url)
    front = Appender(store, a_topology())
    [first] = await front.append([arrival("m1")])
    await store.command("CONFIG", "SET", "maxmemory", "1")
    assert await front.append([arrival("m1")]) == [Appended("duplicate", first.entry_id)]
    await store.command("CONFIG", "SET", "maxmemory", "0")
    await front.close()
    await store.close()


async def test_a_repeat_within_one_request_is_seen_too(store: Store) -> None:
    front = Appender(store, a_topology())
    found = await front.append([arrival("m1"), arrival("m1"), arrival("m1", "adiós"), arrival("m2")])
    assert [one.outcome for one in found] == ["new", "duplicate", "reused", "new"]
    assert len({one.entry_id for one in found}) == 2
    await front.close()


async def test_ids_that_only_look_alike_are_told_apart(store: Store) -> None:
    front = Appender(store, a_topology())
    found = await front.append([arrival("bc", key="a"), arrival("c", key="ab"), arrival("", key="abc")])
    assert [one.outcome for one in found] == ["new"] * 3
    await front.close()


async def test_a_write_whose_answer_was_lost_is_repeated_and_is_no_duplicate(each_store: Store) -> None:
    front = Appender(each_store, a_topology())
    call = each_store.run
    answers: list[Any] = []

    async def twice(*given: Any, **more: Any) -> Any:
        """What connection.py does where the answer does not come: the same call again."""
        answers.append(await call(*given, **more))
        answers.append(await call(*given, **more))
        return answers[-1]

    each_store.run = twice  # type: ignore[method-assign]
    found = await front.append([arrival("m1"), arrival("m2"), arrival("m1")])
    assert answers[0] == answers[1]
    assert [one.outcome for one in found] == ["new", "new", "duplicate"]
    assert len(await bodies(each_store)) == 2
    await front.close()


async def test_requests_that_come_during_a_write_share_the_next_one(store: Store) -> None:
    front = Appender(store, a_topology())
    await front.append([arrival("first")])
    before = await scripts_run(store)
    found = await asyncio.gather(*(front.append([arrival(f"m{n}", f"{n}")]) for n in range(150)))
    # As many as one write may carry, and the rest
    assert await scripts_run(store) - before == 2
    assert [one.outcome for [one] in found] == ["new"] * 150
    assert await bodies(store) == ["hola", *map(str, range(150))]
    await front.close()


async def test_a_large_request_is_written_alone_but_never_split(store: Store) -> None:
    front = Appender(store, a_topology())
    await front.append([arrival("first")])
    large = [arrival(f"m{n}", "x" * 5000 + str(n)) for n in range(400)]
    before = await scripts_run(store)
    found, [small] = await asyncio.gather(front.append(large), front.append([arrival("small")]))
    assert await scripts_run(store) - before == 2
    assert ({one.outcome for one in found}, small.outcome) == ({"new"}, "new")
    await front.close()


async def test_at_max_len_a_request_is_taken_whole_or_not_at_all(each_store: Store) -> None:
    front = Appender(each_store, a_topology(streams={"inbound": {"max_len": 3}}))
    [first] = await front.append([arrival("m1")])
    with pytest.raises(Backlog, match="inbound is at its max_len"):
        await front.append([arrival(f"a{n}") for n in range(3)])
    assert await bodies(each_store) == ["hola"]
    # A repeat needs no room, and what fits is taken
    assert await front.append([arrival("m1")]) == [Appended("duplicate", first.entry_id)]
    await front.append([arrival("b1"), arrival("b2")])
    with pytest.raises(Backlog):
        await front.append([arrival("c1")])
    await front.close()


async def test_one_request_that_does_not_fit_does_not_spoil_the_others_of_its_write(store: Store) -> None:
    front = Appender(store, a_topology(streams={"inbound": {"max_len": 3}}))
    found = await asyncio.gather(
        front.append([arrival("m1")]),
        front.append([arrival(f"a{n}") for n in range(3)]),
        front.append([arrival("m2")]),
        return_exceptions=True,
    )
    assert [type(one) for one in found] == [list, Backlog, list]
    await front.close()


async def test_a_full_stream_that_nobody_reads_forgets_its_oldest(each_store: Store) -> None:
    top = a_topology(streams={"statuses": {"max_len": 100}})
    front = Appender(each_store, top)
    for start in range(0, 500, 50):
        await front.append([arrival(f"s{n}", stream="statuses") for n in range(start, start + 50)])
    # `~` trims whole nodes of the stream, of up to 100 entries each
    assert 100 <= await each_store.command("XLEN", "statuses") < 350
    # but not while somebody is registered to read it
    await each_store.command("HSET", "groups", "archive", '{"reads":"statuses"}')
    with pytest.raises(Backlog, match="statuses"):
        await front.append([arrival("last", stream="statuses"), arrival("m1")])
    assert await bodies(each_store) == []
    await front.close()


async def test_two_processes_know_each_other_s_messages(store: Store) -> None:
    one, other = Appender(store, a_topology()), Appender(store, a_topology())
    await one.append([arrival("m1")])
    [again] = await other.append([arrival("m1")])
    assert again.outcome == "duplicate"
    # Also after all of Redis was lost, and both had a hash key of their own
    await store.command("FLUSHALL")
    await other.append([arrival("m1")])
    [again] = await one.append([arrival("m1")])
    assert again.outcome == "duplicate"
    await one.close()
    await other.close()


async def test_redis_cannot_tell_from_a_mark_who_wrote_what(store: Store) -> None:
    front = Appender(store, a_topology())
    await front.append([arrival("wamid.SECRET", "mi alergia", key="+59112345678")])
    marks = [key for key in await store.command("KEYS", "seen:*")]
    assert len(marks) == 1
    told = marks[0] + await store.command("GET", marks[0])
    assert not any(part in told for part in (b"SECRET", b"alergia", b"5911234"))
    assert 0 <= 8 * 86_400_000 - await store.command("PTTL", marks[0]) < 60_000
    await front.close()


async def test_a_full_redis_refuses_and_nothing_is_half_written(each_store: Store) -> None:
    front = Appender(each_store, a_topology())
    await front.append([arrival("m1")])
    before = sorted(await each_store.command("KEYS", "*"))
    await each_store.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(Unavailable):
            await front.append([arrival("m2"), arrival("m3", stream="statuses")])
    finally:
        await each_store.command("CONFIG", "SET", "maxmemory", "0")
    assert sorted(await each_store.command("KEYS", "*")) == before
    assert await bodies(each_store) == ["hola"]
    await front.close()


async def test_a_message_that_comes_during_a_failover_waits_for_a_server_that_takes_it(each_server: Server) -> None:
    store = emptied(each_server)
    front = Appender(store, a_topology())
    await store.command("REPLICAOF", "127.0.0.1", "1")
    try:
        before = await scripts_run(store)
        appending = asyncio.create_task(front.append([arrival("m1")]))
        while await scripts_run(store) < before + 3:
            assert not appending.done()
    finally:
        await store.command("REPLICAOF", "NO", "ONE")
    [one] = await appending
    assert one.outcome == "new"
    assert await bodies(store) == ["hola"]
    await front.close()
    await store.close()


async def test_however_many_wait_while_redis_is_away_one_try_answers_for_all(own_server: Server) -> None:
    # Given far more requests than one write carries, and no Redis
    store, tries = Store.open(own_server.url, patience=0.1), 0
    call = store.run

    async def counted(*given: Any, **how: Any) -> Any:
        nonlocal tries
        tries += 1
        return await call(*given, **how)

    store.run = counted  # type: ignore[method-assign]
    front = Appender(store, a_topology())
    own_server.kill()
    told = await asyncio.gather(*(front.append([arrival(f"m{n}")]) for n in range(10 * MOST)), return_exceptions=True)
    # Then none waited for the others' tries, and those that were never sent are not said to be perhaps written
    assert [type(each) for each in told] == [Unavailable] * len(told)
    assert not any(each.maybe_written for each in told if isinstance(each, Unavailable))
    assert tries == 1
    # And who comes later is taken
    own_server.start()
    [one] = await front.append([arrival("m1")])
    assert one.outcome == "new"
    await front.close()
    await store.close()


async def test_what_was_written_is_told_so_whatever_becomes_of_those_in_the_same_write(own_server: Server) -> None:
    # Given a stream with too little room, and a Redis that goes away while some is made
    store = Store.open(own_server.url, patience=0.1)
    front = Appender(store, a_topology(streams={"inbound": {"max_len": 1}}))
    relieve = front.pressure.relieve

    async def bereft() -> bool:
        own_server.kill()
        return await relieve()

    front.pressure.relieve = bereft  # type: ignore[method-assign]
    # When a request that fits and one that does not come at once
    fits, does_not = await asyncio.gather(
        front.append([arrival("m1")]), front.append([arrival("m2"), arrival("m3")]), return_exceptions=True
    )
    # Then only the other is refused
    assert isinstance(fits, list)
    assert isinstance(does_not, Unavailable)
    own_server.start()
    assert await bodies(store) == ["hola"]
    await front.close()
    await store.close()


async def test_an_answer_that_cannot_be_read_fails_its_requests_and_none_waits_for_ever(store: Store) -> None:
    front, call = Appender(store, a_topology()), store.run

    async def garbled(*given: Any, **how: Any) -> Any:
        word, first, *_ = await call(*given, **how)
        return [word, first, [[b"new"]]]

    store.run = garbled  # type: ignore[method-assign]
    async with asyncio.timeout(5):
        first, second = await asyncio.gather(
            front.append([arrival("m1")]), front.append([arrival("m2")]), return_exceptions=True
        )
    assert isinstance(first, list)
    assert isinstance(second, ValueError)
    store.run = call  # type: ignore[method-assign]
    [one] = await front.append([arrival("m3")])
    assert one.outcome == "new"
    await front.close()


async def test_before_redis_is_full_the_ingress_sheds_and_takes_again_once_there_is_room(each_store: Store) -> None:
    front = Appender(each_store, a_topology())
    used = int((await each_store.command("INFO", "memory")).decode().partition("used_memory:")[2].split()[0])
    await each_store.command("CONFIG", "SET", "maxmemory", str(int(used * 1.1)))
    try:
        await front.pressure.measure("inbound")
        with pytest.raises(Unavailable, match="maxmemory"):
            await front.append([arrival("m1")])
    finally:
        await each_store.command("CONFIG", "SET", "maxmemory", "0")
    await front.pressure.measure("inbound")
    [one] = await front.append([arrival("m1")])
    assert one.outcome == "new"
    await front.close()


async def test_a_key_of_another_kind_in_the_way_is_reported_before_anything_is_written(each_store: Store) -> None:
    front = Appender(each_store, a_topology())
    await each_store.command("SET", "statuses", "not a stream")
    with pytest.raises(Unavailable, match="statuses is a string"):
        await front.append([arrival("m1"), arrival("m2", stream="statuses")])
    assert await bodies(each_store) == []
    await front.close()


async def test_a_request_that_waits_registers_in_the_same_act(each_store: Store) -> None:
    front = Appender(each_store, a_topology())
    waiter = Waiter(ms=5000, bell="b", ticket="t")
    [one] = await front.append([arrival("m1", waiter=waiter)])
    [entry] = await entries(each_store)
    assert entry["now"] == "1"
    deadline, bell, ticket = (await each_store.command("HGET", "waiting:inbound", one.entry_id)).decode().split("|")
    seconds, micros = await each_store.command("TIME")
    assert (bell, ticket) == ("b", "t")
    assert 0 < int(deadline) - int(seconds) * 1000 - int(micros) // 1000 <= 5000
    # A repeat takes its place; one whose reply is there already does not
    await front.append([arrival("m1", waiter=Waiter(ms=9000, bell="b", ticket="newer"))])
    assert (await each_store.command("HGET", "waiting:inbound", one.entry_id)).endswith(b"|b|newer")
    [ring] = await entries(each_store, "bell:b")
    assert (ring["ticket"], ring["entry"], ring["replaced"]) == ("t", one.entry_id, "1")
    # All of it is forgotten once nobody can wait any more
    assert 5000 < await each_store.command("PTTL", "waiting:inbound") <= 9000
    await front.append([arrival("m1", waiter=waiter)])
    assert 5000 < await each_store.command("PTTL", "waiting:inbound") <= 9000
    await each_store.command("DEL", "waiting:inbound")
    await each_store.command("HSET", f"door:{one.entry_id}", "state", "http")
    await front.append([arrival("m1", waiter=waiter)])
    assert await each_store.command("EXISTS", "waiting:inbound") == 0
    await front.close()


async def test_a_late_copy_of_an_append_takes_no_reply_from_who_waits(each_store: Store) -> None:
    # Given a message, its repeat that waits, and a still newer repeat that waits in its place
    front, copies = Appender(each_store, a_topology()), list[Any]()
    call = each_store.run

    async def copied(*given: Any, **how: Any) -> Any:
        copies.append(given)
        return await call(*given, **how)

    each_store.run = copied  # type: ignore[method-assign]
    tickets = [Waiter(ms=60_000, bell="b", ticket=name) for name in ("first", "older", "newest")]
    [one, *_] = [(await front.append([arrival("m1", waiter=waiter)]))[0] for waiter in tickets]
    # When a copy of the first call comes late, nothing changes
    await call(*copies[0])
    assert (await each_store.command("HGET", "waiting:inbound", one.entry_id)).endswith(b"|b|newest")
    # When one of the repeat's comes late, it waits again and the newest is told so: no reply has gone anywhere yet
    await call(*copies[1])
    assert (await each_store.command("HGET", "waiting:inbound", one.entry_id)).endswith(b"|b|older")
    assert [ring["ticket"] for ring in await entries(each_store, "bell:b")] == ["first", "older", "newest"]
    assert len(await bodies(each_store)) == 1
    await front.close()


async def test_a_namespace_keeps_two_bots_apart(any_server: Any, store: Store) -> None:
    other = Store.open(any_server.url, namespace="bot2")
    try:
        for each in (store, other):
            front = Appender(each, a_topology())
            [one] = await front.append([arrival("m1")])
            assert one.outcome == "new"
            await front.close()
        assert all(key.startswith(b"bot2:") for key in await store.command("KEYS", "bot2*"))
        assert await store.command("XLEN", "bot2:inbound") == await store.command("XLEN", "inbound") == 1
    finally:
        await other.close()
