"""
Counts of what happens to every message, handed to Prometheus's library many at once.

A call of the library costs two to four microseconds, more where processes share their counts in files, and a message
makes five.  Here it is an addition; the library hears of it a moment later, and before anybody is told its counts.
Knows counters and histograms, and nothing of what they count.  For the thread of the event loop alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from typing import Any, Protocol

import prometheus_client

from streams.later import Later

LATER = 0.25
"""Seconds; far less than passes between two scrapes."""


class _Held(Protocol):
    """Something that has counts to hand over."""

    def hand_over(self) -> None: ...


_held: list[_Held] = []


def hand_over() -> None:
    """Let the library know of all that was counted until now."""
    held = _held.copy()
    _held.clear()
    for each in held:
        each.hand_over()


_later = Later(hand_over, LATER)


def _hold(held: _Held) -> None:
    _held.append(held)
    _later.ask()


class Count:
    """A counter, its labels given."""

    __slots__ = ("_counter", "_more")

    def __init__(self, counter: prometheus_client.Counter) -> None:
        self._counter = counter
        self._more = 0

    def inc(self, amount: int = 1) -> None:
        if not amount:
            return
        self._more += amount
        if self._more == amount:
            _hold(self)

    def hand_over(self) -> None:
        more, self._more = self._more, 0
        self._counter.inc(more)


class Times:
    """A histogram, its labels given."""

    __slots__ = ("_bounds", "_histogram", "_seen")

    def __init__(self, histogram: prometheus_client.Histogram) -> None:
        # Nothing public takes several at once; tests/streams/test_counted.py says so where the library should change.
        self._histogram: Any = histogram
        self._bounds = histogram._upper_bounds
        self._seen: list[float] = []

    def observe(self, seconds: float) -> None:
        self._seen.append(seconds)
        if len(self._seen) == 1:
            _hold(self)

    def hand_over(self) -> None:
        seen, self._seen = self._seen, []
        self._histogram._sum.inc(sum(seen))
        for bucket, count in Tally([bisect_left(self._bounds, seconds) for seconds in seen]).items():
            self._histogram._buckets[bucket].inc(count)
