"""
Which server a shard's commands go to: the one of the address, the master that the sentinels name, or a slot's owner.

A route learns from what goes wrong: after a lost connection or a refusal it looks again, so a failover or a slot that
moved needs no restart.  It repeats nothing; connection.py does.  Not redis-py's own Sentinel and Cluster clients:
docs/decisions/routes.md.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from redis.asyncio.connection import AbstractConnection, ConnectionPool
from redis.asyncio.retry import Retry as NoRetry
from redis.backoff import NoBackoff
from redis.exceptions import AskError, MovedError
from redis.exceptions import ConnectionError as LostConnection

from streams.addresses import Address, Node
from streams.keys import crc16
from streams.line import Line
from streams.trouble import DEMOTED, code_of

ASKED = 0.5
"""Seconds that a sentinel or a node has to say who is who; the others have been asked at the same time."""

FOUND = 5.0
"""Seconds after which whoever waits for others to find out is told that nobody knows."""

MOST = 100
"""Connections of a process to one server, besides those that wait; who needs a further one waits for it."""

SLOTS = 16_384
"""Of a cluster."""


def slot_of(key: str) -> int:
    """By its tag, where it has one (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/)."""
    tag = re.search(r"\{([^}]+)\}", key)
    return crc16(tag[1] if tag else key) % SLOTS


class Route(Protocol):
    """The way to the server of one shard."""

    clustered: bool
    """Keys of one call have to be in one slot, and a slot may be under way."""

    async def pool(self) -> Connections:
        """
        Connections to the server that is thought to be the right one.

        Raises:
            redis.ConnectionError: nobody knows which.
        """

    def learn(self, pool: Connections, trouble: Exception) -> Connections | None:
        """
        What came of asking this one.  Returns the server that is to be asked in its place, this once (ASK).
        """

    async def close(self) -> None:
        """Close what this route has opened."""


Arrived = Callable[[AbstractConnection], Awaitable[None]]
"""What a new connection goes through before it is used; it says `on_connect` to it."""


class Connections(ConnectionPool):
    """
    To one server, without anything of redis-py's that repeats or times out.

    Lent and given back past redis-py's own, which asks, counts and locks on the way as long as a whole call takes.
    """

    def __init__(self, *args: Any, **how: Any) -> None:
        super().__init__(*args, **how)
        self._idle: list[Line] = []
        self._lent: set[Line] = set()
        self._free = asyncio.Semaphore(MOST)
        self._closed = False

    def make_connection(self) -> AbstractConnection:
        made: AbstractConnection = super().make_connection()  # type: ignore[no-untyped-call]
        return made

    async def borrow(self, until: float) -> Line:
        """
        A line that is open, for its borrower until `give_back`; where all are lent, the next.

        Raises:
            redis.RedisError, OSError: it cannot be made, or (TimeoutError) not `until` then, on the loop's clock.
        """
        if self._idle and self._idle[-1].open and not self._free.locked():
            return await self._next()
        async with asyncio.timeout_at(until):
            return await self._next()

    async def _next(self) -> Line:
        await self._free.acquire()
        try:
            while self._idle:
                line = self._idle.pop()
                if line.open:
                    break
            else:
                line = await self.line()
                if self._closed:  # meanwhile
                    line.close()
        except BaseException:
            self._free.release()
            raise
        self._lent.add(line)
        return line

    def give_back(self, line: Line) -> None:
        """One that is closed is forgotten."""
        self._lent.discard(line)
        if self._closed:
            line.close()
        if line.open:
            self._idle.append(line)
        self._free.release()

    async def line(self) -> Line:
        """A new one, for its owner to close.  Raises redis.RedisError, OSError."""
        connection = self.make_connection()
        await connection.connect()
        return Line(connection)

    async def disconnect(self, inuse_connections: bool = True) -> None:
        self._closed = True
        for line in (*self._idle, *self._lent):
            line.close()
        self._idle.clear()


def connections(url: str, arrived: Arrived | None = None) -> Connections:
    return Connections.from_url(
        url,
        protocol=2,
        # Not redis-py's own: its wait_for swallows a cancellation that comes as the write ends (Python 3.11).
        socket_timeout=None,
        socket_connect_timeout=2,
        retry=NoRetry(NoBackoff(), 0),
        health_check_interval=0,
        redis_connect_func=arrived,
    )


class Direct:
    """The server of the address; where it is a replica by now, whichever the address leads to next."""

    clustered = False

    def __init__(self, url: str) -> None:
        self._url = url
        self._pool = connections(url)
        self._left: Connections | None = None

    def to(self, key: str) -> Route:
        return self

    async def pool(self) -> Connections:
        if self._left is not None:
            left, self._left = self._left, None
            await left.disconnect()
        return self._pool

    def learn(self, pool: Connections, trouble: Exception) -> None:
        # Its connections live on after a failover, and would be refused for ever; new ones lead to the new master.
        if code_of(trouble) == DEMOTED and pool is self._pool and self._left is None:
            self._left, self._pool = pool, connections(self._url)

    async def close(self) -> None:
        await self._pool.disconnect()
        if self._left is not None:
            await self._left.disconnect()


def open(address: Address) -> Direct | Sentinel | Cluster:
    """What leads to the servers behind an address; `to(key)` is the way to a key's."""
    if address.kind == "server":
        return Direct(address.text)
    return Sentinel(address) if address.kind == "sentinel" else Cluster(address)


