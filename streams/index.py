"""
Where an entry of `inbound` is, by its person, its id or its trace, without looking through the stream.

Whoever appends there lists the entry (index.lua), in a line of its id and a keyed hash of each name: what is not listed
since the index begins is not there.  Eight digits may be those of another name: what is found has to be looked at.
"""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from streams import marks, wire
from streams.connection import Entry, Store, entries, order
from streams.scripts import script
from streams.sieve import INBOUND
from streams.topology import Topology

ASKEW_MS = 60_000
"""By so much an ingress's clock may differ from Redis's, and a message may have waited for Redis; as in index.lua."""

SPAN_MS, KEPT = 1 << 20, 660
"""Of a part, and how many parts back are kept: eight days; as in index.lua."""

PIECE = 1 << 19
"""Bytes that one call reads: a tenth of a millisecond of Redis's time."""

SLICE = 500
"""Entries that are asked for at once."""

LONGEST = 60
"""Bytes in which an entry's id ends."""

_UNLIST = script(__file__, "unlist.lua")


class _Part(NamedTuple):
    """The lines of a span of time."""

    number: int
    key: str
    length: int
    """Bytes."""


class Index:
    """
    What is listed of one shard, as it was when it was opened.

    Args:
        since: the id from which on every entry is listed; empty where none is.
        parts: those that there are, the newest first.
    """

    def __init__(self, store: Store, digest: bytes, since: str, parts: list[_Part]) -> None:
        self._store, self._digest, self.since, self._parts = store, digest, since, parts
        self._ids: dict[tuple[_Part, str], list[str]] = {}

    @classmethod
    async def open(cls, store: Store, topology: Topology) -> Index:
        """Raises Unavailable."""
        stream = store.keys.stream(INBOUND)
        digest, *ends = await store.pipeline([
            ("GET", store.keys.of("digest")), ("XRANGE", stream, "-", "+", "COUNT", 1),
            ("XREVRANGE", stream, "+", "-", "COUNT", 1),
        ])  # fmt: skip
        # What a group writes there nobody lists.
        listed = not any(INBOUND in group.writes for group in topology.groups.values())
        if listed and isinstance(digest, bytes) and all(isinstance(end, list) and end for end in ends):
            first, last = (order(end[0][0].decode())[0] // SPAN_MS for end in ends)
            if parts := await _parts(store, max(first, last - KEPT), last):
                begins = await store.command("GETRANGE", parts[-1].key, 0, LONGEST)
                return cls(store, digest, begins.partition(b" ")[0].decode(), parts)
        return cls(store, b"", "", [])

    async def rows(self, name: str, since_ms: int = 0) -> AsyncIterator[Entry]:
        """
        Entries that may be listed under a name, the newest first.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        stream = self._store.keys.stream(INBOUND)
        for part in self._parts:
            if part.number < since_ms // SPAN_MS:
                return
            if (ids := self._ids.get((part, name))) is None:
                ids = [id async for _, id, _ in _lines(self._store, part, _mark(self._digest, name))]
                self._ids[part, name] = ids
            asked = [("XRANGE", stream, id, id) for id in reversed(ids) if order(id)[0] >= since_ms]
            for start in range(0, len(asked), SLICE):
                for reply in await self._store.pipeline(asked[start : start + SLICE]):
                    for row in entries(reply if isinstance(reply, list) else []):
                        yield row


def line(digest: bytes, person: str, message_id: str, trace: str, now_ms: int) -> str:
    """What is said behind an entry's id, as index.lua does; `now_ms`: by our clock, where that differs little."""
    names, near = [person], ASKEW_MS // 2
    if abs(wire.trace_ms(trace[3:35]) - now_ms) > near:
        names.append(trace[3:35])
    if (made := marks.made_ms(message_id)) is None or abs(made - now_ms) > near:
        names.append(message_id)
    return b"".join([_mark(digest, name) for name in names]).decode()


async def forget(store: Store, name: str) -> None:
    """
    Blank the lines of what was listed under a name and has gone from the stream.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    stream = store.keys.stream(INBOUND)
    digest, (seconds, _) = await store.pipeline([("GET", store.keys.of("digest")), ("TIME",)])
    now = int(seconds) * 1000 // SPAN_MS
    for part in await _parts(store, now - KEPT, now + 1) if digest else []:
        lines = [line async for line in _lines(store, part, _mark(digest, name))]
        for start in range(0, len(lines), SLICE):
            some = lines[start : start + SLICE]
            there = await store.pipeline([("XRANGE", stream, id, id) for _, id, _ in some])
            gone = [line for line, reply in zip(some, there, strict=True) if reply == []]
            args = [arg for at, id, hashes in gone for arg in (at + len(id), hashes)]
            await store.run(_UNLIST, [part.key], args)


async def _parts(store: Store, first: int, last: int) -> list[_Part]:
    """Those that there are, the newest first."""
    keys = {number: store.keys.of("index", str(number)) for number in range(last, first - 1, -1)}
    lengths = await store.pipeline([("STRLEN", key) for key in keys.values()])
    found = zip(keys.items(), lengths, strict=True)
    return [_Part(number, key, length) for (number, key), length in found if isinstance(length, int) and length]


async def _lines(store: Store, part: _Part, mark: bytes) -> AsyncIterator[tuple[int, str, bytes]]:
    """Of each line with a mark where it begins, its id, and what stands behind that."""
    at, rest = 0, b""
    for start in range(0, part.length, PIECE):
        text = rest + await store.command("GETRANGE", part.key, start, min(start + PIECE, part.length) - 1)
        whole = text.rfind(b"\n") + 1
        for begin, line in _with(mark, text[:whole]):
            id, space, hashes = line.partition(b" ")
            yield at + begin, id.decode(), space + hashes
        at, rest = at + whole, text[whole:]


def _with(mark: bytes, text: bytes) -> Iterator[tuple[int, bytes]]:
    """The lines in which it stands, and where they begin."""
    end = 0
    while (found := text.find(mark, end)) >= 0:
        begin, end = text.rfind(b"\n", 0, found) + 1, text.index(b"\n", found)
        yield begin, text[begin:end]


def _mark(digest: bytes, name: str) -> bytes:
    """How a name stands in a line, as index.lua has it."""
    return b" " + hashlib.sha1(digest + name.encode(errors="replace")).hexdigest()[:8].encode()  # noqa: S324 - as Lua's
