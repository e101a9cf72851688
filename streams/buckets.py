"""
Minutes, hours and days: the buckets of time that something is counted in, how they are called, how long they are kept.

A minute and an hour are UTC's, a day is the people's, from midnight to midnight in TIMEZONE.  Pure: no clock, no Redis.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Literal

import msgspec

from streams.tables import Tallies

Unit = Literal["minute", "hour", "day"]
UNITS: tuple[Unit, ...] = ("minute", "hour", "day")

_SECONDS = {"minute": 60, "hour": 3600, "day": 86400}
_FORMS = {"minute": "%Y-%m-%dT%H:%MZ", "hour": "%Y-%m-%dT%HZ"}


class Bucket(msgspec.Struct, frozen=True):
    """One stretch of time."""

    name: str
    """As keys end: `2025-10-05T18:03Z`, `2025-10-05T18Z`, and a day `2025-10-05`, which is local."""
    start: int
    """Unix seconds, as `end`, which is not in it."""
    end: int


class Calendar:
    """
    Args:
        zone: in which it is midnight where a day begins; None is this machine's.
    """

    def __init__(self, zone: tzinfo | None = UTC, lives: Tallies | None = None) -> None:
        self.zone = zone
        lives = lives or Tallies()
        self._lives: dict[Unit, float] = {"minute": lives.minutes, "hour": lives.hours, "day": lives.days}
        self._around = lru_cache(maxsize=256)(self._of_minute)

    def around(self, at_ms: int) -> tuple[Bucket, ...]:
        """The minute, the hour and the day of a moment."""
        return self._around(at_ms // 60_000)

    def _of_minute(self, minute: int) -> tuple[Bucket, ...]:
        return tuple(self.bucket(unit, minute * 60) for unit in UNITS)

    def kept(self, at_ms: int, now_ms: int) -> list[tuple[Bucket, int]]:
        """Those of its buckets that are still kept, each with the seconds for which it is."""
        ages = zip(self.around(at_ms), UNITS, strict=True)
        left = [(bucket, bucket.start + self._lives[unit] - now_ms / 1000, self._lives[unit]) for bucket, unit in ages]
        # A moment that lies ahead is a clock that was set back: nothing is kept for longer because of it.
        return [(bucket, max(1, int(min(seconds, most)))) for bucket, seconds, most in left if seconds > 0]

    def oldest(self, now: float) -> float:
        """Before this nothing is kept; Unix seconds."""
        return max(0.0, now - max(self._lives.values()))

    def bucket(self, unit: Unit, at: float) -> Bucket:
        """The one that a moment is in; Unix seconds."""
        if unit == "day":
            return self._day(datetime.fromtimestamp(at, self.zone).date())
        start = int(at) // _SECONDS[unit] * _SECONDS[unit]
        name = datetime.fromtimestamp(start, UTC).strftime(_FORMS[unit])
        return Bucket(name, start, start + _SECONDS[unit])

    def _day(self, day: date) -> Bucket:
        return Bucket(day.isoformat(), self._midnight(day), self._midnight(day + timedelta(days=1)))

    def _midnight(self, day: date) -> int:
        return int(datetime(day.year, day.month, day.day, tzinfo=self.zone).timestamp())

    def between(self, unit: Unit, since: float, until: float) -> Iterator[Bucket]:
        """All that hold a moment of this stretch, the oldest first."""
        bucket = self.bucket(unit, since)
        while bucket.start < until:
            yield bucket
            bucket = self.bucket(unit, bucket.end)

    def cover(self, unit: Unit, since: int, until: int) -> Iterator[Bucket]:
        """As few as together are this stretch, whose ends are those of buckets of this unit."""
        while since < until:
            fitting = (self.bucket(each, since) for each in reversed(UNITS[UNITS.index(unit) :]))
            bucket = next(each for each in fitting if each.start == since and each.end <= until)
            yield bucket
            since = bucket.end

    def shown(self, at: float) -> str:
        """A moment as people there write it, with its distance to UTC: `2025-10-05T14:00:00-04:00`."""
        local = datetime.fromtimestamp(at, self.zone)
        return (local if local.tzinfo else local.astimezone()).isoformat(timespec="seconds")
