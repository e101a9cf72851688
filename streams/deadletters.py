"""
Dead letters: found, put back, dropped.

Knows how a burial lies in `<stream>.dead` (settle.lua and take.lua write it so): six fields that say what happened,
then the entry's own, untouched.  Knows no terminal, and decides nothing about who is to be buried.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import msgspec

from streams.connection import Store
from streams.scripts import script
from streams.sieve import INBOUND

_REDRIVE = script(__file__, "redrive.lua")

HEADER = ("origin", "group", "reason", "attempts", "first_ms", "last_ms")
"""In this order before the entry's own fields, which may have the same names."""

ANSWER_MS = 3_600_000
"""How long a call of redrive is remembered, so that its repeat is told what it did."""

ACT_MS = 1000
"""Within which the letters of one burial have their ids: Redis 6.2 looks at its clock for each."""

PAGE = 200
MOST = 100
"""Letters that one call puts back or drops."""

_pack = msgspec.msgpack.Encoder().encode

Outcome = Literal["done", "gone", "full", "nobody", "foreign"]
"""
What became of a letter: done, or left as it was.

gone: it is not there (any more); full: its stream is at max_len; nobody: no such group reads its stream; foreign: it
has not the form of what we bury.
"""


class Letter(msgspec.Struct, frozen=True, kw_only=True):
    """One dead letter."""

    stream: str
    """The stream it died on, without `.dead`."""
    id: str
    """In the dead letters: when it was buried, and what commands name it by."""
    entry: str = ""
    """The entry that died."""
    group: str = ""
    reason: str = ""
    attempts: str = ""
    first_ms: str = ""
    last_ms: str = ""
    fields: list[tuple[bytes, bytes]] = []
    """The entry's own, as they came."""

    def field(self, name: bytes) -> bytes:
        """The last of this name; empty where there is none."""
        return dict(self.fields).get(name, b"")

    @property
    def person(self) -> str:
        return self.field(b"key").decode(errors="replace")

    @property
    def turn(self) -> tuple[str, str, str, str]:
        """What all letters of one turn have in common, for they were buried in one act."""
        return self.group, self.person, self.last_ms, self.reason

    @property
    def origin(self) -> str:
        """The entry as which it first came; `entry`, unless it was put back before."""
        return self.field(b"origin").decode(errors="replace") or self.entry


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which letters are meant; what is None or empty is not asked."""

    group: str | None = None
    reason: str | None = None
    """Part of the reason, in whatever case."""
    person: str | None = None
    first: str = "-"
    last: str = "+"
    """From which id to which, both included; a bare number of milliseconds is one too."""

    def __contains__(self, letter: Letter) -> bool:
        return (
            self.group in (None, letter.group)
            and self.person in (None, letter.person)
            and (self.reason or "").casefold() in letter.reason.casefold()
        )


class Redriven(msgspec.Struct, frozen=True):
    """What became of one letter."""

    outcome: Outcome
    detail: str = ""
    """done: the new entry's id; nobody: the group's name."""


async def letters(store: Store, stream: str, wanted: Wanted, *, newest_first: bool = False) -> AsyncIterator[Letter]:
    """
    The letters of a stream that are wanted, read page by page, oldest first unless asked otherwise.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    first, last, key = wanted.first, wanted.last, store.keys.dead(stream)
    while True:
        ends = ("XREVRANGE", key, last, first) if newest_first else ("XRANGE", key, first, last)
        rows = await store.command(*ends, "COUNT", PAGE)
        for id, flat in rows:
            letter = _letter(stream, id, flat)
            if letter in wanted:
                yield letter
        if len(rows) < PAGE:
            return
        bound = f"({rows[-1][0].decode()}"
        first, last = (first, bound) if newest_first else (bound, last)


async def find(store: Store, streams: Sequence[str], id: str) -> list[Letter]:
    """The letters of this id: none, one, or (in several streams) more.  Raises Unavailable."""
    rows = await store.pipeline([("XRANGE", store.keys.dead(stream), id, id) for stream in streams])
    return [
        _letter(stream, *found)
        for stream, reply in zip(streams, rows, strict=True)
        if isinstance(reply, list)
        for found in reply
    ]


async def beside(store: Store, letter: Letter) -> list[Letter]:
    """
    All that was buried in one act with this one, the turn that it was of, oldest first.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    around = int(letter.id.partition("-")[0])
    wanted = Wanted(group=letter.group, person=letter.person, first=str(around - ACT_MS), last=str(around + ACT_MS))
    return [each async for each in letters(store, letter.stream, wanted) if each.turn == letter.turn]


async def returned(store: Store, streams: Sequence[str], id: str) -> list[tuple[str, str]]:
    """As what a letter that is gone came back: stream and entry.  Raises Unavailable."""
    names = [store.keys.of("redriven", f"{stream}.dead:{id}") for stream in streams]
    rows = await store.pipeline([("LRANGE", name, 0, -1) for name in names])
    return [
        (stream, entry.decode())
        for stream, reply in zip(streams, rows, strict=True)
        if isinstance(reply, list)
        for entry in reply
    ]


async def redrive(
    store: Store, stream: str, turns: Sequence[Sequence[str]], *, max_len: int, told_seconds: float = 0
) -> list[Redriven]:
    """
    Put letters back onto their stream, each at most once, whoever else does the same and however often.

    Only the group that buried a letter sees it again.  It comes after all that is on the stream by now, and what is
    put back by one call is there at once: a person's letters are one turn again.

    Args:
        turns: ids of dead letters, those that were one turn together; about `MOST` in all.
        max_len: of the stream; no turn is put back that goes beyond it.
        told_seconds: how long it is remembered, for the timeline, as what each came back; 0: not at all.

    Returns:
        what became of each, in their order.

    Raises:
        Unavailable: Redis cannot be reached or is full; at full nothing was done.
    """
    keys = store.keys
    told = {
        "redriven": keys.of("redriven", stream) + ":",
        "letters": keys.of("redriven", f"{stream}.dead") + ":",
        "told_ms": int(told_seconds * 1000),
        "index": keys.of("index") + ":" if stream == INBOUND else "",
    }
    reply = await store.run(
        _REDRIVE,
        [
            keys.dead(stream),
            keys.stream(stream),
            keys.of("groups"),
            keys.of("redrive", secrets.token_hex(8)),
            keys.of("erased"),
            keys.of("digest"),
        ],
        [_pack({"name": stream, "max_len": max_len, "keep_ms": ANSWER_MS, "turns": turns, **told})],
    )
    return [Redriven(row[0].decode(), row[1].decode(errors="replace") if len(row) > 1 else "") for row in reply]


async def drop(store: Store, stream: str, ids: Sequence[str]) -> list[bool]:
    """Forget letters for good; whether each was still there.  Raises Unavailable."""
    return [gone == 1 for gone in await store.pipeline([("XDEL", store.keys.dead(stream), id) for id in ids])]


def _letter(stream: str, id: bytes, flat: list[Any]) -> Letter:
    pairs = list(zip(flat[::2], flat[1::2], strict=True))
    if [name for name, _ in pairs[: len(HEADER)]] != [name.encode() for name in HEADER]:
        return Letter(stream=stream, id=id.decode(), fields=pairs)
    entry, group, reason, attempts, first_ms, last_ms = (
        value.decode(errors="replace") for _, value in pairs[: len(HEADER)]
    )
    return Letter(
        stream=stream,
        id=id.decode(),
        entry=entry,
        group=group,
        reason=reason,
        attempts=attempts,
        first_ms=first_ms,
        last_ms=last_ms,
        fields=pairs[len(HEADER) :],
    )
