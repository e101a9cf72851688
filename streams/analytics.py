"""
The report that `cauce stats` and GET /analytics give: what was counted in a period, and what was buried in it.

Adds up shards and buckets.  What the names mean is their handler's to know, how it looks the command's and the page's.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import msgspec

from streams import deadletters, moments, tallies, timings
from streams.buckets import Bucket, Calendar, Unit
from streams.deadletters import Letter, Wanted
from streams.errors import CauceError
from streams.masking import Mask
from streams.stores import Stores
from streams.tallies import Counted
from streams.topology import Topology, suggest

ANALYTICS = "analytics"
"""What is told where nobody says of what."""

MOST_ROWS = 3_000
"""Of one report: two days by the minute."""

MOST_LETTERS = 10_000
"""Dead letters that one report looks at, the newest; a letter is read whole, for its reason."""

_MOST_REASONS = 20
_PERCENTILES = (50, 95, 99)
_STEP: dict[Unit, float] = {"minute": 60, "hour": 3600, "day": 86400}


class Unclear(CauceError):
    """What is asked for is no time, no length of one, or nothing that anybody counts."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be told, as it was typed."""

    since: str = "1d"
    until: str | None = None
    by: str | None = None
    of: str = ANALYTICS
    any_order: bool = False
    """Of an `until` before `since`: what lies between them is told all the same."""


class Timing(msgspec.Struct):
    """How long something took, milliseconds; never too low, at most a sixteenth too high."""

    count: int
    p50: int
    p95: int
    p99: int


class Row(msgspec.Struct, kw_only=True):
    """What there was in one stretch of time."""

    start: str
    """Local, with its distance to UTC."""
    counts: dict[str, int] = {}
    distinct: dict[str, int] = {}
    """How many different ones, to within a percent."""
    timings: dict[str, Timing] = {}
    buried: dict[str, int] = {}
    """Group → dead letters of it that are there still."""


class Report(msgspec.Struct, kw_only=True):
    """The whole answer."""

    of: str
    groups: list[str]
    """Who counts that, by streams.toml; empty: nobody does."""
    since: str
    until: str
    by: Unit
    total: Row
    reasons: dict[str, dict[str, int]] = {}
    """Group → why its dead letters are that, the most frequent reasons."""
    buried_partly: bool = False
    """There are more dead letters in this period than were looked at."""
    rows: list[Row] = []


def names(topology: Topology) -> list[str]:
    """What may be asked for."""
    return list(dict.fromkeys([ANALYTICS, *tallies.writers(topology)]))


async def report(stores: Stores, topology: Topology, calendar: Calendar, asked: Asked) -> Report:
    """
    Raises:
        Unclear: a time that is none, times in the wrong order, or a name under which no group counts.
        Unavailable: Redis cannot be reached.
    """
    counting, there = tallies.writers(topology), names(topology)
    if asked.of not in there:
        near = suggest(asked.of, there)
        raise Unclear(f"no group counts under {asked.of!r}{near}; there are: {', '.join(there)}")
    clock = await stores.first.command("TIME")
    now = int(clock[0]) + int(clock[1]) / 1e6
    by, buckets = period(asked, calendar, now)
    found, whole = await _counted(stores, calendar, asked.of, by, buckets)
    dead = await _buried(stores, topology, buckets)
    rows = [_row(calendar, bucket, one, dead.of(bucket)) for bucket, one in zip(buckets, found, strict=True)]
    return Report(
        of=asked.of,
        groups=counting.get(asked.of, []),
        since=calendar.shown(buckets[0].start),
        until=calendar.shown(min(now, buckets[-1].end)),
        by=by,
        total=_row(calendar, buckets[0], whole, dead.total),
        reasons=dead.reasons(),
        buried_partly=dead.partly,
        rows=rows,
    )


async def _counted(
    stores: Stores, calendar: Calendar, name: str, by: Unit, buckets: Sequence[Bucket]
) -> tuple[list[Counted], Counted]:
    """Each bucket, and all of them; what is distinct adds up over shards, for a person is in one of them only."""
    found, whole = [Counted() for _ in buckets], Counted()
    cover = list(calendar.cover(by, buckets[0].start, buckets[-1].end))
    for store in stores:
        shard = await tallies.read(store, name, buckets)
        for one, more in zip(found, shard, strict=True):
            one.add(more)
            whole.add(more)
            _add(one.distinct, more.distinct)
        for what in {what for one in shard for what in one.distinct}:
            _add(whole.distinct, {what: await tallies.distinct(store, name, what, cover)})
    return found, whole


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, count in more.items():
        counts[name] = counts.get(name, 0) + count


