"""
The whole pipeline as its users run it: real processes of the `cauce` command, a real Redis, a webhook receiver.

Readiness is read from the processes' own log lines, so nothing here sleeps.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from sink import Received, Sink

from bench.ports import free_port
from streams import topology
from streams.connection import Store
from streams.stores import Stores

ROOT = Path(__file__).parents[1]
CAUCE = Path(sys.executable).with_name("cauce")
SECRET = "whsec_cHJ1ZWJhcy1kZS1jYXVjZS1zaW4tc2VjcmV0bw=="
KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")
"""Of our environment."""
READY = {"ingress": "ingress.listening", "inference": "worker.reading", "egress": "worker.reading"}


class Redis(Protocol):
    """Whatever has an address: a server, a master with its sentinels, a cluster."""

    url: str


class Ended(AssertionError):
    """A process ended before it said what was waited for."""


class Process:
    """One process and what it has said so far."""

    def __init__(self, name: str, child: asyncio.subprocess.Process) -> None:
        self.name, self.child = name, child
        self.lines: list[str] = []
        self._spoke = asyncio.Condition()
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.child.stdout is not None
        while line := await self.child.stdout.readline():
            async with self._spoke:
                self.lines.append(line.decode().rstrip())
                self._spoke.notify_all()
        async with self._spoke:
            self.lines.append("(ended)")
            self._spoke.notify_all()

    async def says(self, *texts: str, within: float = 60) -> str:
        """Wait for a line that holds one of these; fails with what it said instead."""
        try:
            async with asyncio.timeout(within), self._spoke:
                while True:
                    for line in self.lines:
                        if any(text in line for text in texts):
                            return line
                    if self.lines and self.lines[-1] == "(ended)":
                        raise Ended(f"{self.name} ended without saying {texts!r}:\n" + "\n".join(self.lines))
                    await self._spoke.wait()
        except TimeoutError as error:
            error.add_note(f"{self.name} has not said {texts!r}, but:\n" + "\n".join(self.lines[-200:]))
            raise

    @property
    def ended(self) -> bool:
        return self.child.returncode is not None

    @property
    def how_it_ended(self) -> str:
        return f"ended by itself with {self.child.returncode}: {self.lines[-12:]}"

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait; the exit status."""
        if self.child.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.child.send_signal(number)
        status = await self.child.wait()
        await self._reading
        return status


