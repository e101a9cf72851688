"""
How a turn ends, in the form that settle.lua reads.

Encoded where the turn is handled, so that effects which cannot be encoded fail their own turn and no other.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from streams import journal, tallies, wire
from streams.buckets import Calendar
from streams.effects import Effects, Output, Turn, Write
from streams.errors import CauceError
from streams.fate import Join, Park
from streams.keys import Keys, shard_of
from streams.tables import Group

_pack = msgspec.msgpack.Encoder().encode

_UTC = Calendar()
_TIMES = "\x1f"
"""What stands between a handler's progress and how often its turn was superseded."""


class NotAllowed(CauceError):
    """A handler returned effects that its group may not have."""


class Ending(msgspec.Struct, frozen=True):
    """One turn's end, encoded."""

    packed: bytes
    """msgpack, as settle.lua documents it."""
    blobs: list[bytes]
    """What it points to by number: values and bodies, which travel as they are."""
    keys: list[str]
    """Every key that the effects touch."""
    ids: int
    """How many entries it ends."""
    size: int
    """Bytes of all that."""
    instead: Callable[[], Ending] | None = None
    """The end to take where the key of `unless` is there."""
    told: bytes = b""
    """What the journal is to keep of it."""


def keep_progress(progress: str, superseded: int) -> str:
    """A turn's progress as Redis keeps it, with how often the turn was superseded."""
    return f"{progress}{_TIMES}{superseded}" if superseded or _TIMES in progress else progress


def read_progress(kept: str) -> tuple[str, int]:
    """What `keep_progress` was given."""
    progress, found, superseded = kept.rpartition(_TIMES)
    return (progress, int(superseded)) if found else (kept, 0)


def ending(
    keys: Keys,
    group: Group,
    turn: Turn,
    token: str,
    ids: list[str],
    *,
    effects: Effects | None = None,
    bury: str | None = None,
    park: Park | Join | None = None,
    uncounted: bool = False,
    journaled: bool = False,
    calendar: Calendar = _UTC,
) -> Ending:
    """
    Args:
        ids: the entries that are done with; those of the turn that are left out stay in the box.
        bury: a reason; the entries go to the dead letters as well.
        park: when what is left becomes due; None: at the end of its window.
        uncounted: this start is taken back; a park says so itself.
        journaled: it is told in the group's journal as well.
        calendar: in whose days it is counted.

    Raises:
        NotAllowed: an output to a stream that the group's `writes` does not name, or for a key of another shard.
        TypeError, KeyError: effects that cannot be encoded.
    """
    touched, blobs, told = list[str](), list[bytes](), b""
    instead: Callable[[], Ending] | None = None
    plain: dict[str, Any] = {"key": turn.key, "token": token, "ids": ids} | _given_back(turn, park)
    if bury is not None:
        plain["bury"] = bury
    if effects is not None:
        plain["effects"] = _effects(keys, group, turn, effects, calendar, touched, blobs)
        if effects.unless and effects.instead:
            plain["unless"] = keys.state(effects.unless, group.name, turn.key)
            touched.append(plain["unless"])
            more: dict[str, Any] = {"bury": bury, "uncounted": uncounted, "journaled": journaled, "calendar": calendar}
            instead = partial(_instead, effects.instead, keys, group, turn, token, ids, **more)
    if uncounted := uncounted or (park is not None and not park.counted):
        plain["uncount"] = [message.id for message in turn.messages]
    if journaled:
        plain["told"] = len(told := journal.told(turn, ids, bury=bury, park=park, uncounted=uncounted))
    packed = _pack(plain)
    return Ending(packed, blobs, touched, len(ids), len(packed) + len(told) + sum(map(len, blobs)), instead, told)


def _instead(
    made: Callable[[], Effects], keys: Keys, group: Group, turn: Turn, token: str, ids: list[str], **more: Any
) -> Ending:
    turn.note("changed")
    return ending(keys, group, turn, token, ids, effects=made(), **more)


def _given_back(turn: Turn, park: Park | Join | None) -> dict[str, Any]:
    if park is None:
        return {}
    if isinstance(park, Join):
        return {"superseded": True, "progress": keep_progress(turn.progress, turn.superseded + 1)}
    kept = {} if park.progress is None else {"progress": keep_progress(park.progress, turn.superseded)}
    return {"delay_ms": park.delay_ms, "at_door": park.at_door, **kept}


_BODY = 5
"""Where the body stands among an entry's fields."""


def entry(keys: Keys, group: Group, turn: Turn, output: Output) -> tuple[str, bytes, list[Any]]:
    """
    An output as an entry: the stream's key, the body, and all fields, the body among them.

    Raises:
        NotAllowed: to a stream that the group's `writes` does not name, or for a key of another shard.
        TypeError: it cannot be encoded.
    """
    if output.stream not in group.writes:
        raise NotAllowed(f"group {group.name} returned an output to {output.stream!r}, which its `writes` lacks")
    if output.key and shard_of(output.key, keys.shards) != keys.shard:
        raise NotAllowed(f"group {group.name} returned an output for a key that lies in another shard")
    key = output.key or turn.key
    if not (isinstance(key, str) and isinstance(output.type, str)):
        raise TypeError(f"an output to {output.stream!r} has a key or type that is no text")
    body = wire.encode(output.body)
    fields = ["key", key, "type", output.type, "body", body, "v", wire.VERSION, "trace", turn.messages[-1].trace]
    return keys.stream(output.stream), body, [*fields, "replayed", "1"] if turn.replayed else fields


def _effects(
    keys: Keys, group: Group, turn: Turn, effects: Effects, calendar: Calendar, touched: list[str], blobs: list[bytes]
) -> dict[str, Any]:
    outputs = []
    for output in effects.outputs:
        stream, body, fields = entry(keys, group, turn, output)
        blobs.append(body)
        fields[_BODY] = len(blobs)
        outputs.append([stream, output.answers, fields])
    writes = [_write(keys, group, turn, write, blobs) for write in effects.writes]
    touched += [write[0] for write in writes] + [output[0] for output in outputs]
    encoded: dict[str, Any] = {"writes": writes, "outputs": outputs}
    encoded |= tallies.encoded(keys, group, turn, effects.tallies, calendar, touched)
    if effects.answer:
        encoded["answer"] = {"status": str(effects.answer.status), "body": wire.encode(effects.answer.body).decode()}
    return encoded


def _write(keys: Keys, group: Group, turn: Turn, write: Write, blobs: list[bytes]) -> list[Any]:
    if write.value is not None:
        blobs.append(bytes(write.value))
    value = False if write.value is None else len(blobs)
    return [keys.state(write.kind, group.name, turn.key), value, int(write.ttl_seconds * 1000)]
