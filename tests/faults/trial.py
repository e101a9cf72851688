"""
The whole pipeline under a load while something disturbs it, and everything checked once all is quiet.

Two workers of each group, so that one can take over what another left.  Knows no fault: crashes.py and the tests of the
network bring theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from pipeline import Pipeline, Process, Redis, pipeline
from sink import Sink
from waiting import until

from streams.stores import Stores
from tests.faults import evidence
from tests.faults.checker import Evidence, Violation, violations
from tests.faults.load import APP_SECRET, Load

TOKEN = "a-token-for-those-who-post-and-read"
PROCESSES = ("ingress", "inference", "inference2", "egress", "egress2")
BY_META, WAITS = 0.1, 0.05
"""The share of bursts that come as one webhook of Meta's, and of other messages that wait for their reply."""

QUIET_WITHIN = 60.0
"""Seconds after the last fault and the last message in which all has to be delivered."""


@dataclass
class Trial:
    """What came of it."""

    evidence: Evidence
    violations: list[Violation]
    answers: dict[str, int]
    """What clients heard, and how often."""
    seconds: float
    """From the first message to the last delivery."""

    def says(self, *, most: int = 20) -> str:
        """What is wrong, for a person to read."""
        shown = "\n".join(f"{each.rule}: {each.what}" for each in self.violations[:most])
        return f"{len(self.violations)} violations; clients heard {self.answers}\n{shown}"


async def trial(
    redis: Redis, disturb: Callable[[Pipeline, Load], Awaitable[None]], *,
    people: int, rate: float, seed: int, messages: int = 10**9, latency: float = 0.2,
    streams: str = "", placement: str = "", own: dict[str, dict[str, str]] | None = None, sink: Sink | None = None,
    **environment: str,
) -> Trial:  # fmt: skip
    """
    Until all messages are said and taken, or until `disturb` has ended; whichever comes first ends the other.

    Args:
        latency: seconds that a reply takes, and its delivery, so that something is always in work.
        own: process → what stands in its environment alone.  One that is not among PROCESSES is started as well, and
            clients turn to an ingress with a port of its own when another refuses.
    """
    own = own or {}
    ports = [settings["INGRESS_PORT"] for settings in own.values() if "INGRESS_PORT" in settings]
    async with pipeline(
        redis, *dict.fromkeys([*PROCESSES, *own]), streams=f"[history]\nmax_messages = 5000\n{streams}",
        placement=placement, own=own, sink=sink,
        ENVIRONMENT="production", INGRESS_TOKENS=TOKEN, OPERATOR_TOKENS=f"{TOKEN}-of-operators",
        WHATSAPP_APP_SECRET=APP_SECRET,
        MODEL=f"echo?latency={latency}", DEBOUNCE="0.1", RATE_LIMIT_PER_MINUTE="0", SESSION_EXPIRE_TIME="86400",
        **environment,
    ) as whole:  # fmt: skip
        whole.sink.plan(delay=latency, count=None)
        also = [f"http://127.0.0.1:{port}" for port in ports]
        load = Load(
            whole.url, people=people, messages=messages, rate=rate, seed=seed, token=TOKEN, also=also,
            by_meta=BY_META, waits=WAITS,
        )  # fmt: skip
        start = time.time()
        await both(load, disturb(whole, load))
        return await judged(whole.stores, whole.sink, load, start, whole.processes)


async def judged(
    stores: Stores, sink: Sink, load: Load, start: float, processes: Mapping[str, Process] | None = None
) -> Trial:
    """Once nothing is left to do, or that takes too long: what the checker says to what is there."""
    with contextlib.suppress(TimeoutError):
        await until(lambda: evidence.quiet(stores), within=QUIET_WITHIN)
    died = [f"{name} {process.how_it_ended}" for name, process in (processes or {}).items() if process.ended]
    found = await evidence.gather(stores, sink, load.said, died)
    last = max((each.at for each in found.deliveries), default=start)
    return Trial(found, violations(found), dict(sorted(load.answers.items())), last - start)


async def both(load: Load, disturbing: Awaitable[None]) -> None:
    """Until one of them has ended, which ends the other."""
    speaking, disturbed = asyncio.create_task(load.run()), asyncio.ensure_future(disturbing)
    try:
        await asyncio.wait({speaking, disturbed}, return_when=asyncio.FIRST_COMPLETED)
        load.stop()
        if disturbed.done():
            disturbed.result()
        await speaking
    finally:
        speaking.cancel()
        disturbed.cancel()
        await asyncio.wait({speaking, disturbed})
    if not disturbed.cancelled():
        disturbed.result()
