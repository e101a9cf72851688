"""
Many requests, one write: what comes while a write is under way goes with the next one.

The first message is written at once; under load the batches grow by themselves, so nobody waits for a timer.  The
write itself is append.lua: dedupe and XADD as one act, a request with several messages all or nothing.  Knows no HTTP
and no WhatsApp.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextvars import Context
from functools import cached_property
from typing import Any, Literal

import msgspec

from ingress.durability import Durability
from ingress.pressure import Backlog, Pressure
from streams import marks, metrics, wire
from streams import topology as pipeline
from streams.connection import Store
from streams.errors import CauceError, Unavailable
from streams.index import line as index_line
from streams.line import Argument
from streams.scripts import script
from streams.topology import Topology

INBOUND, STATUSES = pipeline.INBOUND, "statuses"
"""The streams that the front door writes to: the names every streams.toml has."""

MARK_MS = 8 * 86_400_000
"""How long a message is known by its id: Meta repeats for up to seven days."""

SCARCE_MARK_MS = 3_600_000
"""The same for what comes while Redis is nearly full: its marks are not to fill the rest (docs/decisions/marks.md)."""

MOST, MOST_BYTES = 100, 1 << 20
"""What one write carries at most; one request may be larger, for it is never split."""

_APPEND = script(__file__, "append.lua")
_SHED = metrics.MESSAGES.labels("shed")
_pack = msgspec.msgpack.Encoder().encode


class Waiter(msgspec.Struct, frozen=True):
    """A request that waits for the reply to its message."""

    ms: int
    bell: str
    ticket: str


class Arrival(msgspec.Struct, kw_only=True, frozen=True):
    """One message on its way to a stream."""

    stream: str
    key: str
    """The person."""
    type: str
    body: bytes
    message_id: str
    text: str = ""
    """What makes a repeat a repeat: the same id with another text is a mistake of the sender's."""
    trace: str = msgspec.field(default_factory=wire.new_trace)
    waiter: Waiter | None = None
    received_ms: int = msgspec.field(default_factory=lambda: time.time_ns() // 1_000_000)
    """This machine's clock, Unix milliseconds."""


class Appended(msgspec.Struct, frozen=True):
    """What became of a message."""

    outcome: Literal["new", "duplicate", "reused"]
    """reused: its id is taken by another text; nothing was appended for it."""
    entry_id: str
    """Of a duplicate, the first one's."""


class Message(msgspec.Struct, array_like=True):
    """One message as append.lua numbers it."""

    stream: int
    mark: int
    text: str
    call: str
    fields: list[str]
    wait: dict[str, Any] | None = None
    line: str | None = None
    """What the index says of it, where that has entries of its stream."""


class _Request(msgspec.Struct):
    """What is appended together, and who waits to hear of it."""

    arrivals: Sequence[Arrival]
    call: str
    done: asyncio.Future[list[Appended]]
    size: int


class Appender:
    """Appends for one process, in one shard; safe for many tasks at once."""

    def __init__(
        self, store: Store, topology: Topology, digest: bytes | None = None, durability: Durability | None = None
    ) -> None:
        self._store = store
        self._durability = durability or Durability(topology.durability)
        self._topology = topology
        self._read = {name: bool(topology.readers(name)) for name in topology.streams}
        self.digest = digest or secrets.token_hex(32).encode()
        """Keys the hashes; the first write leaves it in Redis, where every ingress finds the same."""
        self._name, self._calls = secrets.token_hex(8), 0
        """Which no other call of anybody has: what a mark says whose it is."""
        self._waiting: deque[_Request] = deque()
        self._writing: asyncio.Task[None] | None = None
        self.pressure = Pressure(store, topology)
        names = store.keys
        self._keys = [names.of("digest"), names.of("waiting", INBOUND), names.of("groups")]
        self._streams = {name: names.stream(name) for name in topology.streams}
        self._prefixes = [names.of(kind) + ":" for kind in ("door", "bell", "index")]

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()  # asked for once: it is a system call each time, until Python 3.12

    def takes(self, stream: str) -> bool:
        """Whether streams.toml has it."""
        return stream in self._topology.streams

    async def append(self, arrivals: Sequence[Arrival]) -> list[Appended]:
        """
        Append all of these or none; returns when Redis has them.

        Raises:
            Backlog: a stream is full, or a group too far behind.
            Unavailable: Redis is away or full.  With `maybe_written` the same call again is safe, and tells.
        """
        if not arrivals:
            return []
        await self.pressure.refresh()
        return await self.appending(arrivals)

    def appending(self, arrivals: Sequence[Arrival]) -> asyncio.Future[list[Appended]]:
        """The same at once, with the room that there was when it was last looked at."""
        size = sum([len(arrival.body) + 500 for arrival in arrivals])
        done: asyncio.Future[list[Appended]] = self._loop.create_future()
        self._calls += 1
        self._waiting.append(_Request(arrivals, f"{self._name}{self._calls:x}", done, size))
        if self._writing is None:
            # In nobody's context: it writes for all of them, and what it logs is not this request's.
            self._writing = asyncio.create_task(self._write_all(), context=Context())
        return done

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await self._write(self._batch())
        finally:
            self._writing = None

    def _batch(self) -> list[_Request]:
        batch = [self._waiting.popleft()]
        count, size = len(batch[0].arrivals), batch[0].size
        while self._waiting:
            count += len(self._waiting[0].arrivals)
            size += self._waiting[0].size
            if count > MOST or size > MOST_BYTES:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _write(self, batch: list[_Request]) -> None:
        behind = len(self._waiting)
        try:
            await self._written(batch)
        except Exception as error:  # whatever it is: nobody is to wait for an answer that will never come
            for request in batch:
                _fail(request, error)
            if isinstance(error, Unavailable) and (error.told or error.maybe_written):
                self._turn_away(behind, error)
        finally:
            self.pressure.look(sum([request.size for request in batch]))

    async def _written(self, batch: list[_Request]) -> None:
        """Write and tell each request; where this raises, those not told yet have failed."""
        full = self._tell(batch, await self._run(batch))
        metrics.APPEND_MESSAGES.observe(sum([len(request.arrivals) for request in batch]))
        if full and await self.pressure.relieve():
            again = [request for request, _ in full]
            full = self._tell(again, await self._run(again))
        for request, name in full:
            _fail(request, self.pressure.fault(name) or Backlog(f"the stream {name} is at its max_len"))

    @staticmethod
    def _tell(batch: list[_Request], results: list[Any]) -> list[tuple[_Request, str]]:
        """Tell each request what became of it; those for which there was no room, and the stream that is full."""
        full = []
        for request, result in zip(batch, results, strict=True):
            if isinstance(result, bytes):
                full.append((request, result.decode()))
            elif not request.done.done():
                request.done.set_result([Appended(outcome.decode(), entry.decode()) for outcome, entry in result])
        return full

    def _turn_away(self, count: int, error: Unavailable) -> None:
        """
        Refuse the oldest who wait: they were here while Redis, or who was to have a copy, was tried in vain.  Were each
        write to find out anew, the last of thousands would be told after minutes.
        """
        for _ in range(count):
            _fail(self._waiting.popleft(), Unavailable(str(error), retry_after=error.retry_after, told=error.told))

    async def _run(self, batch: list[_Request]) -> list[Any]:
        while True:
            keys, args = self._packed(batch)
            reply: list[Any]
            if self._durability.command is None:
                reply = await self._store.run(_APPEND, keys, args)
            else:
                reply, kept = await self._store.run_and(_APPEND, keys, args, self._durability.command)
                self._durability.check(kept)
            word, rest = reply[0], reply[1:]
            if word == b"ok":
                return rest
            if word == b"refused":
                raise Unavailable(f"Redis does not take it: {rest[0].decode(errors='replace')}", retry_after=5)
            # Another process was here first, or the whole of Redis is new: hash as they do.
            self.digest = rest[0]

    def _packed(self, batch: list[_Request]) -> tuple[list[str], list[Argument]]:
        keys = self._keys.copy()
        streams: dict[str, int] = {}
        index: dict[str, int] = {}

        def place(key: str) -> int:
            if key not in index:
                keys.append(key)
                index[key] = len(keys)
            return index[key]

        requests, waits, now_ms = [], "", int(time.time() * 1000)
        for request in batch:
            packed = []
            for number, arrival in enumerate(request.arrivals):
                if arrival.stream not in streams:
                    place(self._streams[arrival.stream])
                    streams[arrival.stream] = len(streams) + 1
                message = Message(
                    streams[arrival.stream],
                    place(marks.name(self._store.keys, self.digest, arrival.key, arrival.message_id)),
                    marks.digest(self.digest, arrival.text),
                    f"{request.call}.{number}",
                    _fields(arrival),
                )
                if arrival.stream == INBOUND:
                    message.line = index_line(self.digest, arrival.key, arrival.message_id, arrival.trace, now_ms)
                if arrival.waiter:
                    waits = "1"
                    message.wait = msgspec.structs.asdict(arrival.waiter) | self._answering(arrival, place)
                packed.append(message)
            requests.append(packed)
        durable = "" if self._durability.command is None else "1"
        places = [[index[self._streams[name]], name, *self._limits(name)] for name in streams]
        args: list[Argument] = [self.digest, SCARCE_MARK_MS if self.pressure.scarce else MARK_MS, now_ms]
        args += [*self._prefixes, durable, waits, _pack(places), _pack(requests)]
        return keys, args

    def _limits(self, name: str) -> tuple[int, bool, bool]:
        """Of a stream: its `max_len`, whether somebody reads it, and whether it takes nothing new now."""
        return self._topology.streams[name].max_len, self._read[name], self.pressure.fault(name) is not None

    def _answering(self, arrival: Arrival, place: Callable[[str], int]) -> dict[str, Any]:
        """Where the group that will answer keeps what it knows of this person: a repeat may find it there."""
        group, names = self._topology.answering(arrival.stream), self._store.keys
        if group is None:
            return {}
        kept = {kind: place(names.group(kind, group.name)) for kind in ("cursor", "due", "hints")}
        kept["box"] = place(names.group("box", group.name, arrival.key))
        kept["bell"] = place(names.of("bell", group.name))
        return {"group": {"key": arrival.key, **kept}}

    async def close(self) -> None:
        """Let what is being written end."""
        if self._writing is not None:
            with contextlib.suppress(CauceError):
                await self._writing
        await self.pressure.close()


def _fail(request: _Request, error: Exception) -> None:
    if not request.done.done():
        if isinstance(error, (Backlog, Unavailable)):
            _SHED.inc(len(request.arrivals))
        request.done.set_exception(error)


def _fields(arrival: Arrival) -> list[str]:
    fields = ["key", arrival.key, "type", arrival.type, "body", arrival.body.decode()]
    fields += ["v", wire.VERSION, "trace", arrival.trace, "received", str(arrival.received_ms)]
    if arrival.waiter:
        # A request that waits is not to wait for the debounce window as well.
        fields += ["now", "1"]
    return fields
