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
from streams.effects import Effects, Output, Turn
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
    """One turn's end, as settle.lua documents it."""

    args: list[bytes | str]
    """Its key, token and ids, its writes, outputs and answer."""
    counts: tuple[int, int, int, int, int]
    """How many ids, writes, outputs and answers are among them, and the bytes of `told`."""
    keys: list[str]
    """Every key that the effects touch."""
    more: bytes = b""
    """msgpack of what few turns have; empty for most."""
    told: bytes = b""
    """What the journal is to keep of it."""
    instead: Callable[[], Ending] | None = None
    """The end to take where the key of `unless` is there."""

    @property
    def size(self) -> int:
        """Bytes of all that."""
        return sum(map(len, self.args)) + len(self.more) + len(self.told)


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
    blame: str = "",
    park: Park | Join | None = None,
    uncounted: bool = False,
    journaled: bool = False,
    calendar: Calendar = _UTC,
) -> Ending:
    """
    Args:
        ids: the entries that are done with; those of the turn that are left out stay in the box.
        bury: a reason, and `blame` instead of it for the journal; the entries go to the dead letters as well.
        park: when what is left becomes due; None: at the end of its window.
        uncounted: this start is taken back; a park says so itself.
        journaled: it is told in the group's journal as well.
        calendar: in whose days it is counted.

    Raises:
        NotAllowed: an output to a stream that the group's `writes` does not name, or for a key of another shard.
        TypeError, KeyError: effects that cannot be encoded.
    """
    touched, told, writes, outputs, answers = list[str](), b"", 0, 0, 0
    instead: Callable[[], Ending] | None = None
    args: list[bytes | str] = [turn.key, token, *ids]
    more = _given_back(turn, park) | ({} if bury is None else {"bury": bury})
    if effects is not None:
        writes, outputs, answers = len(effects.writes), len(effects.outputs), 1 if effects.answer else 0
        more |= _effects(keys, group, turn, effects, calendar, touched, args)
        if effects.unless and effects.instead:
            how: dict[str, Any] = {"bury": bury, "blame": blame, "uncounted": uncounted}
            how |= {"journaled": journaled, "calendar": calendar}
            instead = partial(_instead, effects.instead, keys, group, turn, token, ids, **how)
    if uncounted := uncounted or (park is not None and not park.counted):
        more["uncount"] = [message.id for message in turn.messages]
    if journaled:
        told = journal.told(turn, ids, bury=bury, blame=blame, park=park, uncounted=uncounted)
    counts = len(ids), writes, outputs, answers, len(told)
    return Ending(args, counts, touched, _pack(more) if more else b"", told, instead)


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


def entry(keys: Keys, group: Group, turn: Turn, output: Output) -> tuple[str, bytes, bytes, bytes, str]:
    """
    An output as an entry: the stream's key, and what settle.lua asks of one: its key, type, body and trace.

    Raises:
        NotAllowed: to a stream that the group's `writes` does not name, or for a key of another shard.
        TypeError, UnicodeEncodeError: it cannot be encoded.
    """
    if output.stream not in group.writes:
        raise NotAllowed(f"group {group.name} returned an output to {output.stream!r}, which its `writes` lacks")
    if output.key and shard_of(output.key, keys.shards) != keys.shard:
        raise NotAllowed(f"group {group.name} returned an output for a key that lies in another shard")
    key = output.key or turn.key
    if not (isinstance(key, str) and isinstance(output.type, str)):
        raise TypeError(f"an output to {output.stream!r} has a key or type that is no text")
    trace = turn.messages[-1].trace
    return keys.stream(output.stream), key.encode(), output.type.encode(), wire.encode(output.body), trace


def fields(key: bytes, type: bytes, body: bytes, trace: str) -> list[bytes | str]:
    """An entry as it is appended, of what `entry` says."""
    return ["key", key, "type", type, "body", body, "v", wire.VERSION, "trace", trace]


def _effects(
    keys: Keys,
    group: Group,
    turn: Turn,
    effects: Effects,
    calendar: Calendar,
    touched: list[str],
    args: list[bytes | str],
) -> dict[str, Any]:
    for write in effects.writes:
        touched.append(name := keys.state(write.kind, group.name, turn.key))
        ms = -1 if write.value is None else max(0, int(write.ttl_seconds * 1000))
        args += (name, str(ms), b"" if write.value is None else bytes(write.value))
    for output in effects.outputs:
        stream, key, type, body, trace = entry(keys, group, turn, output)
        touched.append(stream)
        args += (stream, "1" if output.answers else "0", key, type, body, trace)
    if effects.answer:
        args += (str(effects.answer.status), wire.encode(effects.answer.body))
    more = tallies.encoded(keys, group, turn, effects.tallies, calendar, touched)
    if effects.unless and effects.instead:
        more["unless"] = keys.state(effects.unless, group.name, turn.key)
        touched.append(more["unless"])
    if effects.outputs and turn.replayed:
        more["replayed"] = True
    return more
