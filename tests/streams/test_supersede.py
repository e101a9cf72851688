"""Who writes again while a reply is being made: with `on_new_message = "supersede"` all is answered together, once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from counts import count
from protocol import a_consumer, a_topology, bodies, end, kill, nothing, redis_ms, say
from waiting import until

from streams import metrics
from streams.bell import Bell
from streams.connection import Argument, Store
from streams.doors import Doors
from streams.effects import Answer, Effects, Handler, Metering, Output, Turn
from streams.endings import ending, keep_progress, read_progress
from streams.errors import ConfigurationError, Retry
from streams.fate import Join
from streams.handlers import find
from streams.turns import Grant, Taken, Turns
from streams.worker import Worker
from tests.streams.test_worker import an_answer, replies, settled, working

SUPERSEDE: dict[str, Any] = {"on_new_message": "supersede"}
SOON = 1.0
"""Seconds, well under those between two beats."""


class Scribe:
    """A handler that writes until it is let go, and remembers what it was given and what became of that."""

    def __init__(self) -> None:
        self.given = asyncio.Queue[Turn]()
        self.go_on = asyncio.Event()
        self.cancelled = 0

    async def handle(self, turn: Turn) -> Effects:
        self.given.put_nowait(turn)
        try:
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return an_answer(turn)

    async def next(self, within: float = 20) -> list[str]:
        return said(await asyncio.wait_for(self.given.get(), within))


def said(turn: Turn) -> list[str]:
    return [message.body.decode() for message in turn.messages]


async def join(turns: Turns, grant: Grant) -> tuple[bool, int]:
    """End a turn as a worker does that learns that it is superseded."""
    (result,) = await turns.settle([ending(turns._store.keys, turns.group, grant.turn, grant.token, [], park=Join())])
    assert isinstance(result, tuple)
    return result


async def told(store: Store, turns: Turns) -> list[str]:
    """The leases that its bell has named."""
    found = await store.command("XRANGE", store.keys.of("bell", turns.consumer), "-", "+")
    return [flat[1].decode() for _, flat in found if flat[0] == b"newer"]


async def read_by(store: Store, other: Turns, key: str, body: str, *also: Sequence[Argument]) -> Taken:
    """Somebody writes and `other` reads it, before anybody else can."""

    async def at_once(call: Sequence[Argument]) -> Any:
        entry = ("XADD", "inbound", "*", "key", key, "type", "text", "body", body)
        return (await store.pipeline([("MULTI",), entry, call, *also, ("EXEC",)]))[-1][1]

    return await other.take(5, 100, 0, at_once)


# What Redis keeps of it


async def test_whoever_reads_the_message_tells_the_one_whose_turn_it_supersedes(each_store: Store) -> None:
    one, two = await a_consumer(each_store, **SUPERSEDE), await a_consumer(each_store, **SUPERSEDE)
    await say(each_store, "+1", "asked")
    mine = (await one.take(5, 100, 1)).grants[0]
    assert (await one.beat([mine.token])).newer == []
    await say(each_store, "+1", "and")
    assert (await two.take(5, 100, 1)).grants == []
    assert await told(each_store, one) == [mine.token]
    assert 0 < await each_store.command("TTL", each_store.keys.of("bell", one.consumer)) <= 3600
    # And so does each beat, should nobody have heard the bell
    assert (await one.beat([mine.token])).newer == [mine.token]
    # When it makes way, then both are one turn, of anybody's, and nothing counts
    assert await join(one, mine) == (True, 0)
    [both] = (await two.take(5, 100, 1)).grants
    assert (bodies(both), both.starts, both.turn.superseded) == (["asked", "and"], [1, 1], 1)
    assert await end(two, both) == (True, -1)
    assert await each_store.command("KEYS", "group:g:hints") == []
    assert await each_store.command("KEYS", "group:g:attempts") == []


async def test_a_group_that_finishes_its_turns_tells_nobody(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1", "asked")
    mine = (await turns.take(5, 100, 1)).grants[0]
    await say(each_store, "+1", "and")
    await turns.take(5, 100, 1)
    assert (await turns.beat([mine.token])).newer == []
    named = await each_store.command("KEYS", f"*{turns.consumer}*")
    assert named == [turns._heartbeat.encode()]
    assert b"newer" not in await each_store.command("HGET", "group:g:hints", "n:+1")


async def test_how_often_is_known_to_whoever_goes_on_whatever_a_handler_keeps(each_store: Store) -> None:
    one, two = await a_consumer(each_store, **SUPERSEDE), await a_consumer(each_store, **SUPERSEDE)
    await say(each_store, "+1", "asked")
    mine = (await one.take(5, 100, 1)).grants[0]
    # Given a handler that has said something which is not to be said again
    mine.turn.progress = "typing"
    await join(one, mine)
    again = (await one.take(5, 100, 1)).grants[0]
    assert (again.turn.progress, again.turn.superseded) == ("typing", 1)
    # When it waits then for a server, keeping other progress, and its next worker dies
    await end(one, again, delay_ms=0, uncount=True, progress="asked")
    again = (await two.take(5, 100, 1)).grants[0]
    await kill(each_store, two)
    # Then both are still known
    after = (await one.take(5, 100, 1)).grants[0]
    assert (after.turn.progress, after.turn.superseded, after.starts) == ("asked", 1, [2])


@pytest.mark.parametrize("progress", ["", "typing", "1-0/2", "\x1f", "a\x1f7"])
@pytest.mark.parametrize("superseded", [0, 1, 12])
def test_progress_is_kept_as_it_was_beside_the_count(progress: str, superseded: int) -> None:
    assert read_progress(keep_progress(progress, superseded)) == (progress, superseded)


async def test_a_message_is_metered_once_however_often_its_turn_is_superseded(each_store: Store) -> None:
    handler = Handler(handle=nothing, metering=Metering(kind="rate_limit", window_seconds=60))
    turns = await a_consumer(each_store, handler, **SUPERSEDE)
    for number in range(1, 4):
        await say(each_store, "+1", str(number))
        grant = (await turns.take(5, 100, 1)).grants[0]
        await join(turns, grant)
    grant = (await turns.take(5, 100, 1)).grants[0]
    assert [message.count for message in grant.turn.messages] == [1, 2, 3]
    assert await each_store.command("GET", "rate_limit:+1") == b"3"


@pytest.mark.parametrize(
    ("group", "first", "second", "joins"),
    [
        ({"turn_max": 2}, ["a"], ["b"], True),
        ({"turn_max": 2}, ["a"], ["b", "c"], False),
        ({"turn_max": 2}, ["a", "b"], ["c"], False),
        ({"turn_max": 2}, ["a", "b", "c"], ["d"], False),
        ({"turn_max_chars": 10}, ["¡ñandú"], ["sí, 4"], False),
        ({"turn_max_chars": 11}, ["¡ñandú"], ["sí, 4"], True),
        ({"turn_max_chars": 3}, ["longer than that"], ["x"], False),
    ],
)
async def test_nobody_is_interrupted_for_what_the_turn_could_not_hold(
    each_store: Store, group: dict[str, Any], first: list[str], second: list[str], joins: bool
) -> None:
    turns = await a_consumer(each_store, **SUPERSEDE, **group)
    for body in first:
        await say(each_store, "+1", body)
    mine = (await turns.take(5, 100, 1)).grants[0]
    for body in second:
        await say(each_store, "+1", body)
    await turns.take(5, 100, 1)
    assert await told(each_store, turns) == [mine.token] * joins
    assert (await turns.beat([mine.token])).newer == [mine.token] * joins
    if joins:
        await join(turns, mine)
        assert bodies((await turns.take(5, 100, 1)).grants[0]) == first + second


async def test_what_was_deleted_meanwhile_takes_no_room_in_the_turn(each_store: Store) -> None:
    turns = await a_consumer(each_store, turn_max_chars=10, **SUPERSEDE)
    entry = await say(each_store, "+1", "nine char")
    mine = (await turns.take(5, 100, 1)).grants[0]
    await each_store.command("XDEL", "inbound", entry)
    await say(each_store, "+1", "nine char")
    await turns.take(5, 100, 1)
    assert await told(each_store, turns) == [mine.token]


async def test_what_no_meter_counts_interrupts_nobody_and_silences_no_message_before_it(each_store: Store) -> None:
    metering = Metering(kind="rate_limit", window_seconds=60, skip_types=("reaction",))
    turns = await a_consumer(each_store, Handler(handle=nothing, metering=metering), **SUPERSEDE)
    await say(each_store, "+1", "asked")
    mine = (await turns.take(5, 100, 1)).grants[0]

    async def reacts() -> None:
        await each_store.command("XADD", "inbound", "*", "key", "+1", "type", "reaction", "body", "👍")
        await turns.take(5, 100, 1)

    await reacts()
    assert (await told(each_store, turns), (await turns.beat([mine.token])).newer) == ([], [])
    await say(each_store, "+1", "and")
    await turns.take(5, 100, 1)
    await reacts()
    assert (await told(each_store, turns), (await turns.beat([mine.token])).newer) == ([mine.token], [mine.token])


async def test_the_window_begins_anew_with_the_message_and_slides_but_not_for_ever(each_store: Store) -> None:
    async def due() -> int:
        return int(await each_store.command("ZSCORE", "group:g:due", "+1"))

    turns = await a_consumer(each_store, debounce=2, debounce_max=10, **SUPERSEDE)
    now = await redis_ms(each_store)
    # Given a turn begun a minute ago, and a message that came nine seconds ago
    await say(each_store, "+1", id=f"{now - 60_000}-0")
    mine = (await turns.take(5, 100, 1)).grants[0]
    await say(each_store, "+1", id=f"{now - 9_000}-0")
    await turns.take(5, 100, 1)
    # When it makes way, then it is due when that message's window ends, which is by now
    await join(turns, mine)
    assert now <= await due() <= await redis_ms(each_store)
    mine = (await turns.take(5, 100, 1)).grants[0]
    assert len(mine.turn.messages) == 2
    # And when they write on, then each message restarts it, within ten seconds of the first since
    await say(each_store, "+1", id=f"{now - 8_500}-0")
    await turns.take(5, 100, 1)
    assert (await join(turns, mine))[0]
    for past in (7_000, 5_500, 4_000, 2_500, 1_000):
        await say(each_store, "+1", id=f"{now - past}-0")
    assert (await turns.take(0, 100, 0)).grants == []
    assert await due() == now + 1_000
    await say(each_store, "+1", id=f"{now - 1}-0")
    await turns.take(0, 100, 0)
    assert await due() == now - 8_500 + 10_000
    # And what is superseded no more has a window like everybody's
    await each_store.command("ZADD", "group:g:due", now, "+1")
    await end(turns, (await turns.take(5, 100, 0)).grants[0])
    assert await each_store.command("EXISTS", "group:g:hints") == 0


async def test_a_message_that_is_to_start_at_once_does_so_and_nothing_restarts_its_window(each_store: Store) -> None:
    turns = await a_consumer(each_store, debounce=2, debounce_max=10, **SUPERSEDE)
    await say(each_store, "+1", "asked", now="1")
    mine = (await turns.take(5, 100, 1)).grants[0]
    await say(each_store, "+1", "and", now="1")
    await turns.take(5, 100, 1)
    assert await join(turns, mine) == (True, 0)
    await say(each_store, "+1", "more")
    assert bodies((await turns.take(5, 100, 1)).grants[0]) == ["asked", "and", "more"]


@pytest.mark.parametrize("waits", [True, False])
async def test_a_request_that_waits_is_not_made_to_sit_out_the_window_of_what_came_behind_it(
    each_store: Store, waits: bool
) -> None:
    turns = await a_consumer(each_store, debounce=2, debounce_max=10, **SUPERSEDE)
    entry = await say(each_store, "+1", "asked", now="1")
    deadline = await redis_ms(each_store) + (60_000 if waits else -1)
    await each_store.command("HSET", "waiting:inbound", entry, f"{deadline}|front|t1")
    mine = (await turns.take(5, 100, 1)).grants[0]
    await say(each_store, "+1", "and")
    await turns.take(5, 100, 1)
    _, due_ms = await join(turns, mine)
    assert due_ms == 0 if waits else 0 < due_ms <= 2_000
    await say(each_store, "+1", "more")
    [grant] = (await turns.take(5, 100, 1)).grants if waits else [None]
    assert grant is None or bodies(grant) == ["asked", "and", "more"]


async def test_of_two_requests_that_wait_the_last_gets_the_text_and_the_first_learns_who(each_store: Store) -> None:
    turns, doors = await a_consumer(each_store, **SUPERSEDE), Doors(each_store, a_topology(), "inbound")

    async def ask(ticket: str) -> str:
        entry = await say(each_store, "+1", ticket, now="1")
        await each_store.command(
            "HSET", "waiting:inbound", entry, f"{await redis_ms(each_store) + 9_999}|front|{ticket}"
        )
        return entry

    first = await ask("t1")
    mine = (await turns.take(5, 100, 1)).grants[0]
    second = await ask("t2")
    await turns.take(5, 100, 1)
    await join(turns, mine)
    assert (await doors.claim("+1", first, "t1")).state == "pending"
    both = (await turns.take(5, 100, 1)).grants[0]
    effects = Effects(
        outputs=[Output(stream="outbound", type="reply", body={"message": "hola"}, answers=True)],
        answer=Answer(status="replied", body={"reply": "hola"}),
    )
    await end(turns, both, effects)
    assert await doors.claim("+1", second, "t2") == await doors.claim("+1", second, "t2")
    claimed = await doors.claim("+1", second, "t2")
    assert (claimed.state, claimed.answer) == ("claimed", b'{"reply":"hola"}')
    merged = await doors.claim("+1", first, "t1")
    assert (merged.state, merged.into) == ("merged", second)
    assert await each_store.command("XLEN", "outbound") == 1


async def test_a_full_redis_still_lets_turns_be_superseded(each_store: Store) -> None:
    turns = await a_consumer(each_store, **SUPERSEDE)
    await say(each_store, "+1", "asked")
    mine = (await turns.take(5, 100, 1)).grants[0]
    await say(each_store, "+1", "and")
    await each_store.command("CONFIG", "SET", "maxmemory", "1")
    try:
        await turns.take(5, 100, 1)
        assert await told(each_store, turns) == [mine.token]
        assert await join(turns, mine) == (True, 0)
        assert bodies((await turns.take(5, 100, 1)).grants[0]) == ["asked", "and"]
    finally:
        await each_store.command("CONFIG", "SET", "maxmemory", "0")


# Workers


async def test_a_reply_in_work_is_left_and_one_reply_answers_both_messages(each_store: Store) -> None:
    scribe, counted = Scribe(), metrics.TURNS.labels("g", "superseded")
    before = count(counted)
    async with working(each_store, scribe.handle, **SUPERSEDE):
        await say(each_store, "+1", "asked")
        assert await scribe.next() == ["asked"]
        await say(each_store, "+1", "and")
        assert await scribe.next(SOON) == ["asked", "and"]
        scribe.go_on.set()
        await until(settled(each_store))
    assert await replies(each_store) == ['{"to":"+1","said":["asked","and"]}']
    assert (scribe.cancelled, count(counted) - before) == (1, 1)


async def test_without_the_setting_a_reply_in_work_is_finished(store: Store) -> None:
    scribe = Scribe()
    async with working(store, scribe.handle):
        await say(store, "+1", "asked")
        await scribe.next()
        await read_by(store, await a_consumer(store), "+1", "and")
        scribe.go_on.set()
        await until(settled(store))
    assert [said for said in await replies(store)] == ['{"to":"+1","said":["asked"]}', '{"to":"+1","said":["and"]}']
    assert scribe.cancelled == 0


@pytest.mark.parametrize("concurrency", [1, 16])
async def test_a_worker_learns_at_once_that_another_has_read_the_message(
    store: Store, monkeypatch: pytest.MonkeyPatch, concurrency: int
) -> None:
    # Given a worker with a turn in work, with places left or none, that beats once
    monkeypatch.setattr("streams.housekeeping.BEAT", 600)
    scribe = Scribe()
    async with working(store, scribe.handle, concurrency=concurrency, **SUPERSEDE):
        await say(store, "+1", "asked")
        assert await scribe.next() == ["asked"]
        # When another reads the next message
        other = await a_consumer(store, **SUPERSEDE)
        assert (await read_by(store, other, "+1", "and")).read == 1
        # Then its reply is made anew well before anybody would have beaten
        assert await scribe.next(SOON) == ["asked", "and"]
        scribe.go_on.set()
        await until(settled(store))
    assert await replies(store) == ['{"to":"+1","said":["asked","and"]}']


async def test_a_bell_that_nobody_heard_is_made_good_by_the_next_beat(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.housekeeping.BEAT", 0.05)
    scribe = Scribe()
    async with working(store, scribe.handle, **SUPERSEDE) as worker:
        await say(store, "+1", "asked")
        await scribe.next()
        other = await a_consumer(store, **SUPERSEDE)
        await read_by(store, other, "+1", "and", ("DEL", store.keys.of("bell", worker._turns.consumer)))
        assert await scribe.next() == ["asked", "and"]
        scribe.go_on.set()
        await until(settled(store))


async def test_two_workers_answer_everybody_once_whoever_reads_and_whoever_replies(store: Store) -> None:
    # Given twenty people who each write three times, the later two while a reply is being made
    people, again = [f"+{n}" for n in range(20)], asyncio.Queue[str]()

    async def handle(turn: Turn) -> Effects:
        if len(turn.messages) < 3:
            again.put_nowait(turn.key)
            await asyncio.Event().wait()
        return an_answer(turn)

    group = {"concurrency": 12, **SUPERSEDE}
    async with working(store, handle, **group), working(store, handle, **group):
        for person in people:
            await say(store, person, "0")
        written = dict.fromkeys(people, 1)
        while sum(written.values()) < 3 * len(people):
            person = await asyncio.wait_for(again.get(), 20)
            await say(store, person, str(written[person]))
            written[person] += 1
        await until(settled(store))
    expected = [f'{{"to":"{person}","said":["0","1","2"]}}' for person in people]
    assert sorted(await replies(store)) == sorted(expected)


async def test_whoever_writes_on_and_on_is_answered_within_the_bound(store: Store) -> None:
    # Given somebody who writes again each time that a reply is begun
    begun = list[tuple[list[str], int]]()

    async def handle(turn: Turn) -> Effects:
        begun.append((said(turn), turn.superseded))
        if len(begun) <= 3:
            await say(store, "+1", f"and {len(begun)}")
            await until(lambda: _all_read(store))
        if len(begun) < 3:
            await asyncio.Event().wait()
        return an_answer(turn)

    async with working(store, handle, supersede_max=2, attempts=1, **SUPERSEDE):
        await say(store, "+1", "asked")
        await until(settled(store))
    # Then the third reply is not interrupted, and what came during it is answered next, with a bound of its own
    assert begun[:3] == [(["asked"], 0), (["asked", "and 1"], 1), (["asked", "and 1", "and 2"], 2)]
    assert begun[3] == (["and 3"], 0)
    assert (await replies(store))[0] == '{"to":"+1","said":["asked","and 1","and 2"]}'
    assert await store.command("XLEN", "inbound.dead") == 0


async def _all_read(store: Store) -> bool:
    [newest] = await store.command("XREVRANGE", "inbound", "+", "-", "COUNT", "1")
    return bool(await store.command("GET", "group:g:cursor") == newest[0])


async def test_a_worker_without_a_free_place_reads_on_and_makes_a_place_of_what_it_leaves(store: Store) -> None:
    # Given a worker of one place, and somebody in it
    scribe, now = Scribe(), await redis_ms(store)
    async with working(store, scribe.handle, concurrency=1, **SUPERSEDE):
        await say(store, "+1", "asked", id=f"{now - 100}-0")
        assert await scribe.next() == ["asked"]
        # When others write, and then that person again
        await say(store, "+2", "other", id=f"{now - 50}-0")
        await until(lambda: _all_read(store))
        await say(store, "+1", "and")
        # Then who has waited longest has the place
        assert await scribe.next() == ["other"]
        scribe.go_on.set()
        assert await scribe.next() == ["asked", "and"]
        await until(settled(store))
    assert len(await replies(store)) == 2


async def test_a_place_that_becomes_free_while_it_reads_on_is_taken_at_once_and_by_one_call(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker of one place, which is taken, that neither beats nor ends its sleep by itself
    monkeypatch.setattr("streams.housekeeping.BEAT", 600)
    monkeypatch.setattr("streams.bell.BLOCK_MS", 600_000)
    scribe, rooms = Scribe(), list[int]()
    async with working(store, scribe.handle, concurrency=1, **SUPERSEDE) as worker:
        await say(store, "+1", "asked")
        assert await scribe.next() == ["asked"]
        await say(store, "+2", "other")
        await until(lambda: _all_read(store))
        await until(lambda: asyncio.sleep(0, worker._bell.asleep))
        take = worker._turns.take

        async def counted(room: int, *more: Any) -> Taken:
            rooms.append(room)
            return await take(room, *more)

        worker._turns.take = counted  # type: ignore[method-assign]
        scribe.go_on.set()
        assert await scribe.next(SOON) == ["other"]
        assert rooms[0] == 1
        await until(settled(store))


async def test_a_worker_far_behind_reads_no_further_than_it_has_places(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given more than one take brings, and a worker of one place
    monkeypatch.setattr("streams.worker.READ_COUNT", 2)
    for number in range(6):
        await say(store, f"+{number}", "asked")
    scribe = Scribe()
    async with working(store, scribe.handle, concurrency=1, **SUPERSEDE) as worker:
        await scribe.next()
        calls = worker._turns._calls
        for _ in range(5):
            await worker._turns.beat(worker._in_work.tokens())
        assert worker._turns._calls == calls
        scribe.go_on.set()
        await until(settled(store))
    assert len(await replies(store)) == 6


async def test_a_worker_without_a_free_place_that_finishes_its_turns_reads_nothing(store: Store) -> None:
    scribe = Scribe()
    async with working(store, scribe.handle, concurrency=1) as worker:
        await say(store, "+1", "asked")
        await scribe.next()
        calls = worker._turns._calls
        await say(store, "+2", "other")
        await worker._turns.beat(worker._in_work.tokens())
        assert worker._turns._calls == calls
        scribe.go_on.set()
        await until(settled(store))


async def test_a_worker_without_a_free_place_does_not_read_on_and_on(store: Store) -> None:
    # Given one of two places, both of them taken, and somebody whose time has come
    scribe = Scribe()
    async with working(store, scribe.handle, concurrency=2, **SUPERSEDE) as worker:
        for person in ("+1", "+2", "+3"):
            await say(store, person, person)
        assert [await scribe.next(), await scribe.next()] == [["+1"], ["+2"]]
        await until(lambda: _all_read(store))
        await until(lambda: asyncio.sleep(0, worker._bell.asleep))
        calls = worker._turns._calls
        for _ in range(20):
            await worker._turns.beat(worker._in_work.tokens())
        assert worker._turns._calls <= calls + 1
        # And it stops where it sleeps
        scribe.go_on.set()
        await until(settled(store))


async def test_a_worker_told_to_stop_while_it_reads_on_stops(store: Store) -> None:
    scribe = Scribe()
    async with working(store, scribe.handle, concurrency=1, **SUPERSEDE) as worker:
        await say(store, "+1", "asked")
        await scribe.next()
        await until(lambda: asyncio.sleep(0, worker._bell.asleep))
        worker.stop()
        scribe.go_on.set()
    assert len(await replies(store)) == 1


async def interrupted(store: Store, begun: asyncio.Event) -> None:
    """They ask, write on once that is being handled, and all of it is settled."""
    await say(store, "+1", "asked")
    await begun.wait()
    await say(store, "+1", "and")
    await until(settled(store))


async def test_a_reply_that_is_made_in_spite_of_all_is_committed_and_what_came_is_answered_next(store: Store) -> None:
    begun, given = asyncio.Event(), list[list[str]]()

    async def handle(turn: Turn) -> Effects:
        given.append(said(turn))
        if len(given) == 1:
            begun.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                pass
        return an_answer(turn)

    async with working(store, handle, **SUPERSEDE):
        await interrupted(store, begun)
    assert given == [["asked"], ["and"]]
    assert len(await replies(store)) == 2


async def test_an_error_that_a_cancelled_handler_ends_with_is_no_failure(store: Store) -> None:
    begun, starts = asyncio.Event(), list[tuple[int, str]]()

    async def handle(turn: Turn) -> Effects:
        starts.append((turn.attempt, turn.progress))
        if len(starts) > 1:
            return an_answer(turn)
        turn.progress = "typing"
        begun.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Retry("the engine has let go") from None
        raise AssertionError

    async with working(store, handle, attempts=1, **SUPERSEDE):
        await interrupted(store, begun)
    assert starts == [(1, ""), (1, "typing")]
    assert await store.command("XLEN", "inbound.dead") == 0


async def test_one_that_will_not_end_is_left_behind_and_the_person_is_answered(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.inwork.CANCEL_GRACE", 0.05)
    begun, over, starts = asyncio.Event(), asyncio.Event(), list[int]()

    async def handle(turn: Turn) -> Effects:
        starts.append(turn.attempt)
        while len(starts) == 1:
            begun.set()
            try:
                await over.wait()
                break
            except asyncio.CancelledError:
                continue
        return an_answer(turn)

    async with working(store, handle, **SUPERSEDE):
        await interrupted(store, begun)
        assert await replies(store) == ['{"to":"+1","said":["asked","and"]}']
        over.set()
    assert starts == [1, 1]
    assert len(await replies(store)) == 1


async def test_a_worker_killed_when_it_has_let_go_but_not_said_so_is_followed_by_one_reply_to_both(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a worker whose turn is superseded, and that dies before Redis hears of it
    settle, under_way = Turns.settle, asyncio.Queue[Any]()

    async def held_up(turns: Turns, endings: Any) -> Any:
        if turns is not first._turns:
            return await settle(turns, endings)
        under_way.put_nowait(endings)
        await asyncio.Event().wait()

    monkeypatch.setattr(Turns, "settle", held_up)
    top, scribe = a_topology(**SUPERSEDE), Scribe()
    first = Worker(store, top, top.groups["g"], Handler(handle=scribe.handle))
    running = asyncio.create_task(first.run(0))
    await say(store, "+1", "asked")
    assert await scribe.next() == ["asked"]
    await say(store, "+1", "and")
    late = await under_way.get()
    running.cancel()
    await asyncio.wait([running])
    await kill(store, first._turns)
    # Then another answers both at once
    second = Scribe()
    async with working(store, second.handle, **SUPERSEDE):
        assert await second.next() == ["asked", "and"]
        # And what was under way comes too late
        assert await settle(first._turns, late) == [(False, -1)]
        second.go_on.set()
        await until(settled(store))
    assert await replies(store) == ['{"to":"+1","said":["asked","and"]}']


async def test_a_suspect_is_left_in_peace_for_nothing_can_join_it(store: Store) -> None:
    scribe = Scribe()
    await say(store, "+1", "suspect")
    for _ in range(2):
        turns = await a_consumer(store, **SUPERSEDE)
        assert len((await turns.take(5, 100, 1)).grants) == 1
        await kill(store, turns)
    async with working(store, scribe.handle, **SUPERSEDE) as worker:
        assert await scribe.next() == ["suspect"]
        await read_by(store, await a_consumer(store, **SUPERSEDE), "+1", "and")
        [token] = worker._in_work.tokens()
        await until(lambda: asyncio.sleep(0, worker._bell._own_last != "0-0"))
        assert worker._in_work.tokens() == [token]
        scribe.go_on.set()
        await until(settled(store))
    assert (scribe.cancelled, len(await replies(store))) == (0, 2)


async def test_a_bell_that_names_a_lease_of_long_ago_is_nobodys_concern(store: Store) -> None:
    heard = list[str]()
    bell = Bell(store, a_topology().groups["g"], "somebody", heard.append)
    await store.command("XADD", "bell:somebody", "*", "newer", "somebody.1.1.1")
    await store.command("XADD", "bell:somebody", "*", "ring", "1")
    for _ in range(2):
        await bell.wait("0-0", 1)
    assert heard == ["somebody.1.1.1"]
    await bell.close()
    top = a_topology(**SUPERSEDE)
    Worker(store, top, top.groups["g"], Handler(handle=nothing))._in_work.supersede(heard[0])


# What may be asked for


async def test_a_handler_that_acts_outside_redis_is_not_to_be_cancelled(tmp_path: Path) -> None:
    (tmp_path / "posts.py").write_text(
        "from streams import handler\n\n\n@handler(outside=True)\nasync def post(turn): ...\n", encoding="utf-8"
    )
    top = a_topology(handler="posts:post", **SUPERSEDE)
    top.path = tmp_path / "streams.toml"
    with pytest.raises(ConfigurationError) as caught:
        find(top.groups["g"], top)
    assert find(a_topology(handler="posts:post").groups["g"], top).outside
    assert str(caught.value) == (
        "streams.toml: groups.g.on_new_message = 'supersede' is not for 'posts:post', which acts outside Redis: "
        "cancelled, it may have acted already; write 'finish'"
    )