class _Servers:
    """Connections to each of several servers, by address."""

    def __init__(self, address: Address, arrived: Arrived | None = None) -> None:
        self._address = address
        self._arrived = arrived
        self._pools: dict[Node, Connections] = {}

    def at(self, node: Node) -> Connections:
        if node not in self._pools:
            self._pools[node] = connections(self._address.node(node), self._arrived)
        return self._pools[node]

    async def close(self) -> None:
        await asyncio.gather(*(pool.disconnect() for pool in self._pools.values()))


class Sentinel:
    """
    The master that the sentinels name, as long as it is one (https://redis.io/docs/latest/develop/reference/sentinel-clients/).

    Of the sentinels that answer, the one with the highest epoch knows best.
    """

    clustered = False

    def __init__(self, address: Address) -> None:
        self._address = address
        self._servers = _Servers(address, self._arrived)
        self._master: Connections | None = None
        self._looking = asyncio.Lock()

    def to(self, key: str) -> Route:
        return self

    async def pool(self) -> Connections:
        if self._master is not None:
            return self._master
        async with asyncio.timeout(FOUND), self._looking:
            if self._master is None:
                self._master = await self._find()
            return self._master

    def learn(self, pool: Connections, trouble: Exception) -> None:
        if pool is self._master:
            self._master = None

    async def close(self) -> None:
        await self._servers.close()

    async def _find(self) -> Connections:
        node = await self._named()
        [(_, [role])] = await _ask_all([self._address.node(node)], ("ROLE",))
        if role[0] != b"master":
            raise LostConnection(f"{node[0]}:{node[1]}, which the sentinels name, is no master now")
        return self._servers.at(node)

    async def _named(self) -> Node:
        """Whom the sentinels name.  Raises redis.ConnectionError: none of them tells."""
        urls = [self._address.sentinel(node) for node in self._address.hosts]
        told = [
            dict(zip(master[::2], master[1::2], strict=False))
            for _, [master] in await _ask_all(urls, ("SENTINEL", "MASTER", self._address.service))
        ]
        best = max(told, key=lambda master: int(master.get(b"config-epoch", 0)))
        return best[b"ip"].decode(), int(best[b"port"])

    async def _arrived(self, connection: AbstractConnection) -> None:
        """
        A master that comes back after a failover takes writes until it hears that it is none any more, and loses them
        then; so no connection is used that was made to another than the sentinels name.
        """
        await connection.on_connect()
        try:
            named = await self._named()
        except LostConnection:
            return  # the sentinels are away; what they said last still holds
        if named != (getattr(connection, "host", ""), getattr(connection, "port", 0)):
            self._master = None
            raise LostConnection("the sentinels name another master by now")


