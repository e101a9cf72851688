"""What is told of a period: which buckets, added up how, and what was buried in it."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import Server
from protocol import a_consumer, a_topology, end, nothing, say

from streams import analytics
from streams.analytics import MOST_ROWS, Asked, Unclear, period, report
from streams.buckets import Calendar
from streams.connection import Store
from streams.effects import Effects, Handler, Tally
from streams.stores import Stores
from streams.turns import Turns

LA_PAZ = ZoneInfo("America/La_Paz")
CALENDAR = Calendar(LA_PAZ)
NOW = int(datetime(2025, 10, 5, 14, 30, 10, tzinfo=LA_PAZ).timestamp())
SWAPPED = {"since": "2025-10-03", "until": "2025-10-01"}


def told(**asked: Any) -> tuple[str, int, str, str]:
    """Unit, how many, and the first and last bucket's begin in local time."""
    unit, buckets = period(Asked(**asked), CALENDAR, NOW)
    return unit, len(buckets), *(CALENDAR.shown(each.start)[:16] for each in (buckets[0], buckets[-1]))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"since": "7d", "by": "day"}, ("day", 7, "2025-09-29T00:00", "2025-10-05T00:00")),
        ({"since": "24h"}, ("hour", 24, "2025-10-04T15:00", "2025-10-05T14:00")),
        ({"since": "2h"}, ("minute", 120, "2025-10-05T12:31", "2025-10-05T14:30")),
        ({"since": "30d"}, ("day", 30, "2025-09-06T00:00", "2025-10-05T00:00")),
        ({"since": "1m", "by": "day"}, ("day", 1, "2025-10-05T00:00", "2025-10-05T00:00")),
        ({"since": "2025-10-01", "until": "2025-10-03"}, ("hour", 48, "2025-10-01T00:00", "2025-10-02T23:00")),
        (SWAPPED | {"any_order": True}, ("hour", 48, "2025-10-01T00:00", "2025-10-02T23:00")),
        ({"since": "2025-10-05T14:00"}, ("minute", 31, "2025-10-05T14:00", "2025-10-05T14:30")),
        ({"since": "2030-01-01", "any_order": True}, ("minute", 1, "2025-10-05T14:30", "2025-10-05T14:30")),
        ({"since": "999999w", "by": "day"}, ("day", 730, "2023-10-07T00:00", "2025-10-05T00:00")),
    ],
    ids=str,
)
def test_a_period_is_whole_buckets_and_the_last_of_them_is_under_way(asked, found) -> None:
    assert told(**asked) == found


def test_of_too_many_rows_the_newest_are_told() -> None:
    unit, count, _, last = told(since="60d", by="minute")
    assert unit == "minute"
    assert MOST_ROWS - 1 <= count <= MOST_ROWS
    assert last.startswith("2025-10-05T14:")


@pytest.mark.parametrize("wrong", [{"since": "soon"}, {"until": "2025-13-01"}, {"by": "week"}, {"since": ""}], ids=str)
def test_what_is_no_time_is_said_with_what_is_accepted(wrong) -> None:
    with pytest.raises(Unclear, match=r"write (2h, 7d|minute, hour)"):
        told(**wrong)


@pytest.mark.parametrize("swapped", [SWAPPED, {"since": "2030-01-01"}], ids=str)
def test_a_period_told_from_its_end_is_refused_where_nobody_says_that_it_is_meant(swapped) -> None:
    with pytest.raises(Unclear, match="lies behind until"):
        told(**swapped)


async def test_hours_and_shards_add_up_and_a_person_of_several_hours_is_one(any_server: Server, store: Store) -> None:
    stores, top = Stores.open(any_server.url, shards=2), a_topology(order="none", writes=[])
    now = int(time.time())
    for shard in stores:
        turns = Turns(shard, top, top.groups["g"], Handler(handle=nothing))
        await turns.open()
        for hour in range(3):
            await shard.command("XADD", shard.keys.stream("inbound"), "*", "key", "+1", "body", "{}")
            [grant] = (await turns.take(1, 1, 1)).grants
            seen = {"people": f"person {shard.keys.shard}"}
            tally = Tally(
                at_ms=(now - 3600 * hour) * 1000, counts={"in": hour + 1}, distinct=seen, timings={"reply": 100 * hour}
            )
            await end(turns, grant, Effects(tallies=[tally]))
    found = await report(stores, top, CALENDAR, Asked(since="6h", by="hour", of="g"))
    assert [row.counts.get("in", 0) for row in found.rows] == [0, 0, 0, 6, 4, 2]
    assert [row.distinct.get("people", 0) for row in found.rows] == [0, 0, 0, 2, 2, 2]
    assert (found.total.counts, found.total.distinct) == ({"in": 12}, {"people": 2})
    assert found.total.timings["reply"] == analytics.Timing(count=6, p50=103, p95=207, p99=207)
    assert (found.of, found.groups, found.by) == ("g", ["g"], "hour")
    # And by the minute the same, put together from minutes and hours
    by_minute = await report(stores, top, CALENDAR, Asked(since="6h", by="minute", of="g"))
    assert (by_minute.total.counts, by_minute.total.distinct) == ({"in": 12}, {"people": 2})
    await stores.close()


async def test_what_was_buried_is_told_by_group_and_reason_without_numbers(store: Store) -> None:
    turns = await a_consumer(store)
    for number, why in enumerate(
        ["400: no such +59112345678", "400: other", "expired: older", "+59112345678 is not here"]
    ):
        await say(store, f"+{number}")
        [grant] = (await turns.take(1, 1, 1)).grants
        await end(turns, grant, bury=why)
    found = await report(Stores.alone(store), a_topology(), CALENDAR, Asked(since="2h"))
    assert found.total.buried == {"g": 4}
    assert sum(row.buried.get("g", 0) for row in found.rows) == 4
    assert found.reasons == {"g": {"400": 2, "expired": 1, "+591…678 is not here": 1}}
    assert not found.buried_partly
    assert found.groups == []


async def test_of_very_many_dead_letters_the_newest_are_looked_at(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analytics, "MOST_LETTERS", 3)
    turns = await a_consumer(store)
    for number in range(5):
        await say(store, f"+{number}")
        [grant] = (await turns.take(1, 1, 1)).grants
        await end(turns, grant, bury=f"reason {number}")
    found = await report(Stores.alone(store), a_topology(), CALENDAR, Asked())
    assert found.buried_partly
    assert found.reasons == {"g": {"reason 4": 1, "reason 3": 1, "reason 2": 1}}
