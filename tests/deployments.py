"""
Redis as it is run where it must not go down: behind sentinels, and as a cluster.

Real servers on ports of their own, started and killed by the tests.
"""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.ports import free_ports

MASTER = "mymaster"
NOTICED_MS = 2_000
"""Milliseconds after which sentinels and cluster nodes take a silent server for dead."""


class Node:
    """A redis-server, a sentinel, or a node of a cluster, on 127.0.0.1."""

    def __init__(self, binary: str, folder: Path, *options: str, sentinel_of: int | None = None) -> None:
        [self.port] = free_ports(bus=True)
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        config = self.folder / "node.conf"
        lines = [f"port {self.port}", f"dir {self.folder}", "bind 127.0.0.1", 'save ""', *options]
        if sentinel_of is not None:
            lines += [
                f"sentinel monitor {MASTER} 127.0.0.1 {sentinel_of} 2",
                f"sentinel down-after-milliseconds {MASTER} {NOTICED_MS}",
                f"sentinel failover-timeout {MASTER} 5000",
            ]
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        self.command = [binary, str(config), *(["--sentinel"] if sentinel_of is not None else [])]
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log)
        until(lambda: self.ask("PING") is not None, f"{self.command} did not start")

    def ask(self, *words: str) -> Any:
        """A command's answer, in redis-py's plain form; None where there is none."""
        return ask(self.port, *words)

    def follows(self) -> None:
        """Wait until it has all that its master has."""
        until(lambda: "master_link_status:up" in (self.ask("INFO", "replication") or ""), "it does not follow")

    def freeze(self) -> None:
        """SIGSTOP"""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT"""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


def ask(port: int, *words: str) -> Any:
    """A command over a connection of its own; the reply as lists, numbers and text."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            parts = [f"*{len(words)}\r\n", *(f"${len(word.encode())}\r\n{word}\r\n" for word in words)]
            connection.sendall("".join(parts).encode())
            with connection.makefile("rb") as stream:
                return _reply(stream)
    except OSError:
        return None


def _reply(stream: Any) -> Any:
    line = stream.readline().rstrip(b"\r\n")
    kind, rest = line[:1], line[1:].decode()
    if kind == b"$":
        return stream.read(int(rest) + 2)[:-2].decode(errors="replace") if int(rest) >= 0 else None
    if kind == b"*":
        return [_reply(stream) for _ in range(int(rest))]
    if kind == b":":
        return int(rest)
    if kind == b"-":
        return RuntimeError(rest)
    return rest


def until(holds: Callable[[], bool], otherwise: str, within: float = 30) -> None:
    """Wait for what a foreign process does."""
    end = time.monotonic() + within
    while not holds():
        if time.monotonic() > end:
            raise RuntimeError(otherwise)
        time.sleep(0.05)


class Ground:
    """Where a test's servers run; nothing of them is left when it closes."""

    def __init__(self, binary: str) -> None:
        self.binary = binary
        self.folder = Path(tempfile.mkdtemp(prefix="cauce-"))
        self.nodes: list[Node] = []

    def node(self, *options: str, sentinel_of: int | None = None) -> Node:
        node = Node(self.binary, self.folder, *options, sentinel_of=sentinel_of)
        self.nodes.append(node)
        return node

    def __enter__(self) -> Ground:
        return self

    def __exit__(self, *_: object) -> None:
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


class Alone:
    """One server."""

    def __init__(self, ground: Ground, *options: str) -> None:
        self.server = ground.node(*options)
        self.url = f"redis://127.0.0.1:{self.server.port}"