class Cluster:
    """Who owns which slots, as the nodes tell it (https://redis.io/docs/latest/commands/cluster-slots/)."""

    clustered = True

    def __init__(self, address: Address) -> None:
        self._address = address
        self._servers = _Servers(address)
        self._owners: dict[range, Node] = {}
        self._moved: dict[int, Node] = {}
        """Slots of which somebody told us since we looked at the whole."""
        self._stale = True
        self._looking = asyncio.Lock()

    def to(self, key: str) -> Route:
        """The way to the slot of a key."""
        return _Slot(self, slot_of(key))

    def masters(self) -> list[Route]:
        """The way to each, as they were told last."""
        first = {node: slots[0] for slots, node in self._owners.items()}
        return [_Slot(self, slot) for slot in first.values()]

    async def owner(self, slot: int) -> Connections:
        """Connections to the master of a slot.  Raises redis.ConnectionError: nobody has it."""
        if self._stale:
            async with asyncio.timeout(FOUND), self._looking:
                if self._stale:
                    await self._look()
        node = self._moved.get(slot) or next((node for slots, node in self._owners.items() if slot in slots), None)
        if node is None:
            self._stale = True
            raise LostConnection(f"no node of the cluster has slot {slot}")
        return self._servers.at(node)

    def learn(self, trouble: Exception) -> Connections | None:
        if not isinstance(trouble, AskError) or not trouble.host:
            self._stale = True
            return None
        node = trouble.host, trouble.port
        if isinstance(trouble, MovedError):
            self._moved[trouble.slot_id] = node
            return None
        return self._servers.at(node)

    async def close(self) -> None:
        await self._servers.close()

    async def _look(self) -> None:
        known = dict.fromkeys([*self._owners.values(), *self._address.hosts])
        urls = [self._address.node(node) for node in known]
        told = await _ask_all(urls, ("CLUSTER", "INFO"), ("CLUSTER", "SLOTS"))
        # One that was cut off from the others has an older view than they have.
        host, [_, slots] = max(told, key=lambda one: _standing(one[1][0]))
        self._owners, self._moved, self._stale = dict(_owners(slots, host)), {}, False


def _standing(reply: bytes) -> tuple[bool, int]:
    """Of a node's CLUSTER INFO: whether it sees a whole cluster, and the epoch it knows of."""
    epoch = re.search(rb"cluster_current_epoch:(\d+)", reply)
    return b"cluster_state:ok" in reply, int(epoch[1]) if epoch else 0


def _owners(slots: list[Any], asked: str) -> Iterable[tuple[range, Node]]:
    for first, last, master, *_ in slots:
        host = (master[0] or b"").decode()
        # A node that does not know its own address is where we found it.
        yield range(first, last + 1), (asked if host in ("", "?") else host, int(master[1]))


class _Slot:
    """The way to one slot of a cluster."""

    clustered = True

    def __init__(self, cluster: Cluster, slot: int) -> None:
        self._cluster = cluster
        self._slot = slot

    async def pool(self) -> Connections:
        return await self._cluster.owner(self._slot)

    def learn(self, pool: Connections, trouble: Exception) -> Connections | None:
        return self._cluster.learn(trouble)

    async def close(self) -> None:
        """The cluster is closed by who has opened it."""


Told = tuple[str, list[Any]]
"""The host that was asked, and its answers."""


async def _ask_all(urls: list[str], *commands: tuple[str, ...]) -> list[Told]:
    """
    What those say who answer in time, each asked over a connection of its own.

    Raises:
        redis.ConnectionError: none did; with what one of them said or did.
    """
    asked = [asyncio.create_task(_ask(url, commands)) for url in urls]
    try:
        done, _ = await asyncio.wait(asked, timeout=ASKED)
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    troubles = [error for task in done if (error := task.exception())]
    if len(troubles) == len(done):
        raise LostConnection(str(troubles[0]) if troubles else f"no answer within {ASKED:g} s")
    return [task.result() for task in done if not task.exception()]


async def _ask(url: str, commands: tuple[tuple[str, ...], ...]) -> Told:
    connection: AbstractConnection = connections(url).make_connection()
    try:
        await connection.connect()
        replies = []
        for command in commands:
            await connection.send_command(*command)
            replies.append(await connection.read_response())
        return str(getattr(connection, "host", "")), replies
    finally:
        await connection.disconnect(nowait=True)
