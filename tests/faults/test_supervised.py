"""
`cauce up` under load: whoever is killed of its processes, Redis among them, comes back, and so does the whole after it
was stopped; and all is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from pipeline import ROOT, SECRET
from sink import Sink
from up import Up
from waiting import until

from bench.ports import free_port
from streams import embedded
from streams.stores import Stores
from tests.faults.load import APP_SECRET, Load
from tests.faults.trial import BY_META, TOKEN, WAITS, both, judged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

CHILDREN = ("redis-server", " ingress", "work inference", "work egress")
"""What stands in the command line of each."""


@pytest.fixture
def folder(short_path: Path) -> Path:
    """Of a `cauce up` whose Redis loses nothing."""
    shipped = (ROOT / "streams.toml").read_text(encoding="utf-8")
    (short_path / "streams.toml").write_text(f"{shipped}\n[history]\nmax_messages = 5000\n", encoding="utf-8")
    (short_path / "data").mkdir()
    (short_path / "data" / "redis.conf").write_text("appendfsync always\n", encoding="utf-8")
    return short_path


async def test_the_supervisor_brings_back_whoever_is_killed_and_nothing_is_lost(folder: Path) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))  # noqa: S311 - printed, no secret
    print(f"\nSEED={seed}")  # noqa: T201 - what a failure is repeated with
    async with Sink() as sink:
        up = an_up(folder, sink)
        try:
            ready = await asyncio.to_thread(up.until, "Cauce is ready")
            address = re.search(r"http://\S+", ready)
            assert address
            url = embedded.running(folder / "data")
            assert url
            sink.plan(delay=0.2, count=None)
            load = a_load(address[0], seed)
            start = time.time()
            await both(load, kill_each_twice(up, random.Random(seed)))  # noqa: S311 - seeded randomness is the point
            stores = Stores.open(url)
            ended = await judged(stores, sink, load, start)
            await stores.close()
            up.process.terminate()
            await asyncio.to_thread(up.end)
        finally:
            await asyncio.to_thread(up.stop)
    assert not ended.violations, f"SEED={seed}: {ended.says()}"
    # And nobody has died but by us, or for want of Redis
    deaths = re.findall(r'process\.died .*why=("[^"]*"|\S+)', "".join(up.said))
    assert deaths.count("SIGKILL") == 2 * len(CHILDREN)
    assert set(deaths) <= {"SIGKILL", '"exit status 2"'}, deaths


def a_load(url: str, seed: int) -> Load:
    return Load(
        url, people=30, messages=10**9, rate=40, seed=seed, token=TOKEN, by_meta=BY_META, waits=WAITS,
    )  # fmt: skip


def an_up(folder: Path, sink: Sink, **environ: str) -> Up:
    return Up(
        folder, INGRESS_TOKENS=TOKEN, WHATSAPP_APP_SECRET=APP_SECRET, OUTBOUND_URL=sink.url, OUTBOUND_SECRET=SECRET,
        MODEL="echo?latency=0.2", DEBOUNCE="0.1", RATE_LIMIT_PER_MINUTE="0", TIMEZONE="America/La_Paz", **environ,
    )  # fmt: skip


async def kill_each_twice(up: Up, luck: random.Random) -> None:
    victims = [*CHILDREN, *CHILDREN]
    luck.shuffle(victims)
    for victim in victims:
        await asyncio.sleep(luck.uniform(1.5, 4.5))
        # It may be on its way back from its first death.
        await until(lambda victim=victim: killed(up, victim))  # type: ignore[misc]


async def killed(up: Up, victim: str) -> bool:
    with contextlib.suppress(StopIteration, psutil.NoSuchProcess):
        up.child(victim).kill()
        return True
    return False


@pytest.mark.long
async def test_the_supervisor_is_stopped_under_load_and_all_is_answered_once_it_is_back(folder: Path) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))  # noqa: S311 - printed, no secret
    print(f"\nSEED={seed}")  # noqa: T201 - what a failure is repeated with
    port = free_port()
    async with Sink() as sink:
        ups = [an_up(folder, sink, INGRESS_PORT=str(port))]
        try:
            await asyncio.to_thread(ups[0].until, "Cauce is ready")
            sink.plan(delay=0.2, count=None)
            load = a_load(f"http://127.0.0.1:{port}", seed)
            start = time.time()
            await both(load, stop_and_start(ups, load, lambda: an_up(folder, sink, INGRESS_PORT=str(port))))
            url = embedded.running(folder / "data")
            assert url
            stores = Stores.open(url)
            ended = await judged(stores, sink, load, start)
            await stores.close()
        finally:
            for up in ups:
                await asyncio.to_thread(up.stop)
    assert not ended.violations, f"SEED={seed}: {ended.says()}"
    said = "".join(line for up in ups for line in up.said)
    assert "process.killed" not in said
    assert "left_silently" not in said


async def stop_and_start(ups: list[Up], load: Load, again: Callable[[], Up]) -> None:
    """A worker told to end is started again; the whole is stopped, twice, and started again where it was."""
    await load.taken(100)
    ups[0].child("work inference").terminate()
    assert "exit status 0" in await asyncio.to_thread(ups[0].until, "process.died")
    await asyncio.to_thread(ups[0].until, "worker.reading")
    for number in (signal.SIGINT, signal.SIGTERM):
        await load.taken(100)
        everybody = psutil.Process(ups[-1].process.pid).children()
        ups[-1].process.send_signal(number)
        assert await asyncio.to_thread(ups[-1].end) == 0
        stopped = re.findall(r'pipeline\.stopping processes=\["(\w+)"\]', "".join(ups[-1].said))
        assert stopped == ["ingress", "inference", "egress"]
        assert not [child for child in everybody if child.is_running()]
        ups.append(again())
        await asyncio.to_thread(ups[-1].until, "Cauce is ready")
    await load.taken(100)