class Watched:
    """A master and its replica, watched by three sentinels."""

    def __init__(self, ground: Ground, *options: str) -> None:
        self.master = ground.node(*options)
        self.replica = ground.node(f"replicaof 127.0.0.1 {self.master.port}", *options)
        self.servers = [self.master, self.replica]
        until(lambda: "state=online" in self.master.ask("INFO", "replication"), "the replica did not connect")
        self.sentinels = [ground.node(sentinel_of=self.master.port) for _ in range(3)]
        until(lambda: all(self._informed(each) for each in self.sentinels), "the sentinels did not find each other")
        hosts = ",".join(f"127.0.0.1:{each.port}" for each in self.sentinels)
        self.url = f"redis+sentinel://{hosts}/{MASTER}"

    @staticmethod
    def _informed(sentinel: Node) -> bool:
        flat = sentinel.ask("SENTINEL", "MASTER", MASTER)
        told = dict(zip(flat[::2], flat[1::2], strict=True))
        return told["num-other-sentinels"] == "2" and told["num-slaves"] == "1" and told["flags"] == "master"

    def promoted(self) -> Node:
        """The server that the sentinels name."""
        port = int(self.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", MASTER)[1])
        return next(node for node in self.servers if node.port == port)

    def replaced(self, dead: Node) -> None:
        """Wait until another is the master."""
        until(lambda: self.promoted() is not dead, "nobody was promoted")

    def fail_over(self, dying: Node) -> None:
        """kill -9 the master; once the other has taken over, the dead one comes back and follows it."""
        assert self.promoted() is dying, "it is not the master"
        dying.kill()
        self.replaced(dying)
        dying.start()
        master = self.promoted()
        until(lambda: "state=online" in (master.ask("INFO", "replication") or ""), "no replica came back")
        until(lambda: all(self._ready(each) for each in self.sentinels), "the sentinels see no replica")

    @staticmethod
    def _ready(sentinel: Node) -> bool:
        """It would promote the replica now."""
        told = [dict(zip(flat[::2], flat[1::2], strict=True)) for flat in sentinel.ask("SENTINEL", "REPLICAS", MASTER)]
        return any(one["flags"] == "slave" and one["master-link-status"] == "ok" for one in told)


class Cluster:
    """Three masters, each with a replica."""

    def __init__(self, ground: Ground, *options: str, replicas: bool = True) -> None:
        mode = ["cluster-enabled yes", f"cluster-node-timeout {NOTICED_MS}", *options]
        self.masters = [ground.node(*mode) for _ in range(3)]
        bounds = [0, 5461, 10923, 16384]
        for node, low, high in zip(self.masters, bounds, bounds[1:], strict=False):
            node.ask("CLUSTER", "ADDSLOTS", *map(str, range(low, high)))
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", str(self.masters.index(node) + 1))
        self.replicas = [ground.node(*mode) for _ in self.masters] if replicas else []
        for node in self.nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", str(self.masters[0].port))
        until(lambda: all(self._whole(node) for node in self.nodes), "the cluster did not form")
        for master, replica in zip(self.masters, self.replicas, strict=False):
            name = master.ask("CLUSTER", "MYID")
            until(lambda n=name, r=replica: r.ask("CLUSTER", "REPLICATE", n) == "OK", "no replica")  # type: ignore[misc]
        for master in self.masters if replicas else ():
            until(lambda m=master: "state=online" in m.ask("INFO", "replication"), "no replica online")  # type: ignore[misc]
        self.url = "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in self.masters)
        self.folder = ground.folder

    @property
    def nodes(self) -> list[Node]:
        return [*self.masters, *self.replicas]

    def _whole(self, node: Node) -> bool:
        info = node.ask("CLUSTER", "INFO") or ""
        return "cluster_state:ok" in info and f"cluster_known_nodes:{len(self.nodes)}" in info

    def owner(self, key: str) -> Node:
        """The master that has a key's slot now."""
        slot = self.masters[0].ask("CLUSTER", "KEYSLOT", key)
        alive = next(node for node in self.nodes if node.ask("PING"))
        for first, last, (_, port, *_), *_ in alive.ask("CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return next(node for node in self.nodes if node.port == port)
        raise RuntimeError(f"nobody has slot {slot}")

    def fail_over(self, dying: Node) -> None:
        """kill -9 a master; once its replica has taken over, the dead one comes back and follows it."""
        successor = self.replicas[self.masters.index(dying)]
        dying.kill()
        until(lambda: "role:master" in successor.ask("INFO", "replication"), "nobody was promoted")
        dying.start()
        until(lambda: "state=online" in successor.ask("INFO", "replication"), "it did not come back")

    def move(self, key: str, *, slowly: float = 0.0) -> None:
        """
        Move a key's slot to the next master, key by key, as `redis-cli --cluster reshard` does.

        Args:
            slowly: seconds between two keys, in which callers find the slot under way.
        """
        slot, source, target = self.open_slot(key)
        while found := source.ask("CLUSTER", "GETKEYSINSLOT", slot, "1"):
            moved = source.ask("MIGRATE", "127.0.0.1", str(target.port), found[0], "0", "5000")
            assert moved in ("OK", "NOKEY"), moved
            time.sleep(slowly)
        for node in (target, source, *self.masters):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", target.ask("CLUSTER", "MYID"))
        assert self.owner(key) is target, "the slot is where it was"

    def turned_away(self) -> int:
        """How many calls have found a slot under way so far."""
        told = "\n".join(node.ask("INFO", "errorstats") or "" for node in self.nodes)
        return sum(map(int, re.findall(r"errorstat_(?:ASK|TRYAGAIN):count=(\d+)", told)))

    def open_slot(self, key: str) -> tuple[str, Node, Node]:
        """Put a key's slot under way to the next master; slot, from where, to where."""
        slot = str(self.masters[0].ask("CLUSTER", "KEYSLOT", key))
        source = self.owner(key)
        target = self.masters[(self.masters.index(source) + 1) % len(self.masters)]
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.ask("CLUSTER", "MYID"))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target.ask("CLUSTER", "MYID"))
        return slot, source, target

    def close_slot(self, key: str) -> None:
        """It stays where it is."""
        slot = str(self.masters[0].ask("CLUSTER", "KEYSLOT", key))
        for node in self.masters:
            node.ask("CLUSTER", "SETSLOT", slot, "STABLE")
