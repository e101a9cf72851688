"""
One poison message among a hundred turns in work: it is buried, its person is told once, and nobody else notices.

Real processes.  Whatever dies is started again at once, as `cauce up` or a container's runtime would.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import psutil
import pytest
from conftest import Server, sometimes
from pipeline import CAUCE, Pipeline, json_of, pipeline
from sink import Sink
from waiting import until

from bench.ports import free_port
from processors.egress import breaker
from streams import deadletters, tables, watchdog
from streams.connection import Store
from streams.deadletters import Letter, Wanted

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
CROWD = 100
POISON = 41
"""Whose message it is: neither the first nor the last."""

ENOUGH = 400 << 20
"""Bytes that a worker may have before it is killed."""


def person(number: int) -> str:
    return f"+591700000{number:02}"


def configure(whole: Pipeline, table: str, **changes: str) -> None:
    """From now on processes start with these lines in a table of streams.toml in place of those it has."""
    before, heading, rest = whole.config.read_text(encoding="utf-8").partition(f"[{table}]\n")
    inner, bracket, after = rest.partition("\n[")
    kept = [line for line in inner.splitlines() if line.partition(" = ")[0] not in changes]
    lines = [*kept, *(f"{key} = {value}" for key, value in changes.items())]
    whole.config = whole.folder / "streams.toml"
    whole.config.write_text(before + (heading or f"[{table}]\n") + "\n".join(lines) + "\n" + bracket + after, "utf-8")
    shutil.copy(HERE / "poisoned.py", whole.folder)


@contextlib.asynccontextmanager
async def kept_alive(whole: Pipeline, name: str) -> AsyncIterator[list[int]]:
    """A process that is started again whenever it dies; its exit statuses so far."""
    deaths: list[int] = []

    async def keep() -> None:
        while True:
            deaths.append(await whole.processes[name].child.wait())
            await whole.start(name)

    await whole.start(name)
    keeping = asyncio.create_task(keep())
    try:
        yield deaths
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)


@pytest.fixture
def cgroup() -> Iterator[Path | None]:
    """A control group whose memory the kernel bounds, where we may make one (version 1 or 2); else None."""
    root, memory = Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/memory")
    made = (memory if memory.exists() else root) / f"cauce-poison-{os.getpid()}"
    try:
        made.mkdir()
    except OSError:
        yield None
        return
    bounds = {"memory.limit_in_bytes": ENOUGH, "memory.max": ENOUGH, "memory.swap.max": 0}
    there = [name for name in bounds if (made / name).exists()]
    for name in there:
        (made / name).write_text(str(bounds[name]))
    yield made if there else None
    made.rmdir()


@contextlib.asynccontextmanager
async def out_of_memory(whole: Pipeline, group: Path | None) -> AsyncIterator[None]:
    """
    The kernel kills whoever takes more than ENOUGH.

    Where we may make no control group, a watcher does what the kernel would: SIGKILL.
    """
    if group is not None:
        whole.environment["CGROUP"] = str(group)
        yield
        return

    async def watch() -> None:
        while True:
            for process in list(whole.processes.values()):
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                    if psutil.Process(process.child.pid).memory_info().rss > ENOUGH:
                        process.child.send_signal(signal.SIGKILL)
            await asyncio.sleep(0.02)  # a foreign process's memory rings no bell

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()


async def dead(store: Store, stream: str = "inbound") -> list[Letter]:
    return [letter async for letter in deadletters.letters(store, stream, Wanted())]


async def cauce(whole: Pipeline, *arguments: str) -> str:
    """What a command prints; it has to end well."""
    child = await asyncio.create_subprocess_exec(
        str(CAUCE), "-c", str(whole.config), *arguments, cwd=whole.folder, env=whole.environment,
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    told, _ = await child.communicate()
    assert child.returncode == 0
    return told.decode()


KINDS = {
    "raises": ("ValueError: veneno", []),
    "hangs": ("deadline passed", []),
    "blocks": ("its worker died or lost it 3 times", [watchdog.STATUS] * 3),
    "exits": ("its worker died or lost it 3 times", [3, 3, 3]),
    "eats": ("its worker died or lost it 3 times", [-signal.SIGKILL] * 3),
}


@pytest.mark.parametrize("kind", sometimes(KINDS, ["raises", "eats"]))
async def test_one_poison_message_among_a_hundred_is_buried_and_the_others_are_answered_once(
    own_server: Server, cgroup: Path | None, kind: str
) -> None:
    reason, deaths_of = KINDS[kind]
    async with contextlib.AsyncExitStack() as stack:
        whole = await stack.enter_async_context(
            pipeline(own_server, "ingress", "egress", POISON=kind, CROWD=str(CROWD))
        )
        if kind == "eats":
            await stack.enter_async_context(out_of_memory(whole, cgroup))
        configure(
            whole, "groups.inference",
            handler='"poisoned:reply"', concurrency="200", attempts="3", backoff="[0.1]", deadline='"2s"',
        )  # fmt: skip
        # Given a hundred people whose turns are in work together, one of them poison
        for number in range(CROWD):
            await whole.say(person(number), "veneno" if number == POISON else f"hola {number}", f"m{number}")
        began_ms = int(time.time() * 1000)
        deaths = await stack.enter_async_context(kept_alive(whole, "inference"))
        # Then everybody hears once: 99 an answer, one that there is none
        received = await whole.sink.received(CROWD, seconds=100)
        told = {json_of(each)["in_reply_to"][0]: json_of(each) for each in received}
        assert told.keys() == {f"m{number}" for number in range(CROWD)}
        assert [told[f"m{number}"]["message"] for number in range(CROWD) if number != POISON] == [
            f"hola {number}" for number in range(CROWD) if number != POISON
        ]
        apology = told[f"m{POISON}"]
        assert (apology["source"], apology["message"]) == ("failure", tables.Texts().failure)
        assert deaths == deaths_of
        # And the poison is buried: why, by whom, after how many attempts, when, and byte for byte
        [letter] = await dead(whole.store)
        assert (letter.group, letter.reason, letter.attempts) == ("inference", reason, "3")
        took = (int(letter.last_ms) - int(letter.first_ms)) / 1000
        print(f"\n{kind}: buried {took:.1f} s after its first start")  # noqa: T201 - the figure
        assert began_ms - 1000 <= int(letter.first_ms) <= int(letter.last_ms) <= time.time() * 1000 + 1000
        [[_, entry]] = await whole.store.command("XRANGE", "inbound", letter.origin, letter.origin)
        assert [part for pair in letter.fields for part in pair] == entry
        # When it is mended and put back, the reply arrives after all, under an id of its own
        (whole.folder / "mended").touch()
        assert json.loads(await cauce(whole, "dead", "redrive", letter.id, "--json")) == {"redriven": 1}
        answer = json_of((await whole.sink.received(CROWD + 1))[-1])
        assert (answer["source"], answer["message"], answer["in_reply_to"]) == ("model", "veneno", [f"m{POISON}"])
        assert answer["id"] != apology["id"]
        assert len(whole.sink.requests) == CROWD + 1
        assert await dead(whole.store) == []
        history = await whole.conversation(person(POISON))
        assert history is not None
        assert [said["content"] for said in history["messages"]] == ["veneno", tables.Texts().failure, "veneno"]


async def tried(whole: Pipeline, url: str, times: int) -> None:
    """Until the breaker of a destination has let so many deliveries try, in vain."""
    seen: set[bytes] = set()
    async with asyncio.timeout(60):
        while len(seen) < times:
            if until := await whole.store.command("HGET", breaker.key_of(whole.store, url), "until"):
                seen.add(until)


async def starts(whole: Pipeline, group: str) -> list[int]:
    """How often each entry that is not settled has been started."""
    notes = await whole.store.command("HVALS", f"group:{group}:attempts")
    return [int(note.partition(b":")[0]) for note in notes]


OUTAGES = {"refuses": None, "fails": {"status": 503, "count": None}, "hangs": {"hang": True, "count": None}}


@pytest.mark.parametrize("outage", sometimes(OUTAGES, ["fails"]))
async def test_a_webhook_that_is_down_for_long_costs_no_attempts(own_server: Server, outage: str) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}/webhook/cauce"
    async with pipeline(own_server, "ingress", OUTBOUND_URL=url) as whole, contextlib.AsyncExitStack() as stack:
        # Given two attempts for each reply, waits in tenths of what is shipped, and a webhook that is down
        sink = Sink(port=port)
        if (plan := OUTAGES[outage]) is not None:
            await stack.enter_async_context(sink)
            sink.plan(**plan)
        configure(whole, "groups.egress", attempts="2", backoff="[0.1]")
        configure(whole, "egress", timeout="0.3", breaker_wait="0.2", breaker_wait_max="0.5")
        await whole.start("inference")
        for number in range(30):
            await whole.say(person(number), f"hola {number}", f"m{number}")
        await until_length(whole, "outbound", 30)
        await whole.start("egress")
        # When it was tried many times over
        await tried(whole, url, 10)
        assert max(await starts(whole, "egress")) <= 2  # the one in work now, and one before the breaker opened
        # Then nothing is buried, and everything is delivered once it is back
        sink.reset()
        if plan is None:
            await stack.enter_async_context(sink)
        received = await sink.received(30, seconds=60)
        assert sorted(json_of(each)["in_reply_to"][0] for each in received) == sorted(f"m{n}" for n in range(30))
        assert await dead(whole.store, "outbound") == []


async def until_length(whole: Pipeline, stream: str, length: int) -> None:
    async def long() -> bool:
        return bool(await whole.store.command("XLEN", stream) >= length)

    await until(long, within=30)


async def test_a_model_server_that_is_down_for_long_costs_no_attempts(own_server: Server) -> None:
    # Given two attempts for each turn, and a handler that asks a server which answers 503
    async with Sink() as model, pipeline(own_server, "ingress", "egress", MODEL_AT=model.url) as whole:
        configure(whole, "groups.inference", handler='"poisoned:asks"', attempts="2", backoff="[0.1]")
        model.plan(status=503, count=None)
        await whole.start("inference")
        for number in range(10):
            await whole.say(person(number), f"hola {number}", f"m{number}")
        # When it was asked many times over
        await model.received(200, seconds=60)
        assert max(await starts(whole, "inference")) <= 1
        assert whole.sink.requests == []
        # Then nobody has heard of a failure, and everybody is answered once it is back
        model.reset()
        received = await whole.sink.received(10)
        assert sorted(json_of(each)["message"] for each in received) == [f"hola {number}" for number in range(10)]
        assert await dead(whole.store) == []
