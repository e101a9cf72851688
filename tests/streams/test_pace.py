"""A worker that reads what is old makes room for those whose people wait."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

import pytest
from protocol import redis_ms, say
from waiting import until

from streams import topology
from streams.connection import Store
from streams.effects import Handler, Turn
from streams.pace import LITTLE, OLD_MS, QUIET_MS, RESTS, WINDOW_MS, Pace, stand_aside
from streams.worker import Worker

NOW = 1728123456789


async def looked(count: int, age_ms: int, others_ms: int = 0, **how: Any) -> Pace:
    """What a worker is like that has read so many entries of that age, while another group has read on up to such."""

    async def furthest_ms() -> int:
        return NOW - others_ms

    found = Pace(**{"aside": lambda _: None} | how)
    await found.read(count, f"{NOW - age_ms}-7", NOW, furthest_ms)
    return found


HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("count", "age_ms", "others_ms", "gentle"),
    [
        (200, OLD_MS + 1, 0, True), (200, OLD_MS, 0, False), (200, 0, 0, False), (0, HOUR_MS, 0, False),
        (200, HOUR_MS, HOUR_MS - OLD_MS, False), (200, HOUR_MS, NOW, False),
        (200, HOUR_MS, QUIET_MS - 1, True), (200, HOUR_MS, QUIET_MS, False),
    ],
    ids=[
        "old", "not yet old", "fresh", "nothing new, after a quiet hour", "after an outage", "there is no other",
        "somebody wrote lately", "nobody writes",
    ],
)  # fmt: skip
async def test_who_is_far_behind_the_others_asks_for_little(
    count: int, age_ms: int, others_ms: int, gentle: bool
) -> None:
    found = await looked(count, age_ms, others_ms)
    assert (found.gentle, found.at_once(200)) == (gentle, LITTLE if gentle else 200)
    assert found.at_once(3) == 3


async def test_a_rest_is_as_long_as_the_call_was_several_times_over() -> None:
    rests = list[float]()

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    for age_ms in (OLD_MS + 1, 0):
        times = iter([1.0, 1.5])
        pace = await looked(1, age_ms, clock=times.__next__, sleep=rest)
        await pace.rest(pace.begins())
    assert rests == [RESTS * 0.5]


@pytest.mark.parametrize(("came_on_ms", "gentle"), [(2 * WINDOW_MS, True), (2 * WINDOW_MS - 1, False)])
async def test_who_would_never_catch_up_hurries_until_it_has(came_on_ms: int, gentle: bool) -> None:
    at, pace = NOW - HOUR_MS, await looked(200, HOUR_MS)
    # When it has come on by so much after a while
    later = NOW + WINDOW_MS
    await pace.read(5, f"{at + came_on_ms}-0", later, partial(_at, later))
    assert pace.gentle is gentle
    # and read as fast as it could then
    await pace.read(200, f"{at + 3 * came_on_ms}-0", later + 1, partial(_at, later))
    assert pace.gentle is gentle
    # Then it has caught up, and may fall behind anew
    await pace.read(200, f"{later}-0", later + 2, partial(_at, later))
    assert not pace.gentle
    await pace.read(200, f"{later + 3}-0", later + HOUR_MS, partial(_at, later + HOUR_MS))
    assert pace.gentle


async def test_its_process_stands_aside_while_it_is_gentle() -> None:
    said = list[bool]()
    found = await looked(200, HOUR_MS, aside=said.append)
    for others_ms in (0, HOUR_MS):
        await found.read(200, f"{NOW - HOUR_MS}-7", NOW, partial(_at, NOW - others_ms))
    assert said == [True, False]


async def _at(ms: int) -> int:
    return ms


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="only Linux has it")
def test_who_stands_aside_comes_back() -> None:
    before, found = os.sched_getscheduler(0), list[int]()
    for aside in (True, False):
        stand_aside(aside)
        found.append(os.sched_getscheduler(0))
    assert (before, found) == (os.SCHED_OTHER, [os.SCHED_BATCH, os.SCHED_OTHER])


async def test_a_new_group_works_off_what_is_old_in_small_calls_and_then_goes_as_fast_as_it_can(store: Store) -> None:
    # Given what was said an hour ago, which another group has read, and what is said now
    hour_ago = await redis_ms(store) - 3_600_000
    for number in range(300):
        await say(store, f"+{number}", id=f"{hour_ago + number}-0")
    await store.command("SET", store.keys.group("cursor", "others"), f"{hour_ago + 3_600_000}-0")
    handled, read = [], []

    async def handle(turn: Turn) -> None:
        handled.append(turn.key)

    table = {"reads": "inbound", "handler": "nowhere:nothing"}
    top = topology.parse({"streams": {"inbound": {}}, "groups": {"g": table, "others": table}})
    worker = Worker(store, top, top.groups["g"], Handler(handle=handle))
    whole = worker._turns.take

    async def take(room: int, count: int, *more: Any) -> Any:
        read.append(count)
        return await whole(room, count, *more)

    worker._turns.take = take  # type: ignore[method-assign]
    running = asyncio.create_task(worker.run(5))
    try:
        await until(lambda: _true(len(handled) == 300))
        await say(store, "+new")
        await until(lambda: _true(len(handled) == 301))
    finally:
        worker.stop()
        await running
    # Then it asked for much at first, when it knew nothing, for little then, and for much again
    assert read.count(LITTLE) >= 2
    assert not worker._pace.gentle


async def _true(it: bool) -> bool:
    return it
