"""
How far behind a group is: entries counted without moving them.

Redis's own `lag` where it has one; it is null after deletions and does not exist before Redis 7, and then they are
stepped over inside Redis.  After a restart it is too high until it is mended, so where much hangs on it Redis is not
believed.  What is too far is for backlog.py to say, and what becomes of it for retention.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streams.connection import Store
from streams.scripts import script

SLICE = 5_000
"""Entries that one call steps over: some milliseconds of Redis's time."""

_WALK = script(__file__, "walk.lua")
_MEND = script(__file__, "mend.lua")


async def walk(store: Store, stream: str, after: str, most: int) -> tuple[int, str]:
    """
    Step over entries of a stream.

    Args:
        after: the id to start behind; "-" for the start.

    Returns:
        how many steps there were, `most` at the most, and the id of the last entry stepped on ("" for none).

    Raises:
        Unavailable: Redis cannot be reached.
    """
    steps, last = 0, ""
    while steps < most:
        asked = min(SLICE, most - steps)
        made, id = await store.run(_WALK, [store.keys.stream(stream)], [last or after, asked])
        if made:
            steps, last = steps + made, id.decode()
        if made < asked:
            break
    return steps, last


async def mend(store: Store, stream: str, groups: Sequence[str]) -> int:
    """
    Have Redis count anew what these groups have read, where that is all there is; how many it had counted otherwise.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    return int(await store.run(_MEND, [store.keys.stream(stream)], groups))


async def behind(store: Store, stream: str, group: str, most: int, *, limit: int | None) -> tuple[int, int, str]:
    """
    What a group has not settled.

    Args:
        most: entries are counted up to here where Redis does not know.
        limit: from so many on it matters, and Redis is not believed; None: it is, whatever it says.

    Returns:
        entries taken and not settled, entries not read, and the cursor ("-" where it has read none).

    Raises:
        Unavailable: Redis cannot be reached.
    """
    key = store.keys.stream(stream)
    commands = [("GET", store.keys.group("cursor", group)), ("XPENDING", key, group), ("XINFO", "GROUPS", key)]
    cursor, pending, groups = await store.pipeline(commands)
    after = cursor.decode() if isinstance(cursor, bytes) else "-"
    taken, unread = int(pending[0]) if isinstance(pending, list) else 0, told(groups, group)
    if unread is None or (limit is not None and taken + unread >= limit):
        unread, _ = await walk(store, stream, after, most)
    return taken, unread, after


def told(reply: Any, group: str) -> int | None:
    """What Redis says, in its answer to XINFO GROUPS, is unread of this group; None where it does not know."""
    for row in reply if isinstance(reply, list) else []:
        fields = dict(zip(row[::2], row[1::2], strict=False))
        if fields.get(b"name") == group.encode():
            lag = fields.get(b"lag")
            return lag if isinstance(lag, int) else None
    return None
