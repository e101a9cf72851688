"""Handlers of batches: what goes into one call, and whose fault it is when one fails."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from protocol import a_consumer, a_topology, kill, say
from waiting import until

from streams import handlers
from streams.batches import Gathering, Place, served
from streams.connection import Store
from streams.effects import Effects, Handler, Message, Output, Turn, Write
from streams.errors import Bury, ConfigurationError, Retry
from streams.worker import Worker

pytestmark = pytest.mark.filterwarnings("error")


def a_turn(key: str, attempt: int = 1) -> Turn:
    return Turn(group="g", key=key, messages=[Message(id="1-0", type="text", body=b"{}")], attempt=attempt)


def gathered(most: int, wait: float, *came: tuple[str, float], attempt: int = 1) -> Gathering:
    """With these, each come at its time."""
    gathering = Gathering(most, wait)
    for key, at in came:
        gathering.add(Place(a_turn(key, attempt), at, None))  # type: ignore[arg-type]  # nobody asks for the answer
    return gathering


def keys(places: list[Place]) -> str:
    return "".join(place.turn.key for place in places)


def test_a_batch_is_called_as_soon_as_it_is_full() -> None:
    gathering = gathered(2, 10, ("a", 0), ("b", 0), ("c", 0))
    assert keys(gathering.next(0)) == "ab"
    assert keys(gathering.next(0)) == ""


def test_what_is_there_goes_once_the_first_of_it_has_waited_long_enough() -> None:
    gathering = gathered(9, 2, ("a", 1), ("b", 2))
    assert (keys(gathering.next(2.9)), gathering.due) == ("", 3)
    assert (keys(gathering.next(3)), gathering.due) == ("ab", math.inf)


def test_what_was_started_before_is_alone_and_waits_for_nobody() -> None:
    gathering = gathered(9, 2, ("a", 0), ("b", 0), attempt=2)
    assert [keys(gathering.next(0)) for _ in range(3)] == ["a", "b", ""]


def test_who_leaves_is_in_no_batch() -> None:
    gathering = Gathering(9, 0)
    gone = Place(a_turn("a"), 0, None)  # type: ignore[arg-type]
    gathering.add(gone)
    assert gathering.remove(gone)
    assert not gathering.remove(gone)
    assert gathering.next(0) == []


def found(where: str, **group: Any) -> Handler:
    top = a_topology(handler=f"{__name__}:{where}", **group)
    return handlers.find(top.groups["g"], top)


class Working(Worker):
    """A worker of batches, as process.py makes it."""

    def __init__(self, store: Store, handle: Any, **group: Any) -> None:
        handler = handle if isinstance(handle, Handler) else Handler(handle=handle, batch=True)
        top = a_topology(**{"batch": 100, "batch_wait": 0, "order": "none", **group})
        handler, table = served(handler, top.groups["g"])
        super().__init__(store, top, table, handler)


@contextlib.asynccontextmanager
async def working(store: Store, handle: Any, *, grace: float = 5, **group: Any) -> AsyncIterator[Worker]:
    """One that serves while the context is open."""
    worker = Working(store, handle, **group)
    running = asyncio.create_task(worker.run(grace))
    await worker.opened.wait()
    try:
        yield worker
    finally:
        worker.stop()
        await running


def settled(store: Store, entries: int) -> Callable[[], Awaitable[bool]]:
    async def check() -> bool:
        groups = await store.command("XINFO", "GROUPS", "inbound")
        told = dict(zip(groups[0][::2], groups[0][1::2], strict=True))
        last = (await store.command("XREVRANGE", "inbound", "+", "-", "COUNT", 1))[0][0]
        assert await store.command("XLEN", "inbound") == entries
        return bool(told[b"pending"] == 0 and told[b"last-delivered-id"] == last)

    return check


def said(turns: list[Turn]) -> list[str]:
    return [message.body.decode() for turn in turns for message in turn.messages]


async def letters(store: Store) -> list[dict[bytes, bytes]]:
    return [dict(zip(flat[::2], flat[1::2], strict=True))
            for _, flat in await store.command("XRANGE", "inbound.dead", "-", "+")]  # fmt: skip


async def test_what_waits_is_handled_in_calls_of_as_many_as_are_asked_for(each_store: Store) -> None:
    calls: list[list[str]] = []

    async def keep(turns: list[Turn]) -> None:
        calls.append(said(turns))

    for number in range(250):
        await say(each_store, "+1", f"{number}")
    async with working(each_store, keep, batch=100, batch_wait=60, concurrency=1):
        # Then those that are left wait for more, which come
        await until(lambda: _true(len(calls) == 2))
        for number in range(250, 300):
            await say(each_store, "+1", f"{number}")
        await until(settled(each_store, 300))
    assert [len(call) for call in calls] == [100, 100, 100]
    assert sorted(int(body) for call in calls for body in call) == list(range(300))


async def _true(it: bool) -> bool:
    return it


async def test_each_turn_is_committed_with_its_own_effects(each_store: Store) -> None:
    async def count(turns: list[Turn]) -> list[Effects | None]:
        return [
            None if turn.key == "+2" else Effects(
                outputs=[Output(stream="outbound", type="seen", body={"of": turn.key})],
                writes=[Write(kind="own", value=turn.key.encode(), ttl_seconds=60)],
            )
            for turn in turns
        ]  # fmt: skip

    async with working(each_store, count, order="key", batch_wait=0.05):
        for person in ("+1", "+2", "+3"):
            await say(each_store, person)
        await until(settled(each_store, 3))
    outputs = [dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in
               await each_store.command("XRANGE", "outbound", "-", "+")]  # fmt: skip
    assert [(each[b"key"], each[b"body"]) for each in outputs] == [(b"+1", b'{"of":"+1"}'), (b"+3", b'{"of":"+3"}')]
    assert await each_store.command("MGET", *(f"own:g:+{n}" for n in (1, 2, 3))) == [b"+1", None, b"+3"]


async def test_of_a_batch_with_order_no_two_turns_are_one_persons(store: Store) -> None:
    calls: list[list[str]] = []
    order: dict[str, list[str]] = {}

    async def keep(turns: list[Turn]) -> None:
        calls.append([turn.key for turn in turns])
        for turn in turns:
            order.setdefault(turn.key, []).extend(said([turn]))

    for number in range(200):
        await say(store, f"+{number % 7}", f"{number}")
    async with working(store, keep, order="key", turn_max=3, batch=5):
        await until(settled(store, 200))
    assert all(len(set(call)) == len(call) for call in calls)
    assert order == {f"+{p}": [f"{n}" for n in range(200) if n % 7 == p] for p in range(7)}


async def test_only_who_is_to_blame_for_a_batch_that_fails_is_counted_and_buried(each_store: Store) -> None:
    attempts: list[int] = []
    calls: list[int] = []

    async def keep(turns: list[Turn]) -> list[Effects | None]:
        calls.append(len(turns))
        if "poison" in said(turns):
            if len(turns) == 1:
                attempts.append(turns[0].attempt)
            raise ValueError("no")
        return [
            Effects(outputs=[Output(stream="outbound", type="kept", body={"n": said([turn])[0]})]) for turn in turns
        ]

    for body in (*"abcd", "poison", *"efgh"):
        await say(each_store, "+1", body)
    async with working(each_store, keep, attempts=3, backoff=[0]):
        await until(settled(each_store, 9))
    # Then it was tried alone, as often as any turn is, and the others were kept at their first attempt
    assert attempts == [1, 2, 3]
    assert calls == [9] + [1] * 11
    [letter] = await letters(each_store)
    assert (letter[b"body"], letter[b"reason"], letter[b"attempts"]) == (b"poison", b"ValueError: no", b"3")
    assert await each_store.command("XLEN", "outbound") == 8


async def test_who_asks_to_be_buried_is_buried_and_takes_nobody_along(store: Store) -> None:
    async def keep(turns: list[Turn]) -> None:
        if "bad" in said(turns):
            raise Bury("no such thing")

    for body in ("a", "bad", "b"):
        await say(store, "+1", body)
    async with working(store, keep):
        await until(settled(store, 3))
    assert [(letter[b"body"], letter[b"reason"]) for letter in await letters(store)] == [(b"bad", b"no such thing")]


@pytest.mark.slow
async def test_while_a_database_is_down_all_wait_together_and_no_attempt_is_counted(store: Store) -> None:
    calls: list[list[int]] = []

    async def keep(turns: list[Turn]) -> None:
        calls.append([turn.attempt for turn in turns])
        if len(calls) < 4:
            raise Retry("the database is down", after=0.01, counted=False)

    for number in range(5):
        await say(store, "+1", f"{number}")
    async with working(store, keep, attempts=2, batch_wait=0.2):
        await until(settled(store, 5))
    assert calls == [[1] * 5] * 4
    assert await letters(store) == []


async def test_a_call_that_passes_its_deadline_is_cancelled_and_each_of_it_is_tried_alone(store: Store) -> None:
    calls: list[list[str]] = []

    async def keep(turns: list[Turn]) -> None:
        calls.append(said(turns))
        if "slow" in said(turns):
            await asyncio.Event().wait()

    for body in ("a", "slow", "b"):
        await say(store, "+1", body)
    async with working(store, keep, deadline=0.05, attempts=1):
        await until(settled(store, 3))
    assert calls[0] == ["a", "slow", "b"]
    assert sorted(calls[1:]) == [["a"], ["b"], ["slow"]]
    assert [(letter[b"body"], letter[b"reason"]) for letter in await letters(store)] == [(b"slow", b"deadline passed")]


@pytest.mark.slow
async def test_waiting_for_ones_call_is_nobodys_deadline(store: Store) -> None:
    calls: list[str] = []

    async def keep(turns: list[Turn]) -> None:
        calls.extend(said(turns))
        await asyncio.sleep(0.2)  # of a deadline of 0.5: three in a row pass it, and none alone

    for number in range(4):
        await say(store, "+1", f"{number}")
    async with working(store, keep, deadline=0.5, attempts=1, batch=1, concurrency=1):
        await until(settled(store, 4))
    assert calls == ["0", "1", "2", "3"]
    assert await letters(store) == []


@pytest.mark.parametrize("returned", [[], [None, None, None], 7], ids=["too few", "too many", "no list"])
async def test_effects_that_do_not_match_the_turns_are_a_failure_of_the_handler(store: Store, returned: object) -> None:
    async def keep(turns: list[Turn]) -> object:
        return returned

    for body in "ab":
        await say(store, "+1", body)
    async with working(store, keep, attempts=1):
        await until(settled(store, 2))
    assert len(await letters(store)) == 2


async def test_a_turn_of_a_batch_that_another_has_taken_over_is_dropped_and_the_others_are_kept(store: Store) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()

    async def keep(turns: list[Turn]) -> list[Effects | None]:
        began.set()
        await go_on.wait()
        return [Effects(outputs=[Output(stream="outbound", type="kept", body={})]) for _ in turns]

    for body in "ab":
        await say(store, "+1", body)
    async with working(store, keep) as worker:
        await began.wait()
        # When the lease of the first is another's
        [lost, _] = worker._in_work.tokens()
        leases = await store.command("HGETALL", "group:g:leases")
        key = dict(zip(leases[1::2], leases[::2], strict=True))[lost.encode()]
        await store.command("HSET", "group:g:leases", key, "other.1.1.1")
        worker._in_work.lose(lost)
        go_on.set()
        await until(lambda: _true(not worker._in_work))
    assert await store.command("XLEN", "outbound") == 1
    assert (await store.command("HGETALL", "group:g:leases")) == [key, b"other.1.1.1"]


async def test_a_worker_that_stops_ends_its_batches_and_hands_back_what_hangs(store: Store) -> None:
    began, ended = asyncio.Event(), list[str]()

    async def keep(turns: list[Turn]) -> None:
        began.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    for body in "ab":
        await say(store, "+1", body)
    async with working(store, keep, grace=0):
        await began.wait()
    # Then its call has ended, and both turns are due for the next worker, in one batch, at their first attempt
    assert ended == ["cancelled"]
    calls: list[list[int]] = []

    async def again(turns: list[Turn]) -> None:
        calls.append([turn.attempt for turn in turns])

    async with working(store, again):
        await until(settled(store, 2))
    assert calls == [[1, 1]]


async def test_who_was_in_a_batch_when_its_worker_died_is_tried_alone(store: Store) -> None:
    for body in "abc":
        await say(store, "+1", body)
    dying = await a_consumer(store, order="none")
    assert len((await dying.take(9, 200, 1)).grants) == 3
    await kill(store, dying)
    calls: list[tuple[list[str], int]] = []

    async def again(turns: list[Turn]) -> None:
        calls.append((said(turns), turns[0].attempt))

    async with working(store, again):
        await until(settled(store, 3))
    assert sorted(calls) == [(["a"], 2), (["b"], 2), (["c"], 2)]


async def single(turn: Turn) -> None:
    """A handler of single turns."""


many = Handler(handle=single, batch=True)


@pytest.mark.parametrize(
    ("where", "group", "complaint"),
    [
        ("single", {"batch": 5}, r"groups\.g\.batch = 5 is not for '.*:single', which takes single turns"),
        ("many", {}, r"groups\.g\.batch is missing: '.*:many' takes batches; write `batch = 100`"),
    ],
)
def test_a_table_and_a_handler_that_do_not_agree_on_batches_are_told_so(
    where: str, group: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        found(where, **group)


def test_a_table_and_a_handler_that_agree_are_taken() -> None:
    assert found("many", batch=5).batch
    assert not found("single").batch
