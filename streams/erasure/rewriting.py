"""
A stream written anew, so that of what was deleted no byte is left.

XDEL only marks an entry.  Its bytes stay in memory, and so in every dump and append-only file, until all that lies
beside it has gone too, which may be weeks.  So the entries that are left are carried over to a new stream, slice by
slice, and this takes the old one's place, groups and all, in one act (swap.lua).  Whoever reads or appends meanwhile
notices nothing.  For a moment Redis holds the stream twice.
"""

from __future__ import annotations

import secrets

from redis.exceptions import ResponseError

from streams import memory
from streams.connection import Store
from streams.errors import CauceError
from streams.scripts import script

_COPY = script(__file__, "copy.lua")
_SWAP = script(__file__, "swap.lua")

SLICE = 200
"""Entries that one call carries over: less than a millisecond of Redis's time."""

LIVES_MS = 600_000
"""How long what was begun lies there, should nobody go on."""

TRIES = 10
"""So often somebody may delete something meanwhile."""


class NotRewritten(CauceError):
    """The stream is as it was, and as good; only what was deleted from it is still in its memory."""


async def write_anew(store: Store, key: str) -> int | None:
    """
    Args:
        key: of a stream.

    Returns:
        how many entries it has; None where there is no such stream.

    Raises:
        NotRewritten: Redis has no room for it twice, or somebody deletes from it all the time.
        Unavailable: Redis cannot be reached.
    """
    if not await store.command("EXISTS", key):
        return None
    await _see_that_there_is_room(store, key)
    anew = store.keys.of("anew", secrets.token_hex(8))
    try:
        for _ in range(TRIES):
            while await store.run(_COPY, [key, anew], [SLICE, LIVES_MS]) == SLICE:
                pass
            word = await store.run(_SWAP, [key, anew], [SLICE])
            if word == b"done":
                return int(await store.command("XLEN", key))
            if word == b"changed":
                await store.command("UNLINK", anew)
    except ResponseError as error:
        raise NotRewritten(f"Redis refuses it: {error}") from error
    finally:
        await store.command("UNLINK", anew)
    raise NotRewritten("somebody deletes from it all the time")


async def _see_that_there_is_room(store: Store, key: str) -> None:
    seen = await memory.look(store)
    [size] = await store.pipeline([("MEMORY", "USAGE", key)])
    if seen.limit and isinstance(size, int) and seen.used + size > memory.SHED * seen.limit:
        raise NotRewritten("Redis has no room to hold it twice for a moment (`maxmemory`)")
