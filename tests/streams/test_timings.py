"""Percentiles out of few numbers, against the numbers themselves and against the library they are modelled on."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from streams import timings


def spread(seed: int, count: int) -> list[int]:
    """Times as replies have them: mostly short, with a long tail."""
    luck = random.Random(seed)  # noqa: S311 - no secret
    return [int(luck.lognormvariate(7, 1.2)) for _ in range(count)]


@pytest.mark.parametrize(("seed", "count"), [(1, 1), (2, 7), (3, 1000), (4, 50_000)])
def test_a_percentile_is_never_too_low_and_at_most_a_sixteenth_too_high(seed, count) -> None:
    took = sorted(spread(seed, count))
    found = timings.percentiles(Counter(map(timings.bucket, took)), (50, 95, 99, 100))
    for percent, told in zip((50, 95, 99, 100), found, strict=True):
        exact = took[max(0, -(-len(took) * percent // 100) - 1)]
        assert exact <= told <= exact + exact / 16


def test_buckets_and_percentiles_are_those_of_hdr_histogram() -> None:
    hdr = pytest.importorskip("hdrh.histogram", reason="it has no build for this machine")
    theirs = hdr.HdrHistogram(1, timings.LONGEST_MS, 1)
    took = [ms for ms in spread(5, 20_000) if ms > 0] + [1, 2, 31, 32, 33, 63, 64, timings.LONGEST_MS]
    for ms in took:
        theirs.record_value(ms)
        assert timings.bucket(ms) == theirs.get_lowest_equivalent_value(ms)
        assert timings.greatest(timings.bucket(ms)) == theirs.get_highest_equivalent_value(ms)
    wanted = (1, 25, 50, 75, 90, 95, 99, 99.9, 100)
    assert timings.percentiles(Counter(map(timings.bucket, took)), wanted) == [
        theirs.get_value_at_percentile(percent) for percent in wanted
    ]


def test_there_are_few_buckets_whatever_comes() -> None:
    everything = {
        timings.bucket(1 << bit | more) for bit in range(40) for more in range(0, 1 << bit, max(1, 1 << bit >> 5))
    }
    assert len(everything) < 450
    assert timings.bucket(-5) == 0
    assert timings.bucket(10**12) == timings.bucket(timings.LONGEST_MS)
