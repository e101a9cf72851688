"""Counts handed to Prometheus's library many at once: it must tell the same as if it had been told of each."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from waiting import until

from streams import counted

BOUNDS = (0.005, 0.01, 0.1, 1, 10)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def told(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


@given(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(0, 20, allow_nan=False))))
def test_a_histogram_tells_the_same_as_if_it_had_seen_each(seen) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    histogram = Histogram("seconds", "x", ["group"], buckets=BOUNDS, registry=ours).labels("g")
    direct = Histogram("seconds", "x", ["group"], buckets=BOUNDS, registry=theirs).labels("g")

    async def together() -> None:
        times = counted.Times(histogram)
        for seconds in seen:
            times.observe(seconds)
        counted.hand_over()

    asyncio.run(together())
    for seconds in seen:
        direct.observe(seconds)
    sums = [[line for line in told(each) if line.startswith("seconds_sum")] for each in (ours, theirs)]
    assert [float(line.split()[1]) for line in sums[0]] == pytest.approx([float(line.split()[1]) for line in sums[1]])
    buckets = [[line for line in told(each) if not line.startswith("seconds_sum")] for each in (ours, theirs)]
    assert buckets[0] == buckets[1]


async def test_the_library_hears_of_it_by_itself_and_once(registry, monkeypatch) -> None:
    monkeypatch.setattr(counted._later, "seconds", 0.0)
    count = counted.Count(Counter("messages", "x", registry=registry))
    count.inc()
    count.inc(4)
    assert "messages_total 0.0" in told(registry), "it was not to be told yet"

    async def heard() -> bool:
        return "messages_total 5.0" in told(registry)

    await until(heard)
    counted.hand_over()
    assert "messages_total 5.0" in told(registry)
    count.inc(0)
    count.inc(2)
    counted.hand_over()
    assert "messages_total 7.0" in told(registry)


def test_where_no_loop_runs_the_library_hears_of_it_at_once(registry) -> None:
    counted.Count(Counter("messages", "x", registry=registry)).inc(3)
    assert "messages_total 3.0" in told(registry)


def test_a_loop_that_has_ended_keeps_nothing_back(registry) -> None:
    count = counted.Count(Counter("messages", "x", registry=registry))

    async def say() -> None:
        count.inc()

    asyncio.run(say())
    asyncio.run(say())
    counted.hand_over()
    assert "messages_total 2.0" in told(registry)
