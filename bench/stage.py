"""
One system on a stage of its own: a fresh Redis with its append-only file, a sink, and the system's processes.

Everything is a real process on this machine, started as the system's users start it and reached over TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from bench import load, sink

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "bench" / "peers"
PEERS_BIN = ROOT / ".venv-bench" / "bin"
PATIENCE = 300
"""Seconds after which something that was waited for counts as never coming."""


@dataclass(frozen=True)
class System:
    """What is measured."""

    name: str
    processes: dict[str, list[str]]
    """By role, `ingress` first; `{port}`, `{python}`, `{bin}` and `{folder}` are filled in."""
    cwd: Path
    environment: dict[str, str] = field(default_factory=dict)
    """More of it; `{redis}`, `{sink}`, `{port}` and `{latency}` are filled in."""
    answers: bool = False
    """Its HTTP answer is the reply; nothing is delivered."""

    @property
    def workers(self) -> list[str]:
        return [role for role in self.processes if role != "ingress"]


OURS = System(
    name="cauce",
    processes={
        "ingress": ["{own}/python", "-m", "streams.cli", "-c", "{folder}/streams.toml", "ingress"],
        "inference": ["{own}/python", "-m", "streams.cli", "-c", "{folder}/streams.toml", "work", "inference"],
        "egress": ["{own}/python", "-m", "streams.cli", "-c", "{folder}/streams.toml", "work", "egress"],
    },
    cwd=ROOT,
    environment={
        "REDIS_URL": "{redis}", "OUTBOUND_URL": "{sink}", "INGRESS_PORT": "{port}", "MODEL": "echo?latency={latency}",
        "DEBOUNCE": "0", "RATE_LIMIT_PER_MINUTE": "1000000", "TIMEZONE": "America/La_Paz",
        "OUTBOUND_SECRET": "whsec_YmVuY2gtYmVuY2gtYmVuY2gtYmVuY2g=",
    },
)  # fmt: skip


def peers() -> list[System]:
    """Those of bench/peers/peers.toml."""
    told = tomllib.loads((PEERS / "peers.toml").read_text(encoding="utf-8"))
    environment = {"REDIS_URL": "{redis}", "SINK_URL": "{sink}", "PORT": "{port}", "LATENCY": "{latency}"}
    return [
        System(name, each["processes"], PEERS, environment, answers=each.get("answers", False))
        for name, each in told.items()
    ]


def ours_as_configured(folder: Path, **changed: Any) -> None:
    """
    The shipped streams.toml with what the comparison needs: no debounce, one reply to each message, 100 at once, and no
    actions, for which peers do not look.
    """
    text = (ROOT / "streams.toml").read_text(encoding="utf-8").partition("# What people ask for.")[0]
    for old, new in {
        "debounce = 2.0 ": "debounce = 0.0 ",
        "turn_max = 50 ": f"turn_max = {changed.get('turn_max', 1)} ",
        "concurrency = 16": "concurrency = 100",
        "concurrency = 64": "concurrency = 100",
        "max_len = 1_000_000 ": "max_len = 10_000_000 ",
    }.items():
        if text.count(old) != 1:
            raise SystemExit(f"bench: streams.toml no longer holds {old!r} once")
        text = text.replace(old, new)
    (folder / "streams.toml").write_text(
        f"{text}\n[history]\nmax_messages = {changed.get('max_messages', 20)}\n{changed.get('more', '')}",
        encoding="utf-8",
    )


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stage:
    """A system that runs."""

    def __init__(self, system: System, folder: Path, latency: float) -> None:
        self.system, self.folder = system, folder
        self.port, self.sink_port, self.redis_port = free_port(), free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}/chat"
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._sent = 0
        self._filled = {
            "port": str(self.port), "python": str(PEERS_BIN / "python"), "bin": str(PEERS_BIN), "folder": str(folder),
            "own": str(Path(sys.executable).parent), "redis": f"redis://127.0.0.1:{self.redis_port}/0",
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

    def start_ground(self) -> None:
        """Redis and the sink."""
        server = shutil.which("redis-server")
        if server is None:
            raise SystemExit("bench: no redis-server on the PATH: apt-get install -y redis-server")
        data = self.folder / "redis"
        data.mkdir()
        options = {
            "port": self.redis_port,
            "dir": data,
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "bind": "127.0.0.1",
        }
        command = [server, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
        own = {"PYTHONPATH": str(ROOT), "PATH": os.environ.get("PATH", "")}
        self.running["redis"] = self._run("redis", command, self.folder, own)
        self._sink = self._run("sink", [sys.executable, "-m", "bench.sink", "--port", str(self.sink_port)], ROOT, own)

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
                told = (self.folder / f"{name}.log").read_text(errors="replace")[-2000:]
                raise SystemExit(f"bench: {self.system.name}'s {name} ended with {process.returncode}:\n{told}")

    def stop(self) -> None:
        processes = [*self.running.values(), self._sink]
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
        file = self.folder / "times"
        options = {"url": self.url, "messages": messages, "users": users, "rate": rate, "connections": connections,
                   "first": self._sent, "file": file, "in-a-row": in_a_row, "length": length}  # fmt: skip
        command = [sys.executable, "-m", "bench.load"]
        command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        child = await asyncio.create_subprocess_exec(*command, env=environment, stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        if child.returncode:
            self._alive()
            raise SystemExit(f"bench: the load generator ended with {child.returncode}")
        told = json.loads(out)
        first, self._sent = self._sent, self._sent + messages
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

    def redis(self, *command: str) -> bytes:
        """A command to Redis, as redis-cli prints its answer."""
        told = subprocess.run(["redis-cli", "-p", str(self.redis_port), *command], capture_output=True, check=True)
        return told.stdout

    def memory(self) -> int:
        """Bytes that Redis uses."""
        info = self.redis("INFO", "memory").decode()
        return int(next(line for line in info.splitlines() if line.startswith("used_memory:")).split(":")[1])

    def turns_kept(self) -> int:
        """Messages of people that stand in the conversations."""
        count = 0
        for key in self.redis("--scan", "--pattern", "conversation:*").decode().split():
            said = json.loads(self.redis("GET", key))
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
async def staged(system: System, *, latency: float = 0.0, **changed: Any) -> AsyncIterator[Stage]:
    """A fresh stage with Redis, the sink and the ingress up."""
    folder = Path(tempfile.mkdtemp(prefix="cauce-bench-"))
    ours_as_configured(folder, **changed)
    stage = Stage(system, folder, latency)
    try:
        stage.start_ground()
        await stage.listening(stage.redis_port)
        await stage.listening(stage.sink_port)
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
