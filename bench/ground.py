"""
The Redis that a system stands on: one server, or a cluster of masters; fresh, with an append-only file, over TCP.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from bench.ports import free_ports

SLOTS = 16_384
PATIENCE = 60
"""Seconds that servers have to come up."""


def cut(slots: Sequence[int]) -> list[range]:
    """All slots of a cluster in as many pieces, each with one of these in it."""
    edges = [0, *(low + (high - low) // 2 + 1 for low, high in pairwise(sorted(slots))), SLOTS]
    return [range(low, high) for low, high in pairwise(edges)]


class Server:
    """One redis-server, which lives until its process is killed."""

    def __init__(self, folder: Path, *, clustered: bool, under: Sequence[str] = ()) -> None:
        """
        Args:
            under: the command that runs it, such as Valgrind's.
        """
        self.pid = 0
        self._under = under
        [self.port] = free_ports(bus=clustered)
        self.log = folder / f"{self.port}.log"
        self.folder = folder / str(self.port)
        self._options = {
            "port": str(self.port),
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "bind": "127.0.0.1",
        }
        if clustered:
            self._options["cluster-enabled"] = "yes"

    def start(self) -> subprocess.Popen[bytes]:
        binary = shutil.which("redis-server")
        if binary is None:
            raise SystemExit("bench: no redis-server on the PATH: apt-get install -y redis-server")
        self.folder.mkdir()
        words = [word for name, value in self._options.items() for word in (f"--{name}", value)]
        with self.log.open("wb") as log:
            process = subprocess.Popen(
                [*self._under, binary, *words],
                cwd=self.folder, env={"PATH": os.environ.get("PATH", "")}, stdout=log, stderr=log,
            )  # fmt: skip
        self.pid = process.pid
        return process

    def ask(self, *words: str) -> bytes:
        """A command's answer, as redis-cli prints it."""
        told = subprocess.run(["redis-cli", "-p", str(self.port), *words], capture_output=True, check=True)
        return told.stdout

    def told(self, section: str) -> dict[str, str]:
        """INFO SECTION."""
        lines = self.ask("INFO", section).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


class Ground:
    """
    Args:
        masters: of a cluster; 0 is one server that is none.
        under: the command that runs each.
    """

    def __init__(self, folder: Path, masters: int = 0, under: Sequence[str] = ()) -> None:
        self.clustered = masters > 0
        self.servers = [Server(folder, clustered=self.clustered, under=under) for _ in range(masters or 1)]

    @property
    def url(self) -> str:
        """As REDIS_URL has it."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in self.servers)
        return f"redis+cluster://{hosts}" if self.clustered else f"redis://{hosts}/0"

    def start(self) -> dict[str, subprocess.Popen[bytes]]:
        """The processes by name: `redis`, or `redis.1`, `redis.2`, …"""
        if not self.clustered:
            return {"redis": self.servers[0].start()}
        return {f"redis.{number}": server.start() for number, server in enumerate(self.servers, 1)}

    async def form(self) -> None:
        """
        Make a cluster of servers that listen.

        Its slots are cut so that each master has one of as many shards: in equal parts two of three would lie on one.
        """
        first = self.servers[0]
        count = len(self.servers)
        shards = [int(first.ask("CLUSTER", "KEYSLOT", f"inbound:{{{shard}}}")) for shard in range(count)]
        for epoch, (server, slots) in enumerate(zip(self.servers, cut(shards), strict=True), 1):
            server.ask("CLUSTER", "ADDSLOTSRANGE", str(slots[0]), str(slots[-1]))
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", str(epoch))
        for server in self.servers[1:]:
            server.ask("CLUSTER", "MEET", "127.0.0.1", str(first.port))
        await until(lambda: all(_whole(server, count) for server in self.servers), "the cluster does not form")

    def memory(self) -> int:
        """Bytes that all use."""
        return sum(int(server.told("memory")["used_memory"]) for server in self.servers)


def _whole(server: Server, count: int) -> bool:
    told = server.ask("CLUSTER", "INFO").decode().split()
    return {"cluster_state:ok", f"cluster_known_nodes:{count}", f"cluster_slots_ok:{SLOTS}"} <= set(told)


async def until(holds: Callable[[], bool], otherwise: str) -> None:
    """Look again and again; SystemExit where it does not come true."""
    end = asyncio.get_running_loop().time() + PATIENCE
    while not holds():
        if asyncio.get_running_loop().time() > end:
            raise SystemExit(f"bench: {otherwise}")
        await asyncio.sleep(0.05)