class Pipeline:
    """
    Ingress, inference and egress around one Redis and one sink.

    A process is named after its group; a second one of a group has a number behind it: `egress2`.
    """

    def __init__(self, redis: Redis, sink: Sink, folder: Path, config: Path, **environment: str) -> None:
        self.sink, self.folder, self.config = sink, folder, config
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.stores = Stores.open(redis.url, shards=topology.load(config).shards)
        self.processes: dict[str, Process] = {}
        self.own: dict[str, dict[str, str]] = {}
        """What stands in the environment of one process alone."""
        self.session: aiohttp.ClientSession
        passed = {name: value for name, value in os.environ.items() if name in KEPT}
        self.environment = {
            **passed,
            "REDIS_URL": redis.url,
            "INGRESS_PORT": str(self.port),
            "OUTBOUND_URL": sink.url,
            "OUTBOUND_SECRET": SECRET,
            "MODEL": "echo",
            "DEBOUNCE": "0",
            "TIMEZONE": "America/La_Paz",
            "LOG_FORMAT": "json",
            **environment,
        }

    @property
    def store(self) -> Store:
        """The only shard, or the first of several."""
        return self.stores.first

    async def start(self, *names: str) -> None:
        """Start processes and wait until they are ready."""
        for name in names:
            command = ["ingress"] if group_of(name) == "ingress" else ["work", group_of(name)]
            child = await asyncio.create_subprocess_exec(
                str(CAUCE), "-c", str(self.config), *command,
                cwd=self.folder, env=self.environment | self.own.get(name, {}), limit=1 << 20,
                stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            self.processes[name] = Process(name, child)
        for name in names:
            await self.processes[name].says(READY.get(group_of(name), "worker.reading"))

    async def stop(self, name: str) -> None:
        """SIGTERM, after which it has to end well."""
        process = self.processes.pop(name)
        status = await process.end()
        assert status == 0, process.lines

    async def kill(self, name: str) -> None:
        """kill -9, of one that lives."""
        process = self.processes.pop(name)
        assert not process.ended, f"{name} {process.how_it_ended}"
        await process.end(signal.SIGKILL)

    async def post(self, path: str, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
        """POST JSON; status and JSON."""
        async with self.session.post(self.url + path, json=body, headers=headers) as response:
            return response.status, await response.json()

    async def say(self, person: str, text: str, message_id: str | None = None, **headers: str) -> dict[str, Any]:
        """POST /chat, which has to be taken."""
        body = {"user_id": person, "message": text, **({"message_id": message_id} if message_id else {})}
        status, answer = await self.post("/chat", body, **headers)
        assert status in (200, 202), answer
        return answer

    async def conversation(self, person: str) -> dict[str, Any] | None:
        async with self.session.get(f"{self.url}/chat/history/{person}") as response:
            return await response.json() if response.status == 200 else None


def group_of(name: str) -> str:
    """`egress2` → `egress`"""
    return name.rstrip("0123456789")


def archive_tables(*names: str) -> str:
    """The tables of the archive as streams.toml ships them, without their #; of these groups, or of all."""
    tables = re.split(r"\n\n", _switched_on("# [groups.archive] ", "# What people ask for."))
    return "\n\n".join(table for table in tables if not names or any(f"[groups.{name}]" in table for name in names))


def analytics_tables() -> str:
    """Likewise those that count."""
    return _switched_on("# [groups.analytics]", "# The archive keeps")


def _switched_on(first: str, behind: str) -> str:
    shipped = (ROOT / "streams.toml").read_text(encoding="utf-8")
    return re.sub(r"^# ", "", shipped[shipped.index(first) : shipped.index(behind)], flags=re.MULTILINE)


def superseding(folder: Path) -> Path:
    """The shipped file, but a reply is given up for what its person writes meanwhile."""
    shipped = (ROOT / "streams.toml").read_text(encoding="utf-8")
    assert shipped.count("[groups.inference]\n") == 1
    copy = folder / "superseding.toml"
    asked = '[groups.inference]\non_new_message = "supersede"\n'
    copy.write_text(shipped.replace("[groups.inference]\n", asked), encoding="utf-8")
    return copy


def _extended(config: Path, folder: Path, placement: str, streams: str) -> Path:
    """A copy of the file, with something before and behind it."""
    copy = folder / "streams.toml"
    copy.write_text(f"{placement}\n{config.read_text(encoding='utf-8')}\n{streams}", "utf-8")
    return copy


@contextlib.asynccontextmanager
async def pipeline(
    redis: Redis,
    *names: str,
    config: Path = ROOT / "streams.toml",
    streams: str = "",
    placement: str = "",
    own: dict[str, dict[str, str]] | None = None,
    sink: Sink | None = None,
    **environment: str,
) -> AsyncIterator[Pipeline]:
    """
    The pipeline while the context is open; all three processes unless some are named.

    Args:
        config: what the pipeline is; by default as shipped.
        streams: tables to add to it.
        placement: what is to stand before its tables.
        own: process → what stands in its environment alone.
        sink: one that is open already, where something stands between it and egress; None: a new one.
    """
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="cauce-")))
        sink = sink or await stack.enter_async_context(Sink())
        if streams or placement:
            config = _extended(config, folder, placement, streams)
        whole = Pipeline(redis, sink, folder, config, **environment)
        whole.own = own or {}
        stack.push_async_callback(whole.stores.close)
        for store in whole.stores:
            await store.command("FLUSHALL")
        whole.session = await stack.enter_async_context(aiohttp.ClientSession())
        try:
            await whole.start(*(names or READY))
            yield whole
        finally:
            for process in reversed(list(whole.processes.values())):
                await process.end()


def texts(received: list[Received]) -> list[str]:
    """The messages of these webhook posts."""
    return [json_of(each)["message"] for each in received]


def json_of(received: Received) -> dict[str, Any]:
    import json

    found: dict[str, Any] = json.loads(received.body)
    return found
