"""The loop of a worker on a real Redis: each test starts one, and waits for events, never for time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from conftest import Server
from counts import count
from protocol import a_topology, redis_ms, say
from waiting import until

from streams import metrics, turns, wire
from streams.connection import Store
from streams.effects import Effects, Handler, Output, Turn
from streams.endings import NotAllowed
from streams.errors import Crash, Retry
from streams.watch import Consumer, Watch
from streams.worker import Worker

pytestmark = pytest.mark.filterwarnings("error")


@contextlib.asynccontextmanager
async def working(store: Store, handle: Any, *, grace: float = 5, **group: Any) -> AsyncIterator[Worker]:
    """A worker that serves while the context is open, and is stopped at its end."""
    handler = handle if isinstance(handle, Handler) else Handler(handle=handle)
    top = a_topology(**group)
    worker = Worker(store, top, top.groups["g"], handler)
    running = asyncio.create_task(worker.run(grace))
    opened = asyncio.create_task(worker.opened.wait())
    await asyncio.wait([running, opened], return_when=asyncio.FIRST_COMPLETED)
    try:
        yield worker
    finally:
        opened.cancel()
        worker.stop()
        await running


def settled(store: Store) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        # In this order: what is taken between the two looks is pending in the second.
        cursor = await store.command("GET", "group:g:cursor")
        unread = await store.command("XRANGE", "inbound", f"({cursor.decode()}", "+", "COUNT", "1")
        pending = await store.command("XPENDING", "inbound", "g")
        return pending[0] == 0 and not unread

    return check


def an_answer(turn: Turn) -> Effects:
    said = [message.body.decode() for message in turn.messages]
    return Effects(outputs=[Output(stream="outbound", type="reply", body={"to": turn.key, "said": said})])


async def replies(store: Store) -> list[str]:
    return [dict(zip(flat[::2], flat[1::2], strict=True))[b"body"].decode()
            for _, flat in await store.command("XRANGE", "outbound", "-", "+")]  # fmt: skip


async def test_people_are_handled_side_by_side_and_none_waits_for_another(store: Store) -> None:
    everybody, here = asyncio.Event(), set()

    async def handle(turn: Turn) -> Effects:
        here.add(turn.key)
        if len(here) == 5:
            everybody.set()
        await everybody.wait()
        return an_answer(turn)

    async with working(store, handle):
        for person in range(5):
            await say(store, f"+{person}")
        await until(settled(store))
    assert len(await replies(store)) == 5


async def test_a_message_that_comes_to_an_idle_worker_is_handled(store: Store) -> None:
    handled = asyncio.Queue[str]()

    async def handle(turn: Turn) -> None:
        handled.put_nowait(turn.key)

    async with working(store, handle):
        for person in ("+1", "+2", "+3"):
            await say(store, person)
            assert await asyncio.wait_for(handled.get(), 20) == person


async def test_each_persons_messages_are_handled_in_order_and_once(store: Store) -> None:
    said: dict[str, list[str]] = {}

    async def handle(turn: Turn) -> None:
        await asyncio.sleep(0)
        said.setdefault(turn.key, []).extend(message.body.decode() for message in turn.messages)

    async with working(store, handle, concurrency=4), working(store, handle, concurrency=4):
        for number in range(300):
            await say(store, f"+{number % 7}", f"{number}")
        await until(settled(store))
    assert said == {f"+{person}": [f"{n}" for n in range(300) if n % 7 == person] for person in range(7)}


async def test_a_handler_that_fails_is_tried_again_and_then_buried_with_an_apology(store: Store) -> None:
    attempts = []

    async def handle(turn: Turn) -> None:
        attempts.append(turn.attempt)
        raise ValueError("no")

    def buried(turn: Turn, why: str) -> Effects:
        return Effects(outputs=[Output(stream="outbound", type="reply", body={"sorry": why})])

    handler = Handler(handle=handle, buried=buried)
    retries = metrics.RETRIES.labels("g")._value.get()
    async with working(store, handler, attempts=3, backoff=[0]):
        await say(store, "+1", "poison")
        await until(settled(store))
    assert attempts == [1, 2, 3]
    assert metrics.RETRIES.labels("g")._value.get() == retries + 2
    assert await replies(store) == ['{"sorry":"ValueError: no"}']
    assert await store.command("XLEN", "inbound.dead") == 1


async def test_an_apology_is_said_once_though_two_workers_bury(store: Store) -> None:
    stuck, taken_over = asyncio.Event(), asyncio.Event()

    async def handle(turn: Turn) -> None:
        if turn.attempt == 1:
            stuck.set()
            await taken_over.wait()
        raise ValueError("no")

    def buried(turn: Turn, why: str) -> Effects:
        return Effects(outputs=[Output(stream="outbound", type="reply", body={"sorry": why})])

    handler = Handler(handle=handle, buried=buried)
    async with working(store, handler, attempts=1) as first:
        await say(store, "+1", "poison")
        await stuck.wait()
        # Given a worker in its last attempt, whom the others take for dead
        await store.command("DEL", first._turns._heartbeat)
        dead = Consumer("g", first._turns.consumer)
        assert await Watch(store, a_topology()).sweep(dead) == 1
        async with working(store, handler, attempts=1):
            await until(settled(store))
            # When it fails at last, after another has buried the message
            taken_over.set()
    assert await replies(store) == ['{"sorry":"its worker died or lost it 1 times"}']
    assert await store.command("XLEN", "inbound.dead") == 1


async def test_a_start_that_only_buries_is_nobodys_attempt(store: Store) -> None:
    handled = []

    async def handle(turn: Turn) -> None:
        handled.append([(message.body.decode(), turn.attempt) for message in turn.messages])

    # Given two messages of one person, whose worker died: one had its three starts, the other two
    guilty, other = await say(store, "+1", "guilty"), await say(store, "+1", "other")
    top = a_topology(attempts=3)
    died = turns.Turns(store, top, top.groups["g"], Handler(handle=handle))
    await died.open()
    assert (await died.take(1, 2, 0)).grants
    await died.leave()
    await store.command("HSET", "group:g:attempts", guilty, "3:1::1728123456789:", other, "2:1::1728123456789:")
    async with working(store, handle, attempts=3):
        await until(settled(store))
    # Then the one is buried after three attempts, and the other has its third
    [[_, flat]] = await store.command("XRANGE", "inbound.dead", "-", "+")
    letter = dict(zip(flat[::2], flat[1::2], strict=True))
    assert (letter[b"body"], letter[b"attempts"], letter[b"first_ms"]) == (b"guilty", b"3", b"1728123456789")
    assert handled == [[("other", 3)]]


async def test_one_persons_failure_does_not_touch_the_others(store: Store) -> None:
    async def handle(turn: Turn) -> Effects:
        if turn.key == "+bad":
            raise ValueError
        return an_answer(turn)

    async with working(store, handle, attempts=2, backoff=[0]):
        for person in ("+1", "+bad", "+2"):
            await say(store, person)
        await until(settled(store))
    assert len(await replies(store)) == 2


async def test_an_entry_that_is_not_ours_is_buried_alone_and_its_neighbours_are_answered(store: Store) -> None:
    async def handle(turn: Turn) -> Effects:
        for message in turn.messages:
            message.decode(wire.Inbound)
        return an_answer(turn)

    good = wire.encode(wire.Inbound(user_id="+1", message_id="m", text="hola")).decode()
    for body in (good, "junk", good):
        await say(store, "+1", body)
    async with working(store, handle):
        await until(settled(store))
    [reply] = await replies(store)
    assert reply.count("hola") == 2
    assert await store.command("XLEN", "inbound.dead") == 1


async def test_effects_that_cannot_be_committed_are_the_handlers_failure(store: Store) -> None:
    async def handle(turn: Turn) -> Effects:
        return Effects(outputs=[Output(stream="inbound", type="x", body={})])

    async with working(store, handle, attempts=1):
        await say(store, "+1")
        await until(settled(store))
    assert await store.command("XLEN", "inbound.dead") == 1


async def test_a_key_of_another_type_costs_its_own_turn_attempts_and_nobody_else_anything(each_store: Store) -> None:
    seen: dict[str, list[int]] = {}

    async def handle(turn: Turn) -> Effects | None:
        seen.setdefault(turn.key, []).append(turn.attempt)
        if turn.attempt == 3:
            await each_store.command("DEL", "outbound")  # somebody mends it
        return an_answer(turn) if turn.key == "+1" else None

    await each_store.command("SET", "outbound", "not a stream")
    async with working(each_store, handle, attempts=3, backoff=[0]):
        await say(each_store, "+1")
        await say(each_store, "+2")
        await until(settled(each_store))
    assert seen == {"+1": [1, 2, 3], "+2": [1]}
    assert len(await replies(each_store)) == 1


async def test_a_turn_that_waits_for_its_commit_keeps_no_place_unless_many_do(store: Store, monkeypatch) -> None:
    # Given a worker with one place, whose commits take their time
    handled, go_on = asyncio.Queue[str](), asyncio.Event()
    settle = turns.Turns.settle

    async def slow(*args: Any) -> Any:
        await go_on.wait()
        return await settle(*args)

    monkeypatch.setattr(turns.Turns, "settle", slow)

    async def handle(turn: Turn) -> Effects:
        handled.put_nowait(turn.key)
        return an_answer(turn)

    for person in ("+1", "+2", "+3", "+4"):
        await say(store, person)
    async with working(store, handle, concurrency=1) as worker:
        # Then others are handled meanwhile, as many as make three
        assert [await handled.get() for _ in range(3)] == ["+1", "+2", "+3"]
        await worker._turns.beat(worker._in_work.tokens())  # a round trip, in which a fourth would have begun
        assert handled.empty()
        go_on.set()
        assert await handled.get() == "+4"
        await until(settled(store))
    assert len(await replies(store)) == 4


async def test_what_cannot_be_made_in_place_of_the_effects_costs_its_own_turn_attempts(store: Store) -> None:
    seen: dict[str, list[int]] = {}

    def nothing_good() -> Effects:
        raise ValueError("it cannot be made")

    def sorry(turn: Turn, _why: str) -> Effects:
        return Effects(outputs=an_answer(turn).outputs, unless="paused", instead=lambda: an_answer(turn))

    async def handle(turn: Turn) -> Effects:
        seen.setdefault(turn.key, []).append(turn.attempt)
        return Effects(outputs=an_answer(turn).outputs, unless="paused", instead=nothing_good)

    await store.command("SET", "paused:+1", "by staff")
    async with working(store, Handler(handle=handle, buried=sorry), attempts=2, backoff=[0]):
        await say(store, "+1")
        await say(store, "+2")
        await until(settled(store))
    assert seen == {"+1": [1, 2], "+2": [1]}
    # The apology knew what to say in its place, and was said once
    assert len(await replies(store)) == 2
    assert await store.command("XLEN", "inbound.dead") == 1


async def test_a_worker_whose_resources_have_failed_ends_for_its_supervisor(store: Store) -> None:
    class Model:
        dead = asyncio.Event()

        async def failed(self) -> None:
            await self.dead.wait()
            raise RuntimeError("the engine has died")

    async def handle(turn: Turn) -> None:
        turn.resources.dead.set()
        await asyncio.Event().wait()

    top = a_topology()
    worker = Worker(store, top, top.groups["g"], Handler(handle=handle), resources=Model())
    running = asyncio.create_task(worker.run(grace=0))
    await say(store, "+1", "hola")
    with pytest.raises(RuntimeError, match="has died"):
        await asyncio.wait_for(running, 20)

    # And another takes over what it had in work, at once
    async def well(turn: Turn) -> Effects:
        return an_answer(turn)

    async with working(store, well):
        await until(settled(store))
        assert await replies(store) == ['{"to":"+1","said":["hola"]}']


class Mortal:
    """Resources that a message may kill."""

    def __init__(self) -> None:
        self.dead, self.here = asyncio.Event(), set[str]()

    async def failed(self) -> None:
        await self.dead.wait()
        raise Crash("the engine has died")


async def test_who_kills_what_a_worker_needs_is_buried_and_nobody_beside(store: Store) -> None:
    async def handle(turn: Turn) -> Effects:
        model: Mortal = turn.resources
        model.here.add(turn.key)
        if turn.key == "+poison":
            for _ in range(5):
                await asyncio.sleep(0)  # those who were taken with it are in work by then
            model.dead.set()
        if "+poison" not in model.here:
            return an_answer(turn)
        await model.dead.wait()
        raise Crash("the engine has died")

    async def all_told() -> bool:
        return len(await replies(store)) == 3

    # Given one whose message kills it, and two who wait beside; and whoever dies is started again
    for person in ("+poison", "+1", "+2"):
        await say(store, person, "hola")
    top, crashes = a_topology(attempts=3, backoff=[0]), 0
    handler = Handler(handle=handle, buried=lambda turn, _why: an_answer(turn))
    told = asyncio.create_task(until(all_told))
    while not told.done():
        worker = Worker(store, top, top.groups["g"], handler, resources=Mortal())
        running = asyncio.create_task(worker.run(grace=0))
        await asyncio.wait({running, told}, return_when=asyncio.FIRST_COMPLETED)
        worker.stop()
        with contextlib.suppress(Crash):
            await running
            break
        crashes += 1
    await told

    # Then it is buried after its three starts, and each of the others has had a reply
    assert crashes == 3
    assert await store.command("XLEN", "inbound.dead") == 1
    assert sorted(await replies(store)) == [f'{{"to":"{each}","said":["hola"]}}' for each in ("+1", "+2", "+poison")]


async def test_what_is_worth_nothing_later_is_said_while_the_turn_is_in_work(store: Store) -> None:
    said, go = asyncio.Event(), asyncio.Event()

    async def handle(turn: Turn) -> Effects:
        assert turn.ahead is not None
        await turn.ahead(Output(stream="outbound", type="typing", body={"to": turn.key}))
        said.set()
        await go.wait()
        return an_answer(turn)

    async with working(store, handle):
        await say(store, "+1", "hola")
        await said.wait()
        assert await replies(store) == ['{"to":"+1"}']
        go.set()
        await until(settled(store))
        assert await replies(store) == ['{"to":"+1"}', '{"to":"+1","said":["hola"]}']


async def test_what_a_group_may_not_write_it_may_not_write_ahead_either(store: Store) -> None:
    async def handle(turn: Turn) -> Effects:
        assert turn.ahead is not None
        with pytest.raises(NotAllowed):
            await turn.ahead(Output(stream="inbound", type="typing", body={}))
        return an_answer(turn)

    async with working(store, handle):
        await say(store, "+1", "hola")
        await until(settled(store))
        assert await replies(store) == ['{"to":"+1","said":["hola"]}']


async def test_a_turn_whose_commit_is_under_way_is_not_lost_to_a_beat(store: Store, monkeypatch, caplog) -> None:
    # Given a commit that Redis has taken, and an answer that comes later than those to two beats
    monkeypatch.setattr("streams.housekeeping.BEAT", 0.01)
    call, beats, beaten = store.run, 0, asyncio.Event()

    async def held_up(script: Any, *given: Any, **how: Any) -> Any:
        nonlocal beats
        answer = await call(script, *given, **how)
        if script is turns._BEAT:
            beats += 1
            beaten.set()
        until_beat = beats + 2
        while script is turns._SETTLE and beats < until_beat:
            beaten.clear()
            await beaten.wait()
        return answer

    store.run = held_up  # type: ignore[method-assign]
    counted = metrics.TURNS.labels("g", "settled")
    before = count(counted)

    async def handle(turn: Turn) -> Effects:
        return an_answer(turn)

    # When the beat says that the lease is gone
    async with working(store, handle):
        await say(store, "+1")
        await until(settled(store))
    # Then nobody is told that the turn was taken over, and it counts as what it is
    assert "lease.lost" not in caplog.messages
    assert count(counted) == before + 1


async def test_a_handler_past_its_deadline_is_cancelled_and_counts_as_failed(store: Store) -> None:
    async def handle(turn: Turn) -> None:
        await asyncio.Event().wait()

    async with working(store, handle, deadline=0.05, attempts=2, backoff=[0]):
        await say(store, "+1")
        await until(settled(store))
    [[_, flat]] = await store.command("XRANGE", "inbound.dead", "-", "+")
    assert dict(zip(flat[::2], flat[1::2], strict=True))[b"reason"] == b"deadline passed"


async def test_the_first_signal_lets_what_is_in_work_finish_and_reads_nothing_more(store: Store) -> None:
    started, go_on = asyncio.Event(), asyncio.Event()

    async def handle(turn: Turn) -> Effects:
        started.set()
        await go_on.wait()
        return an_answer(turn)

    async with working(store, handle) as worker:
        await say(store, "+1")
        await started.wait()
        worker.stop()
        await say(store, "+2")
        go_on.set()
    assert [reply for reply in await replies(store) if '"+1"' in reply]
    assert len(await replies(store)) == 1


async def test_what_does_not_finish_within_the_grace_time_is_handed_back_uncounted(store: Store) -> None:
    started = asyncio.Event()
    attempts = []

    async def stuck(turn: Turn) -> None:
        started.set()
        await asyncio.Event().wait()

    async def quick(turn: Turn) -> Effects:
        attempts.append(turn.attempt)
        return an_answer(turn)

    async with working(store, stuck, grace=0):
        await say(store, "+1")
        await started.wait()
    async with working(store, quick):
        await until(settled(store))
    assert attempts == [1]
    assert len(await replies(store)) == 1


async def test_a_retry_that_a_stopping_worker_waits_for_is_taken_by_another_without_a_beat(
    store: Store, monkeypatch
) -> None:
    # Given two workers that beat once, one of which has parked a turn while the other slept
    monkeypatch.setattr("streams.housekeeping.BEAT", 600)
    in_work, park = asyncio.Queue[int](), asyncio.Event()

    def a_handler(number: int) -> Callable[[Turn], Awaitable[Effects]]:
        async def handle(turn: Turn) -> Effects:
            in_work.put_nowait(number)
            if turn.attempt > 1:
                return an_answer(turn)
            await park.wait()
            raise Retry("not now", after=0.2)

        return handle

    async with working(store, a_handler(0)) as first, working(store, a_handler(1)) as second:
        await say(store, "+1")
        held_by = await in_work.get()
        stopping, other = (first, second) if held_by == 0 else (second, first)
        await until(lambda: asyncio.sleep(0, other._bell.asleep))
        park.set()
        await until(lambda: _is_due(store))
        # When it is told to stop
        stopping.stop()
        # Then the other takes it in time
        assert await asyncio.wait_for(in_work.get(), 5) == 1 - held_by


async def _is_due(store: Store) -> bool:
    return bool(await store.command("ZCARD", "group:g:due"))


async def test_what_came_behind_a_turn_that_a_stopping_worker_finishes_is_taken_by_another_without_a_beat(
    store: Store, monkeypatch
) -> None:
    monkeypatch.setattr("streams.housekeeping.BEAT", 600)
    started, go_on = asyncio.Event(), asyncio.Event()

    async def slow(turn: Turn) -> Effects:
        started.set()
        await go_on.wait()
        return an_answer(turn)

    async def quick(turn: Turn) -> Effects:
        return an_answer(turn)

    async with working(store, slow) as stopping:
        await say(store, "+1", "before")
        await started.wait()
        async with working(store, quick) as other:
            stopping.stop()
            await say(store, "+1", "behind")
            await until(_read(store))
            await until(lambda: asyncio.sleep(0, other._bell.asleep))
            go_on.set()
            await asyncio.wait_for(until(lambda: _said(store, "behind")), 5)


async def test_what_is_handed_back_is_taken_by_another_without_a_beat(store: Store, monkeypatch) -> None:
    monkeypatch.setattr("streams.housekeeping.BEAT", 600)
    started = asyncio.Event()

    async def stuck(turn: Turn) -> None:
        started.set()
        await asyncio.Event().wait()

    async def quick(turn: Turn) -> Effects:
        return an_answer(turn)

    async with working(store, stuck, grace=0.2) as stopping:
        await say(store, "+1", "mine")
        await started.wait()
        async with working(store, quick) as other:
            stopping.stop()
            await until(lambda: asyncio.sleep(0, other._bell.asleep))
            await asyncio.wait_for(until(lambda: _said(store, "mine")), 5)


def _read(store: Store) -> Callable[[], Awaitable[bool]]:
    """All that was said so far has been read."""

    async def check() -> bool:
        [newest] = await store.command("XREVRANGE", "inbound", "+", "-", "COUNT", "1")
        return bool(await store.command("GET", "group:g:cursor") == newest[0])

    return check


async def test_a_retry_that_is_nobodys_fault_uses_no_attempt_and_keeps_its_progress(store: Store) -> None:
    seen = []

    async def handle(turn: Turn) -> None:
        seen.append((turn.attempt, turn.progress))
        if len(seen) < 4:
            raise Retry("spacing", after=0, counted=False, progress=str(len(seen)))

    async with working(store, handle, attempts=2):
        await say(store, "+1")
        await until(settled(store))
    assert seen == [(1, ""), (1, "1"), (1, "2"), (1, "3")]


@pytest.mark.parametrize("disaster", [("FLUSHALL",), ("XGROUP", "DESTROY", "inbound", "g"), ("SCRIPT", "FLUSH")])
async def test_a_running_worker_heals_itself_and_consumes_again(each_store: Store, disaster: tuple[str, ...]) -> None:
    async def handle(turn: Turn) -> Effects:
        return an_answer(turn)

    async with working(each_store, handle):
        await say(each_store, "+1", "before")
        await until(settled(each_store))
        await each_store.command(*disaster)
        await say(each_store, "+1", "after")
        await until(lambda: _said(each_store, "after"))
    assert sum('"before"' in reply for reply in await replies(each_store)) <= 1


async def test_a_group_that_began_now_still_answers_what_came_after_redis_lost_everything(store: Store) -> None:
    async def handle(turn: Turn) -> Effects:
        return an_answer(turn)

    async with working(store, handle, **{"from": "now"}):
        entry = ("XADD", "inbound", "*", "key", "+1", "type", "text", "body", "after")
        # In one act, so that the message is there before the group can be made again
        await store.pipeline([("MULTI",), ("FLUSHALL",), entry, ("EXEC",)])
        await until(lambda: _said(store, "after"))


async def _said(store: Store, text: str) -> bool:
    return any(f'"{text}"' in reply for reply in await replies(store))


@pytest.mark.slow
async def test_a_turn_that_another_took_over_is_cancelled_here(store: Store) -> None:
    cancelled = asyncio.Event()
    started = asyncio.Event()

    async def handle(turn: Turn) -> None:
        if turn.attempt > 1:
            return
        started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    async with working(store, handle):
        await say(store, "+1")
        await started.wait()
        # When the lease is someone else's, the next beat says so
        await store.command("HSET", "group:g:leases", "+1", "another.1.1.1")
        await asyncio.wait_for(cancelled.wait(), 20)
        await store.command("HDEL", "group:g:leases", "+1")


async def test_a_group_made_by_hand_is_taken_over_where_it_stands_and_its_worker_can_sleep(each_store: Store) -> None:
    takes = 0

    async def handle(turn: Turn) -> Effects:
        return an_answer(turn)

    # Given a group that somebody made after the first message
    await say(each_store, "+1", "before")
    await each_store.command("XGROUP", "CREATE", "inbound", "g", "$")
    async with working(each_store, handle) as worker:
        original = worker._turns.take

        async def counted(*args: Any) -> Any:
            nonlocal takes
            takes += 1
            return await original(*args)

        worker._turns.take = counted  # type: ignore[method-assign]
        await say(each_store, "+1", "after")
        await until(lambda: _said(each_store, "after"))
        # And then moved on by hand, over a message that is thereby lost to it
        ahead = await redis_ms(each_store) + 5_000
        await each_store.command("XGROUP", "SETID", "inbound", "g", f"{ahead}-0")
        takes = 0
        await say(each_store, "+1", "skipped", id=f"{ahead - 1}-0")
        await say(each_store, "+1", "last", id=f"{ahead + 1}-0")
        await until(lambda: _said(each_store, "last"))
    assert not await _said(each_store, "before")
    assert takes < 20, "it does not spin over what it is not given"


async def test_a_full_redis_that_has_lost_the_group_does_not_end_the_worker(each_own_server: Server) -> None:
    store = Store.open(each_own_server.url, patience=0)

    async def handle(turn: Turn) -> Effects:
        return an_answer(turn)

    async with working(store, handle) as worker:
        await say(store, "+1", "before")
        await until(settled(store))
        # As one act: a full 6.2 refuses XGROUP, and with room left the worker would heal at once
        destroy, fill = ("XGROUP", "DESTROY", "inbound", "g"), ("CONFIG", "SET", "maxmemory", "1")
        assert (await store.pipeline([("MULTI",), destroy, fill, ("EXEC",)]))[-1] == [1, b"OK"]
        worker._bell.ring()  # nobody can append now; the next beat, or the next message, does the same
        await until(lambda: _has_group(store))
        await store.command("CONFIG", "SET", "maxmemory", "0")
        await say(store, "+1", "after")
        await until(lambda: _said(store, "after"))
    await store.close()


async def _has_group(store: Store) -> bool:
    return bool(await store.command("XINFO", "GROUPS", "inbound"))


async def test_an_entry_whose_key_is_no_text_is_buried_and_stops_nobody(each_store: Store) -> None:
    async def handle(turn: Turn) -> Effects:
        return an_answer(turn)

    async with working(each_store, handle):
        await each_store.command("XADD", "inbound", "*", "key", b"\xff\xc3(", "type", "text", "body", "{}")
        await say(each_store, "+ñandú💚", "fine")
        await until(settled(each_store))
    assert await _said(each_store, "fine")
    [[_, flat]] = await each_store.command("XRANGE", "inbound.dead", "-", "+")
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert (fields[b"key"], fields[b"reason"]) == (b"\xff\xc3(", b"its key is not UTF-8")


async def test_a_redis_user_without_info_is_no_reason_to_stop(each_own_server: Server, caplog) -> None:
    store = Store.open(each_own_server.url)
    await store.command("ACL", "SETUSER", "default", "-info")

    async def handle(turn: Turn) -> Effects:
        return an_answer(turn)

    async with working(store, handle) as worker:
        await say(store, "+1", "hola")
        await until(lambda: _said(store, "hola"))
        await until(lambda: asyncio.sleep(0, "redis.unnamed" in caplog.text))
        assert worker.alive
    await store.close()
