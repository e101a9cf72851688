"""
Does memory stay flat?  The whole pipeline under load, its processes and Redis measured as messages go by.

    .venv/bin/python -m tests.faults.soak --minutes 30

What a message leaves behind for a time (its entries for `keep`, a conversation for its session, a dedupe mark for
eight days) is made to end within seconds here; the load pauses for that before each look, so that whatever still grows
is a leak.  Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import Server, binaries
from pipeline import ROOT, Pipeline, pipeline
from waiting import until

from streams.connection import Store

KEEP = "2s"
PEOPLE, AT_ONCE = 200, 16
MOST_WAITING = 500
"""Messages posted and not delivered; the load waits for them."""

QUIET = 15.0
"""Seconds that what was left behind may take to end."""

BOUNDS = {"redis": 20.0, "ingress": 64.0, "inference": 64.0, "egress": 64.0}
"""Bytes for each message, beyond SLACK.  What is not trimmed leaves some 600 of each in Redis."""

SLACK = {"redis": 200_000, "ingress": 1_000_000, "inference": 1_000_000, "egress": 1_000_000}
"""Bytes that may come and go: buffers, and what an allocator asks for in advance."""


class Sample(msgspec.Struct):
    """One look, while nothing is under way."""

    messages: int
    """Delivered so far."""
    entries: int
    """Left on both streams."""
    bytes: dict[str, int]
    """Redis's used_memory, and each process's resident memory."""


def grown(samples: list[Sample], name: str) -> tuple[int, int]:
    """Bytes, and messages meanwhile, since the first third, in which everything grows once."""
    warm, last = samples[len(samples) // 3], samples[-1]
    return last.bytes[name] - warm.bytes[name], last.messages - warm.messages


def leaks(samples: list[Sample]) -> list[str]:
    """What has grown by more than it may."""
    found = []
    for name, bound in BOUNDS.items():
        size, messages = grown(samples, name)
        if size > SLACK[name] + bound * messages:
            found.append(f"{name} grew by {size:,} bytes in {messages:,} messages")
    return found


async def soak(server: Server, seconds: float, *, every: float = 8.0, keep: str = KEEP) -> list[Sample]:
    """Run the pipeline for so long, with a look after every so many seconds of load; the samples."""
    with tempfile.TemporaryDirectory(prefix="cauce-") as folder:
        config = Path(folder) / "streams.toml"
        config.write_text((ROOT / "streams.toml").read_text().replace('keep = "7d"', f'keep = "{keep}"'))
        settings = {"SESSION_EXPIRE_TIME": "2", "RATE_LIMIT_PER_MINUTE": "0"}
        async with pipeline(server, config=config, **settings) as whole:
            samples: list[Sample] = []
            delivered, end = 0, time.monotonic() + seconds
            while time.monotonic() < end or len(samples) < 3:
                delivered += await load(whole, every)
                samples.append(await sample(whole, delivered))
                print(row(samples[-1]), flush=True)  # noqa: T201 - the progress
            return samples


async def load(whole: Pipeline, seconds: float) -> int:
    """Post as fast as replies come back, for so long, and wait until all of it is gone; how many were answered."""
    posted = looked_at = answered = 0
    end = time.monotonic() + seconds

    def waiting() -> int:
        nonlocal looked_at, answered
        new = whole.sink.requests[looked_at:]
        looked_at, answered = looked_at + len(new), answered + sum(len(each.json["in_reply_to"]) for each in new)
        return posted - answered

    async def few() -> bool:
        return waiting() <= MOST_WAITING

    async def nothing() -> bool:
        return not (waiting() or await left(whole.store))

    async def talk(first: int) -> None:
        nonlocal posted
        for number in range(first, 1_000_000_000, AT_ONCE):
            await until(few, within=QUIET)
            if time.monotonic() > end:
                return
            posted += 1
            await whole.say(f"web-{number % PEOPLE}", "Hola, necesito una cita")

    await asyncio.gather(*map(talk, range(AT_ONCE)))
    with contextlib.suppress(TimeoutError):
        await until(nothing, within=QUIET)
    whole.sink.reset()
    for process in whole.processes.values():
        process.lines.clear()
    return answered


async def entries(store: Store) -> int:
    return sum(await store.pipeline([("XLEN", "inbound"), ("XLEN", "outbound")]))


async def left(store: Store) -> bool:
    """Something of a message is still there."""
    return bool(await entries(store) or await store.command("KEYS", "conversation*"))


async def sample(whole: Pipeline, messages: int) -> Sample:
    await forget_marks(whole.store)
    told = (await whole.store.command("INFO", "memory")).decode()
    used = {"redis": int(told.partition("used_memory:")[2].split()[0])}
    resident = {name: rss(process.child.pid) for name, process in whole.processes.items()}
    return Sample(messages, await entries(whole.store), used | resident)


async def forget_marks(store: Store) -> None:
    """Eight days pass for the dedupe marks."""
    cursor = b"0"
    while True:
        cursor, found = await store.command("SCAN", cursor, "MATCH", "seen:*", "COUNT", 2000)
        if found:
            await store.command("DEL", *found)
        if cursor == b"0":
            return


def rss(pid: int) -> int:
    """Resident memory of a process, bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def row(one: Sample) -> str:
    sizes = "  ".join(f"{name} {size / 1e6:7.2f} MB" for name, size in one.bytes.items())
    return f"{one.messages:8,} messages  {one.entries:6,} entries  {sizes}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Does memory stay flat?")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=20.0, help="seconds of load before each look")
    parser.add_argument("--keep", default=KEEP, help="of every stream; long, to see it fail")
    asked = parser.parse_args()
    server = Server(next(iter(binaries().values())), "--maxmemory", "1gb")
    try:
        samples = asyncio.run(soak(server, asked.minutes * 60, every=asked.every, keep=asked.keep))
    finally:
        server.stop()
    for name, bound in BOUNDS.items():
        size, messages = grown(samples, name)
        print(f"{name:10} {size / messages:7.1f} bytes a message (at most {bound:.0f}), over {messages:,}")  # noqa: T201 - the figure
    for leak in leaks(samples):
        print(f"LEAK: {leak}")  # noqa: T201 - the verdict
    return 1 if leaks(samples) else 0


if __name__ == "__main__":
    sys.exit(main())