def period(asked: Asked, calendar: Calendar, now: float) -> tuple[Unit, list[Bucket]]:
    """
    The buckets that are asked for, the oldest first; at least one, and of too many the newest.

    `7d` by day is today and the six days before.

    Raises:
        Unclear: a time that is none, or times in the wrong order.
    """
    since, ago = _moment("since", asked.since, calendar, now)
    until = _moment("until", asked.until, calendar, now)[0] if asked.until else now
    if since > until and not asked.any_order:
        told = f"since {asked.since} lies behind until {asked.until or 'now'}"
        raise Unclear(f"{told}, so there is nothing between them")
    since, until = sorted(min(max(at, calendar.oldest(now)), now) for at in (since, until))
    by = _unit(asked.by, until - since)
    if ago:  # what has only just begun is one of them
        since = min(since + _STEP[by], until)
    since = max(since, until - (MOST_ROWS - 1) * _STEP[by])
    return by, list(calendar.between(by, since, max(until, since + 0.001)))


def _unit(named: str | None, stretch: float) -> Unit:
    if named is None:
        return "minute" if stretch <= 2 * 3600 else "hour" if stretch <= 3 * 86400 else "day"
    for unit in get_args(Unit):
        if named == unit:
            return unit  # type: ignore[no-any-return]
    raise Unclear(f"by {named!r} is not accepted; write minute, hour or day{suggest(named, get_args(Unit))}")


def _moment(name: str, text: str, calendar: Calendar, now: float) -> tuple[float, bool]:
    """Unix seconds, and whether it was said as a time ago."""
    try:
        return max(0.0, now - moments.seconds(text)), True
    except ValueError:
        pass
    try:
        return max(0.0, moments.date(text, calendar.zone)), False
    except ValueError:
        raise Unclear(f"{name} {text!r} is no time: write 2h, 7d, 2025-10-05 or 2025-10-05T14:00") from None


class _Dead:
    """Dead letters by bucket and group, and why."""

    def __init__(self) -> None:
        self._by_bucket: dict[str, Counter[str]] = {}
        self._why: dict[str, Counter[str]] = {}
        self._mask = Mask()
        self.total: Counter[str] = Counter()
        self.partly = False

    def add(self, bucket: Bucket, letter: Letter) -> None:
        group = letter.group or "?"
        self.total[group] += 1
        self._by_bucket.setdefault(bucket.name, Counter())[group] += 1
        # What comes behind is particular to the one letter, as the answer's first words are.
        why = re.split(r"[:(]", self._mask.text(letter.reason), maxsplit=1)[0].strip()[:80]
        self._why.setdefault(group, Counter())[why] += 1

    def of(self, bucket: Bucket) -> Counter[str]:
        return self._by_bucket.get(bucket.name, Counter())

    def reasons(self) -> dict[str, dict[str, int]]:
        return {group: dict(why.most_common(_MOST_REASONS)) for group, why in self._why.items()}


async def _buried(stores: Stores, topology: Topology, buckets: Sequence[Bucket]) -> _Dead:
    """
    Looked up, not counted as they come: their ids are times, so a period is a range of them.

    It costs nothing where nothing dies, tells of what died before anybody counted, and what was put back or dropped
    is no failure any more.
    """
    dead, looked = _Dead(), 0
    wanted = Wanted(first=str(buckets[0].start * 1000), last=str(buckets[-1].end * 1000 - 1))
    for stream in topology.streams:
        for store in stores:
            at = len(buckets) - 1
            async for letter in deadletters.letters(store, stream, wanted, newest_first=True):
                looked += 1
                if looked > MOST_LETTERS:
                    dead.partly = True
                    return dead
                moment = int(letter.id.partition("-")[0]) // 1000
                while moment < buckets[at].start and at > 0:
                    at -= 1
                dead.add(buckets[at], letter)
    return dead


def _row(calendar: Calendar, bucket: Bucket, one: Counted, buried: Counter[str]) -> Row:
    return Row(
        start=calendar.shown(bucket.start),
        counts=dict(sorted(one.counts.items())),
        distinct=one.distinct,
        timings={
            name: Timing(histogram.total(), *timings.percentiles(histogram, _PERCENTILES))
            for name, histogram in one.timings.items()
        },
        buried=dict(buried),
    )
