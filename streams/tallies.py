"""
Counts by minute, hour and day: as settle.lua is told of them, and as they are read back.

A bucket's counts are the fields of one hash.  A name that begins with `#` says that there is a HyperLogLog of that name
beside it, one with `~` is a bucket of a timing: `~reply~992`.  What the names mean is their handler's to know.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import msgspec

from streams import timings
from streams.buckets import Bucket, Calendar
from streams.connection import Store
from streams.effects import Tally, Turn
from streams.keys import Keys
from streams.tables import Group
from streams.topology import Topology

_DISTINCT, _TIMING = "#", "~"
_NAME = re.compile(r"[^#~:\x00-\x1f][^:\x00-\x1f]{0,99}", re.ASCII)
_READ = 200
"""Buckets that one round trip reads."""


class Counted(msgspec.Struct, kw_only=True):
    """What was counted in a stretch of time."""

    counts: Counter[str] = msgspec.field(default_factory=Counter)
    distinct: dict[str, int] = {}
    timings: dict[str, Counter[int]] = {}
    """Name → histogram of milliseconds, as timings.py has it."""

    def add(self, other: Counted) -> None:
        """What is distinct does not add up: somebody may be in both."""
        self.counts.update(other.counts)
        for name, histogram in other.timings.items():
            self.timings.setdefault(name, Counter()).update(histogram)


def name_of(group: Group) -> str:
    """Under which a group counts."""
    return group.tallies or group.name


def writers(topology: Topology) -> dict[str, list[str]]:
    """Under each name the groups that count there, or would."""
    found: dict[str, list[str]] = {}
    for group in topology.groups.values():
        found.setdefault(name_of(group), []).append(group.name)
    return found


# Written


def encoded(
    keys: Keys, group: Group, turn: Turn, tallies: Sequence[Tally], calendar: Calendar, touched: list[str]
) -> dict[str, Any]:
    """
    The effects `tallies` and `distinct` as tallies.lua documents them; their keys are added to `touched`.

    Raises:
        ValueError: a name that could not be told from others.
    """
    if not tallies:
        return {}
    name, sums, seen = name_of(group), [], []
    for tally in tallies:
        kept = calendar.kept(tally.at_ms, turn.now_ms)
        fields = list(chain.from_iterable(_fields(tally)))
        named = [(keys.of("tally", f"{name}:{bucket.name}"), seconds) for bucket, seconds in kept]
        if fields and named:
            sums.append([list(chain.from_iterable(named)), fields])
            touched += [key for key, _ in named]
        for what, value in tally.distinct.items():
            for bucket, seconds in kept:
                key = keys.of("distinct", f"{name}:{bucket.name}:{what}")
                seen.append([key, seconds, str(value)])
                touched.append(key)
    return {"tallies": sums, "distinct": seen}


def _fields(tally: Tally) -> Iterator[tuple[str, int]]:
    for name, count in tally.counts.items():
        yield _checked(name), int(count)
    for name in tally.distinct:
        yield _DISTINCT + _checked(name), 1
    for name, ms in tally.timings.items():
        yield f"{_TIMING}{_checked(name)}{_TIMING}{timings.bucket(int(ms))}", 1


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError(f"a tally cannot be called {name!r}: 1 to 100 characters, no colon, no # or ~ at the begin")
    return name


# Read


async def read(store: Store, name: str, buckets: Sequence[Bucket]) -> list[Counted]:
    """
    What a shard has of these buckets, in their order.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    found: list[Counted] = []
    for at in range(0, len(buckets), _READ):
        some = buckets[at : at + _READ]
        replies = await store.pipeline([("HGETALL", store.keys.of("tally", f"{name}:{one.name}")) for one in some])
        found += map(_counted, replies)
        there = [(one, bucket, what) for one, bucket in zip(found[at:], some, strict=True) for what in one.distinct]
        counts = await store.pipeline([("PFCOUNT", _log(store, name, bucket, what)) for _, bucket, what in there])
        for (one, _, what), count in zip(there, counts, strict=True):
            one.distinct[what] = count if isinstance(count, int) else 0
    return found


async def distinct(store: Store, name: str, what: str, buckets: Sequence[Bucket]) -> int:
    """
    How many different ones a shard has seen in all of these.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    [count] = await store.pipeline([("PFCOUNT", *(_log(store, name, bucket, what) for bucket in buckets))])
    return count if isinstance(count, int) else 0


def _log(store: Store, name: str, bucket: Bucket, what: str) -> str:
    return store.keys.of("distinct", f"{name}:{bucket.name}:{what}")


def _counted(reply: Any) -> Counted:
    one = Counted()
    flat = [part.decode(errors="replace") for part in reply] if isinstance(reply, list) else []
    for field, text in zip(flat[::2], flat[1::2], strict=True):
        if not text.lstrip("-").isdecimal():
            continue  # nobody of ours wrote it
        if field.startswith(_DISTINCT):
            one.distinct[field[1:]] = 0
        elif field.startswith(_TIMING):
            name, _, least = field[1:].rpartition(_TIMING)
            one.timings.setdefault(name, Counter())[int(least)] = int(text)
        else:
            one.counts[field] = int(text)
    return one
