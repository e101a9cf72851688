"""
Does memory stay flat?  The whole pipeline under load, its processes and Redis measured as messages go by.

    .venv/bin/python -m tests.faults.soak --minutes 30

What a message leaves behind for a time (its entries for `keep`, a conversation for its session, a dedupe mark for
eight days) is made to end within seconds here, so that whatever still grows is a leak.  The slope is that of the
straight line through the samples after the first third, in bytes for each message.  Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import Server, binaries
from pipeline import ROOT, Pipeline, pipeline

from streams.connection import Store

KEEP = "3s"
PEOPLE, AT_ONCE = 200, 16
MOST_WAITING = 500
"""Messages accepted and not delivered; the load waits for them, so that no backlog is taken for a leak."""

BOUNDS = {"redis": 150.0, "ingress": 64.0, "inference": 64.0, "egress": 64.0}
"""
Bytes for each message that a slope may be.  A message that is not trimmed leaves 500 in Redis, whose own line jitters
with what has come since the last trimming.
"""


class Sample(msgspec.Struct):
    """One look."""

    messages: int
    """Delivered so far."""
    entries: int
    """On both streams."""
    bytes: dict[str, int]
    """Redis's used_memory, and each process's resident memory."""


def slope(samples: list[Sample], name: str) -> float:
    """Bytes for each message: the least-squares line through all but the first third."""
    rest = samples[len(samples) // 3 :]
    xs, ys = [each.messages for each in rest], [each.bytes[name] for each in rest]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - mean_x) ** 2 for x in xs)
    return sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True)) / spread


def leaks(samples: list[Sample]) -> list[str]:
    """What grows by more than its bound."""
    found = {name: slope(samples, name) for name in BOUNDS}
    return [f"{name} grows by {found[name]:.0f} bytes a message" for name in BOUNDS if found[name] > BOUNDS[name]]


async def soak(server: Server, seconds: float, *, every: float = 2.0, keep: str = KEEP) -> list[Sample]:
    """Run the pipeline for so long; the samples."""
    with tempfile.TemporaryDirectory(prefix="cauce-") as folder:
        config = Path(folder) / "streams.toml"
        config.write_text((ROOT / "streams.toml").read_text().replace('keep = "7d"', f'keep = "{keep}"'))
        settings = {"SESSION_EXPIRE_TIME": "3", "RATE_LIMIT_PER_MINUTE": "0"}
        async with pipeline(server, config=config, **settings) as whole, load(whole) as delivered:
            return await sampled(whole, delivered, seconds, every)


@contextlib.asynccontextmanager
async def load(whole: Pipeline) -> AsyncIterator[list[int]]:
    """Posts as fast as replies come back; how many were delivered is in the list's only place."""
    delivered, posted = [0], 0

    async def talk(first: int) -> None:
        nonlocal posted
        while True:
            for person in range(first, PEOPLE, AT_ONCE):
                while posted - delivered[0] - len(whole.sink.requests) > MOST_WAITING:  # noqa: ASYNC110 - a count
                    await asyncio.sleep(0.01)
                posted += 1
                await whole.say(f"web-{person}", "Hola, necesito una cita")

    talking = [asyncio.create_task(talk(first)) for first in range(AT_ONCE)]
    try:
        yield delivered
    finally:
        for task in talking:
            task.cancel()
        await asyncio.gather(*talking, return_exceptions=True)


async def sampled(whole: Pipeline, delivered: list[int], seconds: float, every: float) -> list[Sample]:
    samples: list[Sample] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        await asyncio.sleep(every)
        delivered[0] += len(whole.sink.requests)
        whole.sink.reset()
        for process in whole.processes.values():
            process.lines.clear()
        samples.append(await sample(whole, delivered[0]))
        print(row(samples[-1]), flush=True)  # noqa: T201 - the progress
    return samples


async def sample(whole: Pipeline, messages: int) -> Sample:
    await forget_marks(whole.store)
    told = (await whole.store.command("INFO", "memory")).decode()
    used = {"redis": int(told.partition("used_memory:")[2].split()[0])}
    resident = {name: rss(process.child.pid) for name, process in whole.processes.items()}
    lengths = await whole.store.pipeline([("XLEN", "inbound"), ("XLEN", "outbound")])
    return Sample(messages, sum(lengths), used | resident)


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
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples")
    parser.add_argument("--keep", default=KEEP, help="of every stream; long, to see it fail")
    asked = parser.parse_args()
    server = Server(next(iter(binaries().values())), "--maxmemory", "1gb")
    try:
        samples = asyncio.run(soak(server, asked.minutes * 60, every=asked.every, keep=asked.keep))
    finally:
        server.stop()
    for name, bound in BOUNDS.items():
        print(f"{name:10} {slope(samples, name):8.1f} bytes a message (at most {bound:.0f})")  # noqa: T201 - the figure
    return 1 if leaks(samples) else 0


if __name__ == "__main__":
    sys.exit(main())
