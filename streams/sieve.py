"""
Entries of a stream in which a text stands, found inside Redis, slice by slice.

A stream has no index: what cannot be found by an id has to be looked for, and a million entries are looked at sooner
than sent.  Each call is short, so that nobody else waits for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec

from streams.connection import Store, entries
from streams.scripts import script

SLICE = 2_000
"""Entries that are asked for as they are, at once."""

PIECE, BYTES = 500, 1 << 18
"""Entries, and bytes of values, that one call looks at: two milliseconds of Redis's time, in which all others wait."""

NEAR = 20_000
"""Entries that are looked through for what should stand near."""

INBOUND, STATUSES = "inbound", "statuses"
"""The streams that every streams.toml has, or may have."""

_SIFT = script(__file__, "sift.lua")
_pack = msgspec.msgpack.Encoder().encode


class Sifted(msgspec.Struct, frozen=True):
    """One slice."""

    found: list[Any]
    """As Redis sends a range: `connection.entries` reads them, but for fields that stand there more than once."""
    looked: int
    last: str
    """The id of the last one that was looked at; empty for none."""
    more: bool


async def sift(
    store: Store,
    key: str,
    texts: Sequence[str],
    *,
    first: str = "-",
    last: str = "+",
    field: str = "",
    back: bool = False,
    enough: int = 100,
    most: int | None = None,
) -> AsyncIterator[Sifted]:
    """
    Look through a stream, a piece at a time, for entries that hold one of these texts.

    Args:
        first, last: ids or milliseconds, both included.
        field: the only one that is looked at; empty for all.
        back: the newest first.
        enough: so many found in one slice end it early.
        most: entries that are looked at in all; None: as many as there are.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    at, to, looked = (last, first, 0) if back else (first, last, 0)
    while most is None or looked < most:
        asked = PIECE if most is None else min(PIECE, most - looked)
        told: dict[str, Any] = {"from": at, "to": to, "back": back, "most": asked, "enough": enough, "field": field}
        reply = await store.run(_SIFT, [key], [_pack({**told, "texts": list(texts), "bytes": BYTES})])
        slice = Sifted(reply[3], reply[0], reply[1].decode(), bool(reply[2]))
        looked += slice.looked
        yield slice
        if not slice.more:
            return
        at = f"({slice.last}"


async def entry(store: Store, stream: str, id: str) -> dict[str, bytes] | None:
    """The fields of an entry; None where it is not there (any more).  Raises Unavailable."""
    rows = entries(await store.command("XRANGE", store.keys.stream(stream), id, id))
    return rows[0][1] if rows else None


def text(fields: dict[str, bytes], name: str) -> str:
    """A field of an entry; empty where it has none."""
    return fields.get(name, b"").decode(errors="replace")


def body(fields: dict[str, bytes]) -> dict[str, Any]:
    """The body of an entry in plain values; empty where it is none of ours."""
    try:
        found = msgspec.json.decode(fields.get("body", b""))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
