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
from conftest import Server
from pipeline import CAUCE, ROOT, Pipeline, json_of, pipeline

from streams import deadletters, tables
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


def with_poison(whole: Pipeline, **changes: str) -> None:
    """From now on processes start with the poisoned handler, and these lines in place of the shipped ones."""
    text = (ROOT / "streams.toml").read_text(encoding="utf-8")
    shipped, rest = text.split("[groups.egress]")
    changes = {"handler": '"poisoned:reply"', "concurrency": "200", "backoff": "[0.1]", **changes}
    lines = [line for line in shipped.splitlines() if line.partition(" = ")[0] not in changes]
    lines += [f"{key} = {value}" for key, value in changes.items()]
    whole.config = whole.folder / "streams.toml"
    whole.config.write_text("\n".join([*lines, "[groups.egress]", rest]), encoding="utf-8")
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
    "exits": ("its worker died or lost it 3 times", [3, 3, 3]),
    "eats": ("its worker died or lost it 3 times", [-signal.SIGKILL] * 3),
}


@pytest.mark.parametrize("kind", KINDS)
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
        with_poison(whole, attempts="3", deadline='"2s"')
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
