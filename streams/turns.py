"""
Keyed turns over a consumer group: take, settle, beat, open, each one script over a whole batch.

Any number of consumers read one stream through one group; one turn at a time for a key, all keys in parallel.  The
invariant: every unsettled entry is either after the cursor or in exactly one box; every key with a box has either a
lease or a due time.  The field's name for this is key-shared consumption (Pulsar's Key_Shared, Confluent's Parallel
Consumer).  Knows no handler and decides nothing: fate.py does, worker.py carries it out.
"""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from streams import moments, wire
from streams.connection import Store
from streams.effects import Handler, Message, Output, Turn
from streams.endings import Ending, entry, fields, read_progress
from streams.errors import CauceError, Unavailable
from streams.groups import Registration
from streams.line import Argument
from streams.scripts import script
from streams.tables import Group
from streams.topology import Topology
from streams.watch import Consumer, Watch

_TAKE = script(__file__, "take.lua")
_SETTLE = script(__file__, "settle.lua")
_BEAT = script(__file__, "beat.lua")
_OPEN = script(__file__, "open.lua")
_AHEAD = script(__file__, "ahead.lua")

HEARTBEAT_MS = 8_000
"""How long a consumer counts as alive after its last sign."""

BEAT_SILENCE = 1.5
"""Seconds without an answer after which a beat is repeated."""

SUSPECT_AFTER = 2
"""Crashes after which an entry is handled alone (docs/decisions/suspects.md)."""

MAX_TURNS, MAX_IDS, MAX_BYTES = 100, 1_000, 1 << 20
"""What one call of settle carries at most."""

_pack = msgspec.msgpack.Encoder().encode


class Grant(msgspec.Struct):
    """A turn and the lease that makes it ours."""

    turn: Turn
    token: str
    starts: list[int]
    """How often each message has been started, this time included."""
    suspect: bool
    """Its first message was in work when a worker died, more than once."""


class Beaten(NamedTuple):
    """What a beat brought."""

    lost: set[str]
    """Leases, of those named, that are ours no more."""
    newer: list[str]
    """Leases, of those named, whose turns are superseded."""
    next_due_ms: int
    """Until the next key's time comes; -1 for none."""
    erased: bytes
    """Another word after each erase of somebody; empty for none."""


class Taken(msgspec.Struct):
    """What a take brought."""

    grants: list[Grant]
    read: int
    """New entries read from the stream, of whatever key."""
    next_due_ms: int
    """Until the next key's time comes; -1 for none."""
    cursor: str
    """The highest id any consumer of the group has read."""
    now_ms: int
    """Redis's clock, Unix milliseconds."""
    held: int
    """Keys whose time has come, left where they are for being suspects."""
    more: bool
    """The stream may hold more that is new."""


Later = Callable[[Sequence[Argument]], Awaitable[Any]]


class Gone(Exception):
    """The group does not exist in Redis (any more); `open` makes it."""


class Impossible(CauceError):
    """A turn cannot be ended so; nothing was done, and it is still ours."""

    def __init__(self) -> None:
        super().__init__("a key that this turn would write is of another type")


class Changed(CauceError):
    """What a turn's effects took for absent is there; nothing was done, and it is still ours."""


