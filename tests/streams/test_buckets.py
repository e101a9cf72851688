"""Which minute, hour and day a moment is in, wherever people live."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from streams.buckets import UNITS, Calendar
from streams.tables import Seconds, Tallies

LA_PAZ, KOLKATA, SANTIAGO = (ZoneInfo(name) for name in ("America/La_Paz", "Asia/Kolkata", "America/Santiago"))


def at(zone: ZoneInfo, text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp())


def test_a_day_is_the_clinics_day_and_not_londons() -> None:
    calendar = Calendar(LA_PAZ)
    before, after = at(LA_PAZ, "2025-10-05T23:59:59"), at(LA_PAZ, "2025-10-06T00:00:00")
    assert [each.name for each in calendar.around(before * 1000)] == [
        "2025-10-06T03:59Z", "2025-10-06T03Z", "2025-10-05",
    ]  # fmt: skip
    assert calendar.bucket("day", after).name == "2025-10-06"
    assert calendar.bucket("day", before).end == calendar.bucket("day", after).start == after


def test_days_on_which_the_clocks_are_changed_are_shorter_or_longer_and_leave_nothing_out() -> None:
    calendar = Calendar(SANTIAGO)  # at midnight of 2025-09-07 it is one o'clock; 2025-04-05 has its last hour twice
    for start, hours in (("2025-09-07T12:00", 23), ("2025-04-05T12:00", 25), ("2025-07-01T12:00", 24)):
        day = calendar.bucket("day", at(SANTIAGO, start))
        assert day.end - day.start == hours * 3600
        assert calendar.bucket("day", day.end - 1) == day
        assert calendar.bucket("day", day.end).start == day.end


@pytest.mark.parametrize("zone", [LA_PAZ, KOLKATA, SANTIAGO, None], ids=str)
@pytest.mark.parametrize("unit", UNITS)
def test_buckets_follow_each_other_without_a_gap(zone, unit) -> None:
    calendar, since = Calendar(zone), at(LA_PAZ, "2025-04-01T10:07")
    found = list(calendar.between(unit, since, since + 20 * 86400))
    assert found[0].start <= since < found[0].end
    assert found[-1].start < since + 20 * 86400 <= found[-1].end
    assert [each.start for each in found[1:]] == [each.end for each in found[:-1]]
    assert len({each.name for each in found}) == len(found)


@pytest.mark.parametrize("zone", [LA_PAZ, KOLKATA], ids=str)
def test_a_long_time_by_the_minute_is_few_buckets_put_together(zone) -> None:
    calendar = Calendar(zone)
    since, until = at(LA_PAZ, "2025-10-05T10:58"), at(LA_PAZ, "2025-10-07T02:01")
    cover = list(calendar.cover("minute", since, until))
    assert (cover[0].start, cover[-1].end) == (since, until)
    assert [each.start for each in cover[1:]] == [each.end for each in cover[:-1]]
    assert len(cover) < 130
    assert {each.name for each in calendar.cover("day", *(calendar.bucket("day", since).start,) * 2)} == set()


def test_what_is_older_than_it_is_kept_is_not_counted_anew_and_nothing_lives_longer_than_its_kind() -> None:
    lives = Tallies(minutes=Seconds(3600), hours=Seconds(7200), days=Seconds(10 * 86400))
    calendar, now = Calendar(LA_PAZ, lives), at(LA_PAZ, "2025-10-05T14:30")

    def kept(moment: int) -> dict[str, int]:
        return {bucket.name: seconds for bucket, seconds in calendar.kept(moment * 1000, now * 1000)}

    assert kept(now) == {
        "2025-10-05T18:30Z": 3600, "2025-10-05T18Z": 7200 - 1800, "2025-10-05": 10 * 86400 - int(14.5 * 3600),
    }  # fmt: skip
    assert list(kept(now - 3700)) == ["2025-10-05T17Z", "2025-10-05"]
    assert kept(now - 11 * 86400) == {}
    assert list(kept(now + 86400).values()) == [3600, 7200, 10 * 86400]
