"""What the journals keep of turns, on a real Redis: written with what they tell of, read again, and kept in bounds."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from protocol import a_consumer, a_topology, redis_ms, say
from waiting import until

from streams import groups, journal, journals, retention
from streams.connection import Store
from streams.effects import Effects, Handler, Message, Turn, Write
from streams.endings import ending
from streams.erasure.erase import Erasure
from streams.errors import Bury, Retry
from streams.journal import Ending, Told
from streams.memory import Memory
from streams.settings import Settings
from streams.stores import Stores
from streams.tables import Journal, Seconds
from streams.worker import Worker

JOURNAL = "group:g:journal"


@contextlib.asynccontextmanager
async def working(store: Store, handle: Any, *, keep: float = 60, **group: Any) -> AsyncIterator[None]:
    top = a_topology(**group)
    top.journal = Journal(keep=Seconds(keep))
    worker = Worker(store, top, top.groups["g"], handle if isinstance(handle, Handler) else Handler(handle=handle))
    running = asyncio.create_task(worker.run(5))
    try:
        yield
    finally:
        worker.stop()
        await running


async def told(store: Store, count: int) -> list[Told]:
    """What the journal tells, once it tells of so many turns."""
    found: list[Told] = []

    async def enough() -> bool:
        rows = await store.command("XRANGE", JOURNAL, "-", "+")
        found[:] = [each for _, flat in rows for each in journal.read(flat[1])]
        return len(found) >= count

    await until(enough)
    return found


async def test_each_end_of_a_turn_is_told_with_its_notes(each_store: Store) -> None:
    tries = iter([Retry("the room is taken", after=0.01), Retry("busy", after=0.01, counted=False), None])

    async def handle(turn: Turn) -> None:
        turn.note("booked", room=3, price=1.5, sure=True, whom="59112345678", user_id="+59112345678")
        if error := next(tries):
            raise error

    async with working(each_store, handle):
        id = await say(each_store, "+591")
        first, second, third = await told(each_store, 3)
    assert [each.end for each in (first, second, third)] == ["parked", "parked", "settled"]
    assert (first.why, first.wait_ms, first.counted, first.attempt) == ("the room is taken", 10, True, 1)
    assert (second.why, second.counted, second.attempt, third.attempt) == ("busy", False, 2, 2)
    assert {tuple(each.of) for each in (first, second, third)} == {(id,)}
    [note] = third.notes
    facts = {"room": 3, "price": 1.5, "sure": True, "whom": "+591…678", "user_id": "+591…678"}
    assert (note.name, note.facts) == ("booked", facts)


async def test_a_burial_is_told_of_what_it_buried(each_store: Store) -> None:
    async def handle(turn: Turn) -> None:
        raise Bury("Ana's number is +591 123-45678")

    async with working(each_store, handle):
        id = await say(each_store, "+591")
        [one] = await told(each_store, 1)
    assert (one.end, one.of, one.why) == ("buried", [id], "Ana's number is +591…678")


async def test_what_an_error_quotes_is_in_no_journal_and_no_log_of_production_and_in_the_letter_until_an_erase(
    each_store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Given production, and a handler whose error quotes what the person wrote
    monkeypatch.setattr("streams.log._Quiet.production", True)

    async def handle(turn: Turn) -> None:
        int(turn.messages[-1].body)

    # When it fails until it is buried
    async with working(each_store, handle, attempts=2, backoff=[0]):
        await say(each_store, "+591", "tengo diabetes")
        parked, buried = await told(each_store, 2)
    # Then the journal and the log say where, and the dead letter what
    [(_, letter)] = await each_store.command("XRANGE", "inbound.dead", "-", "+")
    assert b"diabetes" in dict(zip(letter[::2], letter[1::2], strict=True))[b"reason"]
    logged = [record.fields["why"] for record in caplog.records if hasattr(record, "fields") and "why" in record.fields]
    for why in (parked.why, buried.why, *logged):
        assert why.startswith(f"ValueError at {Path(__file__).name}:")
    assert len(logged) == 2
    # And once the person is erased, no key has a word of it
    top = a_topology()
    settings = Settings(data_dir=Path("/nowhere"))
    await Erasure(Stores.alone(each_store), top, settings, "+591", heard=0).run()
    for key in await each_store.command("KEYS", "*"):
        assert b"diabetes" not in (await each_store.command("DUMP", key)), key


async def test_with_keep_0_nothing_is_told(each_store: Store) -> None:
    done = asyncio.Event()

    async def handle(turn: Turn) -> Effects:
        done.set()
        return Effects(writes=[Write(kind="own", value=b"1", ttl_seconds=60)])

    async with working(each_store, handle, keep=0):
        await say(each_store, "+591")
        await done.wait()
        await until(lambda: there(each_store, "own:g:+591"))
    assert not await there(each_store, JOURNAL)


async def there(store: Store, key: str) -> bool:
    return bool(await store.command("EXISTS", key))


async def test_turns_that_end_together_are_one_entry_and_those_refused_are_left_out(each_store: Store) -> None:
    # Given three turns in work, of which one was handed to somebody else meanwhile
    turns = await a_consumer(each_store)
    said = [await say(each_store, f"+{number}") for number in range(3)]
    grants = (await turns.take(5, 100, 1)).grants
    await each_store.command("HSET", "group:g:leases", "+1", "another's")
    # When all end in one call
    ends = [
        ending(each_store.keys, turns.group, grant.turn, grant.token, [grant.turn.id], journaled=True)
        for grant in grants
    ]
    assert await turns.settle(ends) == [(True, -1), (False, -1), (True, -1)]
    # Then one entry tells of the two
    [row] = await each_store.command("XRANGE", JOURNAL, "-", "+")
    assert [each.of for each in journal.read(row[1][1])] == [[said[0]], [said[2]]]


async def test_turns_with_and_without_a_line_end_in_one_call(store: Store) -> None:
    # While workers are exchanged for those of another setting, say
    turns = await a_consumer(store)
    said = [await say(store, f"+{number}") for number in range(3)]
    grants = (await turns.take(5, 100, 1)).grants
    await store.command("HSET", "group:g:leases", "+0", "another's")
    ends = [
        ending(store.keys, turns.group, grant.turn, grant.token, [grant.turn.id], journaled=number == 2)
        for number, grant in enumerate(grants)
    ]
    assert [done for done, _ in await turns.settle(ends)] == [False, True, True]
    assert [each.of for each in await told(store, 1)] == [[said[2]]]


async def test_a_key_of_another_type_in_the_journals_place_costs_no_turn(each_store: Store) -> None:
    await each_store.command("SET", JOURNAL, "somebody else's")
    turns = await a_consumer(each_store)
    await say(each_store, "+1")
    [grant] = (await turns.take(5, 100, 1)).grants
    end = ending(each_store.keys, turns.group, grant.turn, grant.token, [grant.turn.id], journaled=True)
    assert await turns.settle([end]) == [(True, -1)]
    assert await retention.trim(each_store, a_topology())


async def test_effects_in_whose_place_others_were_committed_say_so(each_store: Store) -> None:
    await each_store.command("SET", "paused:+1", "1")

    async def handle(turn: Turn) -> Effects:
        return Effects(unless="paused", instead=Effects)

    async with working(each_store, handle):
        await say(each_store, "+1")
        [one] = await told(each_store, 1)
    assert [note.name for note in one.notes] == ["changed"]


class Mute:
    def __str__(self) -> str:
        raise RuntimeError


def test_whatever_a_handler_notes_can_be_told() -> None:
    message = Message(id="1728123456789-0", type="text", body=b"")
    turn = Turn(group="g", key="+591", messages=[message])
    for number in range(40):
        turn.note("x" * 300, thing=object(), nothing=None, long="y" * 999, infinite=float("inf"), number=number)
    turn.notes[1].facts.update({"huge": 10**99, "half": "\ud83d", "mute": Mute()})
    [one] = journal.read(journal.told(turn, []))
    assert len(one.notes) == journal.MOST_NOTES
    assert len(one.notes[0].facts["long"]) == journal.LONGEST
    assert len(one.notes[0].name) == journal.LONGEST
    assert one.notes[0].facts["nothing"] is None
    assert [one.notes[1].facts[name] for name in ("huge", "half", "mute")] == [10**99, "?", "RuntimeError"]
    turn.note("half \ud83d")
    turn.notes.reverse()
    [one] = journal.read(journal.told(turn, []))
    assert one.notes == []
    assert list(journal.read(b'not json\n{"of":1}\n')) == []


# --- read


async def keep(store: Store, at_ms: int, *lines: bytes) -> None:
    await store.command("XADD", JOURNAL, f"{at_ms}-0", "turns", b"".join(lines))


def line(id: str, at_ms: int, more: str = "") -> bytes:
    return f'{{"of":["{id}"],"at":{at_ms}{more}}}\n'.encode()


async def read(store: Store, id: str) -> list[Ending]:
    return (await journals.read(store, "g", id, int(id.split("-")[0]))).endings


async def test_a_story_is_read_from_one_end_to_the_next(each_store: Store) -> None:
    await keep(each_store, 5000, line("4000-0", 4900, ',"end":"parked","wait_ms":60000'), line("4000-1", 4900))
    await keep(each_store, 64_000, line("4000-00", 63_000))
    await keep(each_store, 65_500, line("9-0", 65_000), line("4000-0", 65_100, ',"attempt":2'))
    assert [(each.at_ms, each.told.end) for each in await read(each_store, "4000-0")] == [
        (5000, "parked"),
        (65_500, "settled"),
    ]
    assert [each.at_ms for each in await read(each_store, "4000-1")] == [5000]
    assert await read(each_store, "4000-2") == []


async def test_what_a_request_took_while_it_was_held_for_it_is_told_to_the_end(each_store: Store) -> None:
    async def handle(turn: Turn) -> None:
        if not turn.progress:
            # As claim.lua does, while the turn that is to be held is in work.
            await each_store.command("HSET", "group:g:hints", "w:+591", "1")
            raise Retry("door", after=60, counted=False, at_door=True, progress="held")
        turn.note("claimed")

    async with working(each_store, handle):
        id = await say(each_store, "+591")
        await told(each_store, 2)
    assert [each.told.end for each in await read(each_store, id)] == ["parked", "settled"]


async def test_how_a_message_ended_that_waited_long_is_found_by_halving(store: Store, monkeypatch) -> None:
    # Given a group that came to each message an hour late, and looks of ten entries
    monkeypatch.setattr(journals, "NEAR", 10)
    monkeypatch.setattr(journals, "MARGIN_MS", 100)
    hour = 3_600_000
    for number in range(500):
        id, at = f"{1_000_000 + number * 100}-0", 1_000_000 + hour + number * 100
        await keep(store, at, line(id, at - 5))
    # Then any of them is found with few of them looked at
    for number in (0, 1, 250, 498, 499):
        await store.command("CONFIG", "RESETSTAT")
        [found] = await read(store, f"{1_000_000 + number * 100}-0")
        assert found.at_ms == 1_000_000 + hour + number * 100
        stats = (await store.command("INFO", "commandstats")).decode()
        assert int(stats.split("cmdstat_evalsha:calls=")[1].split(",")[0]) <= 2


# --- bounds


async def filled(store: Store, entries: int, at_ms: int = 0, bytes: int = 1000) -> None:
    at_ms = at_ms or await redis_ms(store)
    await store.pipeline([("XADD", JOURNAL, f"{at_ms}-{n}", "turns", "x" * bytes) for n in range(1, entries + 1)])


async def kept(store: Store) -> int:
    return int(await store.command("XLEN", JOURNAL))


async def test_what_is_old_goes_and_the_journal_stays_as_small_as_it_is_to_be(each_store: Store) -> None:
    now = await redis_ms(each_store)
    await filled(each_store, 10, at_ms=now - 61_000)
    await filled(each_store, 3000, at_ms=now)
    table = Journal(keep=Seconds(60), max_mb=2)
    await journals.trim(each_store, ["g"], table, now, 0.0)
    assert 1800 < await kept(each_store) <= 2100
    assert await each_store.command("MEMORY", "USAGE", JOURNAL, "SAMPLES", 0) <= 1.01 * (2 << 20)
    # Two groups share it, and a full Redis makes room here first
    await journals.trim(each_store, ["g", "h"], table, now, 0.0)
    assert 900 < (half := await kept(each_store)) <= 1050
    await journals.trim(each_store, ["g"], table, now, 0.71)
    assert await kept(each_store) == pytest.approx(0.9 * half, abs=2)


async def test_whoever_may_not_ask_for_its_size_keeps_it_small_all_the_same(own_server: Server) -> None:
    store = Store.open(own_server.url)
    await store.command("ACL", "SETUSER", "few", "on", ">few", "~*", "+@all", "-memory")
    few = Store.open(own_server.url.replace("://", "://few:few@"))
    await filled(store, 300)
    await journals.trim(few, ["g"], Journal(max_mb=1), await redis_ms(store), 0.0)
    assert await kept(store) <= (1 << 20) / journals.LARGEST
    await few.close()
    await store.close()


async def test_retention_trims_journals_and_a_group_that_is_dropped_takes_its_own_along(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    now = await redis_ms(each_store)
    await filled(each_store, 2, at_ms=now - 8 * 86_400_000)
    await filled(each_store, 5, at_ms=now)
    await retention.trim(each_store, a_topology(), Memory())
    assert await kept(each_store) == 5
    await turns.leave()
    await each_store.command("DEL", turns._heartbeat)
    await groups.drop(Stores.alone(each_store), "inbound", "g")
    assert await kept(each_store) == 0


def test_a_handler_in_a_test_notes_as_in_a_worker() -> None:
    turn = Turn(group="g", key="+1", messages=[Message(id="1-0", type="text", body=b"")])
    turn.note("seen", times=2)
    assert (turn.notes[0].name, turn.notes[0].facts) == ("seen", {"times": 2})