class Turns:
    """One consumer of one group."""

    def __init__(self, store: Store, topology: Topology, group: Group, handler: Handler) -> None:
        self.group = group
        self.consumer = f"{group.name}-{_host()}-{secrets.token_hex(8)}"
        """Made anew at every start and never used again."""
        self._calls = 0
        self._seen = 0
        """The highest call whose answer has come: what it granted and we do not hold was lost on the way."""
        self._store = store
        self._handler = handler
        self._watch = Watch(store, topology)
        keys = store.keys
        self._stream = keys.stream(group.reads)
        self._dead = keys.dead(group.reads)
        self._keys = {
            kind: keys.group(kind, group.name) for kind in ("cursor", "leases", "due", "attempts", "hints", "consumers")
        }
        self._erased = keys.of("erased")
        others = [each.name for each in topology.readers(group.reads) if each.name != group.name]
        self._others = [keys.group("cursor", name) for name in others]
        self._heartbeat = keys.group("heartbeat", group.name, self.consumer)
        self._box = keys.group("box", group.name) + ":"
        self._keep_ms = int(topology.wait.keep * 1000)
        self._dead_max = topology.dead.max_len
        answering = topology.answering(group.reads)
        self._answers = answering is not None and answering.name == group.name
        self._suspect_after = min(SUSPECT_AFTER, max(1, group.attempts - 1))
        self._supersedes = group.on_new_message == "supersede"
        self._take_keys = self._some("cursor", "leases", "due", "attempts", "hints", "consumers", first=self._stream)
        self._take_keys += [self._heartbeat, self._dead, self._erased]
        self._take_args = self._taking()
        self._settle_keys = [
            *self._some("leases", "due", "attempts", "hints", first=self._stream),
            keys.of("waiting", group.reads), self._dead, self._erased, keys.group("journal", group.name),
        ]  # fmt: skip
        self._settle_args: list[Argument] = [
            group.name, self._box, wire.VERSION, "1" if group.order == "none" else "", self._dead_max,
            "1" if self._answers else "", self._keep_ms, keys.of("door") + ":", keys.of("bell") + ":",
        ]  # fmt: skip

    def _taking(self) -> list[Argument]:
        """The arguments of a take that are the group's, as take.lua numbers them."""
        group, handler, metering = self.group, self._handler, self._handler.metering
        turn_max = 1 if group.order == "none" else group.turn_max
        bells = self._store.keys.of("bell") + ":" if self._supersedes else ""
        meter: list[Argument] = ["", 0, 0]
        if metering:
            exempt = 1 + handler.recall.index(metering.unless) if metering.unless else 0
            meter = [self._prefix(metering.kind), metering.window_seconds * 1000, exempt]
        return [
            group.name, HEARTBEAT_MS, self._box, group.order,
            int(group.debounce * 1000), int(group.debounce_max * 1000), turn_max, group.turn_max_chars,
            int(group.replay), self._dead_max, self._suspect_after,
            *meter, bells,
            len(handler.recall), *map(self._prefix, handler.recall),
            *(metering.skip_types if metering else ()),
        ]  # fmt: skip

    async def open(self, *, anew: bool = False) -> tuple[bool, int]:
        """
        Make sure the group exists.

        Args:
            anew: it has existed, so without a cursor it begins at the start of the stream, wherever it once began.

        Returns:
            whether it was made, and how many entries that were taken but not settled are pending in it again.
        """
        registration = wire.encode(Registration.of(self.group))
        made, pending = await self._store.run(
            _OPEN,
            [*self._some("cursor", "leases", "due", first=self._stream), self._store.keys.of("groups")],
            [self.group.name, "start" if anew else self._from(), self.consumer, self._box, registration],
        )
        return bool(made), int(pending)

    def _from(self) -> str:
        """As open.lua has it."""
        with contextlib.suppress(ValueError):
            return f"-{int(moments.seconds(self.group.from_) * 1000)}"
        return self.group.from_

    async def take(self, room: int, count: int, suspects: int, later: Later | None = None) -> Taken:
        """
        Read up to `count` new entries and lease up to `room` keys whose time has come.

        Args:
            suspects: how many turns that crashed a worker before may be among them.
            later: has Redis carry out the call when there may be something, and returns its reply. None, whether or
                not it was carried out: then it is made at once, and made again harms nothing.

        Raises:
            Gone: the group does not exist.
            Unavailable: Redis cannot be reached.
        """
        self._calls = call = self._calls + 1
        args = [self.consumer, call, room, count, suspects, *self._take_args]
        reply = await later(self._store.calling(_TAKE, self._take_keys, args)) if later else None
        if reply is None:
            reply = await self._store.run(_TAKE, self._take_keys, args)
        if reply[0] == b"nogroup":
            raise Gone(self.group.name)
        _, now_ms, read, next_due_ms, turns, cursor, held, more = reply
        grants = [self._grant(turn, now_ms) for turn in turns]
        self._seen = max(self._seen, call)
        return Taken(grants, read, next_due_ms, cursor.decode(), now_ms, held, bool(more))

    def _grant(self, reply: list[Any], now_ms: int) -> Grant:
        key, token, kept, meter_ms = reply[:_ENTRIES]
        recall = self._handler.recall
        first = _ENTRIES + len(recall)
        starts = reply[first + 1 :: _ENTRY]
        progress, superseded = read_progress(kept.decode())
        messages = list(map(_message, reply[first::_ENTRY], reply[first + 3 :: _ENTRY], reply[first + 4 :: _ENTRY]))
        turn = Turn(
            group=self.group.name,
            key=key.decode(),
            messages=messages,
            attempt=starts[0],
            state=dict(zip(recall, reply[_ENTRIES:first], strict=True)),
            progress=progress,
            superseded=superseded,
            now_ms=now_ms,
            meter_ms=meter_ms,
            shard=self._store.keys.shard if self._store.keys.shards > 1 else None,
        )
        return Grant(turn, token.decode(), starts, suspect=reply[first + 2] >= self._suspect_after)

    async def furthest_ms(self) -> int:
        """When the last entry came that any other group of our stream has read; 0: there is none, or nobody can say."""
        try:
            found = await self._store.pipeline([("GET", cursor) for cursor in self._others]) if self._others else []
        except Unavailable:
            return 0
        return max((int(cursor.partition(b"-")[0]) for cursor in found if isinstance(cursor, bytes)), default=0)

    async def settle(self, endings: Sequence[Ending]) -> list[tuple[bool, int] | Impossible | Changed]:
        """
        End turns; see `MAX_TURNS`, `MAX_IDS`, `MAX_BYTES` for how many at once.

        Returns:
            for each, whether it was still ours to end, and the milliseconds until its key is due again (-1: it is not);
            or why nothing was done, though it is.
        """
        counts = [count for ending in endings for count in ending.counts]
        more = [(i, msgspec.Raw(ending.more)) for i, ending in enumerate(endings, 1) if ending.more]
        args = [*self._settle_args, _pack((counts, more)), b"".join([ending.told for ending in endings])]
        for ending in endings:
            args += ending.args
        declared = dict.fromkeys([key for ending in endings for key in ending.keys])
        reply = await self._store.run(_SETTLE, [*self._settle_keys, *declared], args)
        return [
            _REFUSED[done]() if done in _REFUSED else (done == 1, due)
            for done, due in zip(reply[::2], reply[1::2], strict=True)
        ]

    async def beat(self, held: Sequence[str]) -> Beaten:
        """Say that we live, and which leases we hold."""
        args = {
            "consumer": self.consumer, "seen": self._seen, "held": held, "ttl_ms": HEARTBEAT_MS, "box": self._box,
            "supersede": self._supersedes,
        }  # fmt: skip
        # Impatient: a beat into a dead connection has to be repeated over another one while the heartbeat still lives.
        lost, next_due_ms, newer, erased = await self._store.run(
            _BEAT,
            [*self._some("leases", "due", "attempts", "hints", "consumers"), self._heartbeat, self._erased],
            [_pack(args)],
            silence=BEAT_SILENCE,
        )
        return Beaten({token.decode() for token in lost}, [token.decode() for token in newer], next_due_ms, erased)

    async def ahead(self, grant: Grant, output: Output) -> None:
        """
        Append an entry before its turn ends, if it is still ours.  Raises Unavailable, and what `endings.entry` raises.
        """
        stream, key, type, body, trace = entry(self._store.keys, self.group, grant.turn, output)
        told = fields(key, type, body, trace)
        await self._store.run(_AHEAD, [self._keys["leases"], stream], [grant.turn.key, grant.token, *told])

    async def wake(self) -> None:
        """Ring for the group's other consumers, who then see what is due.  Raises Unavailable."""
        bell = self._store.keys.of("bell", self.group.name)
        await self._store.pipeline(
            [("XADD", bell, "MAXLEN", "~", 1000, "*", "from", self.consumer), ("EXPIRE", bell, 3600)]
        )

    async def leave(self, *, crashed: bool = False) -> None:
        """
        Deregister: whatever is still ours becomes due for the others at once.

        Args:
            crashed: it counts as in work at a crash; else it counts no attempt.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        if crashed:
            await self._store.command("DEL", self._heartbeat)  # else it would be taken for alive
        await self._watch.sweep(Consumer(self.group.name, self.consumer), leaving=not crashed)

    def _prefix(self, kind: str) -> str:
        """What precedes the person in the names of this kind's keys."""
        return self._store.keys.state(kind, self.group.name, "")

    def _some(self, *kinds: str, first: str | None = None) -> list[str]:
        return [*([first] if first else []), *(self._keys[kind] for kind in kinds)]


_ENTRIES, _ENTRY = 4, 5
"""What stands before the state and the entries of a turn, and how much an entry has, as take.lua answers."""

_REFUSED: dict[int, type[Impossible | Changed]] = {2: Impossible, 3: Changed}


def _host() -> str:
    """A name for this machine that holds no dot, which separates the parts of a token."""
    return "".join(c if c.isalnum() or c == "-" else "-" for c in socket.gethostname())[:40]


def _message(id: bytes, count: bytes, flat: list[bytes]) -> Message:
    pairs = iter(flat)
    fields = dict(zip(pairs, pairs, strict=True))
    return Message(
        id=id.decode(),
        type=_text(fields, b"type"),
        body=fields.get(b"body", b""),
        version=_text(fields, b"v") or wire.VERSION,
        trace=_text(fields, b"trace"),
        replayed=b"replayed" in fields,
        door=_text(fields, b"door") or None,
        origin=_text(fields, b"origin") or None,
        count=int(count) if count else None,
    )


def _text(fields: dict[bytes, bytes], name: bytes) -> str:
    return fields.get(name, b"").decode("utf-8", "replace")
