"""
What Prometheus can ask of a process.  docs/metrics.md has a row for each.

Knows names, labels and buckets; when to count is its callers' business.  Labels are names from streams.toml and fixed
words, never people: a label with a person's number would be personal data and one more time series for each.

Under `cauce up` all processes share a folder (PROMETHEUS_MULTIPROC_DIR), so any of them can answer for all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from streams import counted
from streams.counted import Count, Times

__all__ = ["CONTENT_TYPE", "expect", "forget", "loop_lag", "observe", "redis_call", "text", "turn"]

LATELY = 30.0
"""Seconds for which the worst lateness of the event loop is told: longer than between two scrapes."""

_ROUND_TRIP = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
_QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

MESSAGES = Counter("cauce_messages", "Messages at the ingress: accepted, duplicate, ignored, shed.", ["outcome"])
REQUESTS = Counter("cauce_http_requests", "HTTP requests by route and status.", ["route", "status"])
REQUEST_SECONDS = Histogram("cauce_http_request_seconds", "HTTP requests, waiting ones left out.", buckets=_QUICK)
APPEND_MESSAGES = Histogram("cauce_append_messages", "Messages in one write to Redis.", buckets=_SIZES)
INGRESS_WORKERS = Gauge("cauce_ingress_workers", "Processes of the ingress that listen.", multiprocess_mode="livesum")
WAITING = Gauge("cauce_waiting_requests", "Requests that wait for their reply.", multiprocess_mode="livesum")

TURNS = Counter("cauce_turns", "Turns: settled, parked, superseded, buried, refused, failed.", ["group", "outcome"])
TURN_SECONDS = Histogram("cauce_turn_seconds", "From a turn's start to its commit.", ["group"], buckets=_SLOW)
RETRIES = Counter("cauce_retries", "Turns started beyond their first attempt.", ["group"])
RECOVERIES = Counter("cauce_recoveries", "Turns taken over from workers that died.", ["group"])
SKIPPED = Counter("cauce_skipped", "Entries that a group lost by falling too far behind.", ["group"])
LOOP_LAG = Gauge(
    "cauce_loop_lag_seconds", "The latest that the event loop was lately.", ["process"], multiprocess_mode="livemax"
)

GENERATION_SECONDS = Histogram("cauce_generation_seconds", "One reply, its queue included.", buckets=_SLOW)
GENERATION_TOKENS = Counter(
    "cauce_generation_tokens", "Tokens read (prompt), of these known before (recalled), and written (reply).", ["kind"]
)

ENGINE_REQUESTS = Gauge(
    "cauce_engine_requests", "In the model's batch (running), or for want of a place not (waiting).", ["state"],
    multiprocess_mode="livesum",
)  # fmt: skip
ENGINE_BATCH = Histogram("cauce_engine_batch", "Requests that one step of the model served.", buckets=_SIZES)

ANSWERS = Counter("cauce_answers", "First questions looked up among earlier replies: hit, miss.", ["outcome"])

TOOL_CALLS = Counter("cauce_tool_calls", "The model's calls of actions: taken, overruled, refused.", ["outcome"])

DELIVERIES = Counter("cauce_deliveries", "Webhook posts: delivered, retried, buried, unsent, held.", ["outcome"])
DELIVERY_ANSWERS = Counter("cauce_delivery_answers", "Answers to posts by HTTP status; none: no answer.", ["status"])
DELIVERY_SECONDS = Histogram("cauce_delivery_seconds", "One webhook post.", buckets=_QUICK)
BREAKER = Gauge("cauce_breaker_open", "1 while the webhook's breaker is open.", multiprocess_mode="mostrecent")

REDIS = Gauge("cauce_redis_up", "1 while Redis answers and takes our writes.", multiprocess_mode="livemin")
REDIS_SECONDS = Histogram(
    "cauce_redis_seconds", "One round trip, by its script or first command.", ["call"], buckets=_ROUND_TRIP
)
REDIS_MEMORY = Gauge("cauce_redis_memory_bytes", "In use, of the fullest server.", multiprocess_mode="livemostrecent")
REDIS_LIMIT = Gauge("cauce_redis_memory_limit_bytes", "Its maxmemory; 0: none.", multiprocess_mode="livemostrecent")

GROUP_WORKERS = Gauge("cauce_group_workers", "Workers with a heartbeat.", ["group"], multiprocess_mode="livemostrecent")
GROUP_LAG = Gauge("cauce_group_lag", "Entries that are not settled.", ["group"], multiprocess_mode="livemostrecent")
GROUP_OLDEST = Gauge(
    "cauce_group_oldest_seconds", "Age of the oldest entry not settled.", ["group"], multiprocess_mode="livemostrecent"
)
GROUP_IN_WORK = Gauge("cauce_group_in_work", "Turns being handled.", ["group"], multiprocess_mode="livemostrecent")
GROUP_DEAD = Gauge(
    "cauce_group_dead", "Dead letters of its stream.", ["group", "stream"], multiprocess_mode="livemostrecent"
)


class View(Protocol):
    """What is known of a group at one moment; survey.py counts it."""

    @property
    def stream(self) -> str: ...
    @property
    def workers(self) -> int: ...
    @property
    def lag(self) -> int: ...
    @property
    def oldest_s(self) -> float: ...
    @property
    def in_work(self) -> int: ...
    @property
    def dead(self) -> int: ...


class Memory(Protocol):
    """How full a server is; memory.py asks."""

    @property
    def used(self) -> int: ...
    @property
    def limit(self) -> int | None: ...


def expect(groups: Iterable[str]) -> None:
    """
    What these groups will count, at 0 now.

    A counter that begins with its first event has not increased as Prometheus sees it, and no alarm would be raised.
    """
    for group in groups:
        for outcome in ("settled", "parked", "superseded", "buried", "refused", "failed"):
            _of_turns(group, outcome)
        for counter in (RETRIES, RECOVERIES, SKIPPED):
            counter.labels(group)


def turn(group: str, outcome: str, seconds: float) -> None:
    """Count and time one turn, which ended so: settled, parked, superseded, buried, refused, failed."""
    count, times = _of_turns(group, outcome)
    count.inc()
    times.observe(seconds)


@cache
def _of_turns(group: str, outcome: str) -> tuple[Count, Times]:
    return Count(TURNS.labels(group, outcome)), Times(TURN_SECONDS.labels(group))


def redis_call(call: str, seconds: float) -> None:
    """Count and time one round trip."""
    _of_calls(call).observe(seconds)


@cache
def _of_calls(call: str) -> Histogram:
    return REDIS_SECONDS.labels(call)


class _Worst:
    """The largest of what was seen lately."""

    def __init__(self) -> None:
        self._value, self._until = 0.0, 0.0

    def of(self, value: float, now: float) -> float:
        if value >= self._value or now > self._until:
            self._value, self._until = value, now + LATELY
        return self._value


_lateness = _Worst()


def loop_lag(process: str, seconds: float) -> None:
    """How much later than asked for a timer fired, in the process of this group, or of the ingress."""
    LOOP_LAG.labels(process).set(_lateness.of(max(0.0, seconds), time.monotonic()))


def observe(views: Mapping[str, View], memory: Memory) -> None:
    """Take over what was counted of all groups just now, and how full the fullest server is."""
    for name, view in views.items():
        GROUP_WORKERS.labels(name).set(view.workers)
        GROUP_LAG.labels(name).set(view.lag)
        GROUP_OLDEST.labels(name).set(view.oldest_s)
        GROUP_IN_WORK.labels(name).set(view.in_work)
        GROUP_DEAD.labels(name, view.stream).set(view.dead)
    REDIS_MEMORY.set(memory.used)
    REDIS_LIMIT.set(memory.limit or 0)


def forget(groups: Mapping[str, str]) -> None:
    """Nobody can count them now, by name and stream, and what was counted last may be wrong: not a number."""
    REDIS_MEMORY.set(float("nan"))
    for name, stream in groups.items():
        for gauge in (GROUP_WORKERS, GROUP_LAG, GROUP_OLDEST, GROUP_IN_WORK):
            gauge.labels(name).set(float("nan"))
        GROUP_DEAD.labels(name, stream).set(float("nan"))


def text() -> bytes:
    """The answer to `GET /metrics`; its type is CONTENT_TYPE."""
    counted.hand_over()
    if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
        return generate_latest(REGISTRY)
    everyone = CollectorRegistry()
    MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
    return generate_latest(everyone)
