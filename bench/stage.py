"""
One system on a stage of its own: a fresh Redis, a sink, and the system's processes.

Everything is a real process on this machine, started as the system's users start it and reached over TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench import load, sink
from bench.ground import Ground, until
from bench.ports import free_port
from bench.systems import PEERS_BIN, ROOT, System, ours_as_configured

PATIENCE = 300
"""Seconds after which something that was waited for counts as never coming."""


class Stage:
    """A system that runs."""

    def __init__(self, system: System, folder: Path, latency: float, masters: int, under: Sequence[str]) -> None:
        self.system, self.folder = system, folder
        self.port, self.sink_port = free_port(), free_port()
        self.ground = Ground(folder, masters, under)
        self.url = f"http://127.0.0.1:{self.port}/chat"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._sink: subprocess.Popen[bytes] | None = None
        self.sent = 0
        """Messages so far."""
        self._filled = {
            "port": str(self.port), "python": str(PEERS_BIN / "python"), "bin": str(PEERS_BIN), "folder": str(folder),
            "own": str(Path(sys.executable).parent), "redis": self.ground.url,
            "sink": f"http://127.0.0.1:{self.sink_port}/webhook/bench", "latency": f"{latency:g}",
        }  # fmt: skip

    # What runs

    def start(self, *roles: str) -> None:
        """Start processes of the system; a role may be named more than once."""
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        environment |= {name: self._fill(value) for name, value in self.system.environment.items()}
        for role in roles:
            name = role if role not in self.running else f"{role}.{len(self.running)}"
            command = [self._fill(word) for word in self.system.processes[role]]
            self.running[name] = self._run(name, command, self.system.cwd, environment)

    def _fill(self, text: str) -> str:
        for name, value in self._filled.items():
            text = text.replace(f"{{{name}}}", value)
        return text

    def _run(
        self, name: str, command: Sequence[str], cwd: Path, environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(command, cwd=cwd, env=environment, stdout=log, stderr=subprocess.STDOUT)

    async def start_ground(self) -> None:
        """Redis and the sink."""
        self.running |= self.ground.start()
        own = {"PYTHONPATH": str(ROOT), "PATH": os.environ.get("PATH", "")}
        self._sink = self._run("sink", [sys.executable, "-m", "bench.sink", "--port", str(self.sink_port)], ROOT, own)
        for port in (*(server.port for server in self.ground.servers), self.sink_port):
            await self.listening(port)
        if self.ground.clustered:
            await self.ground.form()

    async def listening(self, port: int) -> None:
        """Until somebody listens there."""
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", port)
                    writer.close()
                    return
                self._alive()
                await asyncio.sleep(0.02)

    def _alive(self) -> None:
        for name, process in self.running.items():
            if process.poll() is not None:
                told = self._log(name)[-2000:]
                raise SystemExit(f"bench: {self.system.name}'s {name} ended with {process.returncode}:\n{told}")

    def _log(self, name: str) -> str:
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    async def says(self, role: str, text: str) -> None:
        """Until it stands in what this process has written."""
        await until(lambda: text in self._log(role), f"{role} never says {text!r}")

    def stop(self) -> None:
        processes = [*self.running.values(), *([self._sink] if self._sink else [])]
        for process in processes:
            for child in [*_children(process.pid), process.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        for process in processes:
            process.wait()

    # What is measured

    async def cpu(self) -> dict[str, float]:
        """CPU seconds of each process so far, its children with it."""
        found = {}
        for name, process in self.running.items():
            times = [psutil.Process(pid).cpu_times() for pid in (process.pid, *_children(process.pid))]
            found[name] = sum(each.user + each.system for each in times)
        return found

    async def say(
        self, messages: int, users: int, *, rate: float = 0, connections: int = 64, in_a_row: int = 1, length: int = 40
    ) -> Sent:
        """So many messages, in a process of their own."""
        first, self.sent = self.sent, self.sent + messages
        file = self.folder / f"times.{first}"
        options = {"url": self.url, "messages": messages, "users": users, "rate": rate, "connections": connections,
                   "first": first, "file": file, "in-a-row": in_a_row, "length": length}  # fmt: skip
        command = [sys.executable, "-m", "bench.load"]
        command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        if child.returncode:
            self._alive()
            raise SystemExit(f"bench: the load generator ended with {child.returncode}")
        told = json.loads(out)
        rows = list(load.TIMES.iter_unpack(file.read_bytes()))
        return Sent(first, users, told["began"], told["seconds"], told["statuses"], rows)

    async def arrived(self, count: int) -> None:
        """Until the sink has so many messages."""
        try:
            await asyncio.wait_for(self._ask(f"/wait/{count}"), PATIENCE)
        except TimeoutError:
            self._alive()

    async def arrivals(self) -> dict[int, float]:
        """When each message's reply came first."""
        found: dict[int, float] = {}
        for number, at in sink.ARRIVAL.iter_unpack(await self._ask("/arrivals")):
            found.setdefault(number, at)
        return found

    async def order(self) -> list[int]:
        """The messages as they came."""
        return [number for number, _ in sink.ARRIVAL.iter_unpack(await self._ask("/arrivals"))]

    async def _ask(self, path: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.sink_port)
        try:
            writer.write(f"GET {path} HTTP/1.1\r\nhost: sink\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            return await reader.readexactly(size)
        finally:
            writer.close()

    def turns_kept(self) -> int:
        """Messages of people that stand in the conversations."""
        count = 0
        for server in self.ground.servers:
            for key in server.ask("--scan", "--pattern", "conversation:*").decode().split():
                said = json.loads(server.ask("GET", key))
                said = said["messages"] if isinstance(said, dict) else said
                count += sum(each["role"] == "user" for each in said)
        return count


@dataclass(frozen=True)
class Sent:
    """What the load generator saw."""

    first: int
    users: int
    began: float
    seconds: float
    statuses: dict[str, int]
    rows: list[tuple[int, float, float]]
    """Number, when it was due, when its answer was here."""

    @property
    def rate(self) -> float:
        return len(self.rows) / self.seconds

    def latencies(self, arrivals: dict[int, float] | None = None) -> list[float]:
        """Sorted seconds from when a message was due to its answer, or to its reply's arrival."""
        if arrivals is None:
            return sorted(answered - due for _, due, answered in self.rows)
        return sorted(arrivals[number] - due for number, due, _ in self.rows if number in arrivals)


def _children(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


@contextlib.asynccontextmanager
async def staged(
    system: System, *, latency: float = 0.0, masters: int = 0, under: Sequence[str] = (), **changed: Any
) -> AsyncIterator[Stage]:
    """
    A fresh stage with Redis, the sink and the ingress up.

    Args:
        masters: of a Redis Cluster; 0 is one server that is none.
        under: the command that runs each server of Redis, such as Valgrind's.
        changed: of streams.toml, see `ours_as_configured`.
    """
    folder = Path(tempfile.mkdtemp(prefix="cauce-bench-"))
    ours_as_configured(folder, **changed)
    stage = Stage(system, folder, latency, masters, under)
    try:
        await stage.start_ground()
        stage.start("ingress")
        await stage.listening(stage.port)
        yield stage
    finally:
        stage.stop()
        shutil.rmtree(folder)


def quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def now() -> float:
    return time.monotonic()
