"""
A fault under a steady light load, and what everybody says of it: the clients, the webhook, the logs, the pages.

Two workers of each group, nobody restarted.  Knows no fault; test_healing.py brings them.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from pipeline import Pipeline, Redis, pipeline

from bench.ports import free_port
from streams.connection import order
from tests.faults.checker import Evidence, Violation
from tests.faults.load import Load
from tests.faults.trial import PROCESSES, TOKEN, judged

WORKERS = PROCESSES[1:]
BEFORE, AFTER = 40, 60
"""Messages that are taken before the fault, and after it."""

Fault = Callable[[Pipeline], Awaitable[float | None]]
"""Returns when it is over: from then on Redis can serve.  May tell until when it held, where its end takes a while."""


@dataclass
class Look:
    """A page at one moment.  Unix seconds."""

    page: str
    """`<process>/health/ready`, `ingress/health`, `ingress/metrics`."""
    asked: float
    answered: float
    status: int
    """0 where no answer came."""
    text: str

    @property
    def told(self) -> tuple[int, str, str]:
        """Of a page of health: status, the word for the whole, the word for Redis."""
        told = json.loads(self.text or "{}")
        return self.status, told.get("status", ""), told.get("redis", "")

    def gauge(self, name: str) -> list[float]:
        """Of a page of metrics: its values, one for each group, or one."""
        return [float(line.rpartition(" ")[2]) for line in self.text.splitlines() if re.match(rf"{name}[{{ ]", line)]


@dataclass
class Healed:
    """What came of it.  Unix seconds."""

    began: float = 0.0
    over: float = 0.0
    held: float = 0.0
    """Until when it was there for certain."""
    seconds: float = 0.0
    """From when the fault was over until the first message posted after it was delivered."""
    evidence: Evidence = field(default_factory=lambda: Evidence([], [], [], {}, {}, []))
    violations: list[Violation] = field(default_factory=list)
    warnings: dict[str, Counter[str]] = field(default_factory=dict)
    """Of each process, from the fault on, what it warned of, and how often."""
    errors: list[str] = field(default_factory=list)
    backs: list[float] = field(default_factory=list)
    """For how long Redis was away, as the processes say it."""
    looks: list[Look] = field(default_factory=list)
    at_rest: list[Look] = field(default_factory=list)
    """All pages, once nothing is left to do."""

    def during(self, page: str, after: float) -> list[Look]:
        """Looks at pages of this name within the fault, from so many seconds after its beginning on."""
        looks = [look for look in self.looks if look.page.endswith(page)
                 and self.began + after <= look.asked and look.answered <= self.held]  # fmt: skip
        assert looks, f"nobody looked at {page}"
        return looks


async def healing(redis: Redis, fault: Fault, *, latency: float = 0.1, duplicates: float = 0.2) -> Healed:
    """Serve, disturb, and serve on, until all that was said is answered."""
    own = {name: {"WORKER_PORT": str(free_port())} for name in WORKERS}
    found = Healed()
    async with pipeline(
        redis, *PROCESSES, own=own, streams="[history]\nmax_messages = 5000",
        ENVIRONMENT="production", INGRESS_TOKENS=TOKEN, OPERATOR_TOKENS=f"{TOKEN}-of-operators",
        MODEL=f"echo?latency={latency}", DEBOUNCE="0.1", RATE_LIMIT_PER_MINUTE="0", SESSION_EXPIRE_TIME="86400",
    ) as whole:  # fmt: skip
        load = Load(whole.url, people=20, messages=10**9, rate=10, seed=1, token=TOKEN, duplicates=duplicates)
        speaking = asyncio.create_task(load.run())
        looking = [asyncio.create_task(_looks(page, url, found.looks)) for page, url in _pages(whole).items()]
        try:
            await load.taken(BEFORE)
            heard = {name: len(process.lines) for name, process in whole.processes.items()}
            found.began = time.time()
            held = await fault(whole)
            found.over = time.time()
            found.held = held or found.over
            await load.taken(AFTER)
            load.stop()
            await speaking
            trial = await judged(whole.stores, whole.sink, load, found.began, whole.processes)
        finally:
            speaking.cancel()
            for task in looking:
                task.cancel()
            await asyncio.wait({speaking, *looking})
        found.evidence, found.violations = trial.evidence, trial.violations
        found.at_rest = [await _look(page, url) for page, url in _pages(whole).items()]
        _read_logs(whole, heard, found)
    found.seconds = _first_delivered(found)
    return found


def _pages(whole: Pipeline) -> dict[str, str]:
    """Every page, and where it is."""
    at = {name: f"http://127.0.0.1:{whole.own[name]['WORKER_PORT']}" for name in WORKERS} | {"ingress": whole.url}
    return {f"{name}{path}": f"{url}{path}" for name, url in at.items()
            for path in ("/health/ready", *(("/health", "/metrics") if name == "ingress" else ()))}  # fmt: skip


async def _looks(page: str, url: str, seen: list[Look]) -> None:
    while True:
        seen.append(await _look(page, url))
        await asyncio.sleep(0.3)


async def _look(page: str, url: str) -> Look:
    asked = time.time()
    headers = {"Authorization": f"Bearer {TOKEN}-of-operators"}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=8), headers=headers) as session,
            session.get(url) as response,
        ):
            return Look(page, asked, time.time(), response.status, await response.text())
    except (TimeoutError, aiohttp.ClientError):
        return Look(page, asked, time.time(), 0, "")


def _read_logs(whole: Pipeline, heard: dict[str, int], found: Healed) -> None:
    for name, process in whole.processes.items():
        lines = [json.loads(line) for line in process.lines[heard[name] :] if line.startswith("{")]
        found.warnings[name] = Counter(line["event"] for line in lines if line["level"] == "warning")
        found.errors += [f"{name}: {line}" for line in lines if line["level"] == "error"]
        found.errors += [f"{name}: {line}" for line in process.lines[heard[name] :] if not line.startswith("{")]
        found.backs += [line["after_s"] for line in lines if line["event"] == "redis.back"]


def _first_delivered(found: Healed) -> float:
    """From the end of the fault until the reply to the first message posted after it is at the webhook."""
    after = [entry for entry in found.evidence.inbound if order(entry.id)[0] / 1000 >= found.over]
    first = min(after, key=lambda entry: order(entry.id))
    came = [each.at for each in found.evidence.deliveries
            if each.person == first.person and first.message_id in each.in_reply_to]  # fmt: skip
    return min(came, default=math.inf) - found.over


def answered_once(found: Evidence, since: float) -> list[str]:
    """
    What is wrong with the answers to what was said since then (Unix seconds), where what was before may be lost.

    The load has to have said nothing twice.
    """
    wrong = []
    said = [each for each in found.said if each.entries and all(order(id)[0] / 1000 >= since for id in each.entries)]
    for message in said:
        replies = [each for each in found.outbound if each.person == message.person and message.id in each.in_reply_to]
        came = [each for each in found.deliveries if each.person == message.person and message.id in each.in_reply_to]
        if len(replies) != 1 or len(came) != 1:
            wrong.append(f"{message.person} {message.id}: {len(replies)} replies, {len(came)} deliveries")
    return wrong if said else ["nothing was said"]
