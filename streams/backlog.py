"""
How far behind is too far: entries counted without moving them, and which streams take no more.

Knows lengths and positions; what becomes of a full stream is retention.py's business, and the ingress's.
"""

from __future__ import annotations

from typing import Any

from streams.connection import Store, script
from streams.groups import registered
from streams.topology import Topology

SLICE = 5_000
"""Entries that one call steps over: some milliseconds of Redis's time."""

_WALK = script(__file__, "walk.lua")


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


async def behind(store: Store, stream: str, group: str, most: int) -> tuple[int, int, str]:
    """
    What a group has not settled.

    Args:
        most: entries are counted up to here where Redis does not know (before version 7, after deletions).

    Returns:
        entries taken and not settled, entries not read, and the cursor ("-" where it has read none).

    Raises:
        Unavailable: Redis cannot be reached.
    """
    key = store.keys.stream(stream)
    commands = [("GET", store.keys.group("cursor", group)), ("XPENDING", key, group), ("XINFO", "GROUPS", key)]
    cursor, pending, groups = await store.pipeline(commands)
    after = cursor.decode() if isinstance(cursor, bytes) else "-"
    unread = _lag(groups, group)
    if unread is None:
        unread, _ = await walk(store, stream, after, most)
    return int(pending[0]) if isinstance(pending, list) else 0, unread, after


def _lag(reply: Any, group: str) -> int | None:
    """What Redis says is unread of this group, where it knows."""
    for row in reply if isinstance(reply, list) else []:
        told = dict(zip(row[::2], row[1::2], strict=False))
        if told.get(b"name") == group.encode():
            lag = told.get(b"lag")
            return lag if isinstance(lag, int) else None
    return None


async def full(store: Store, topology: Topology) -> dict[str, str]:
    """
    Each stream that had better take nothing now, and why.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    lengths = dict(zip(topology.streams, await store.pipeline(
        [("XLEN", store.keys.stream(name)) for name in topology.streams]), strict=True))  # fmt: skip
    lengths = {name: length for name, length in lengths.items() if isinstance(length, int)}
    found = {}
    at_cap = [name for name, length in lengths.items() if length >= topology.streams[name].max_len]
    groups = await registered(store, topology) if at_cap else {}
    for name in at_cap:
        # What nobody reads forgets its oldest as it is appended to.
        if topology.readers(name) or any(group.reads == name for group in groups.values()):
            found[name] = f"the stream {name} is at its max_len ({topology.streams[name].max_len:,} entries)"
    for name, group in topology.groups.items():
        limit = group.max_backlog
        if limit is None or group.when_full == "skip" or lengths.get(group.reads, 0) < limit:
            continue
        taken, unread, _ = await behind(store, group.reads, name, limit)
        if taken + unread >= limit:
            why = f"group {name} has {taken + unread:,} to settle (max_backlog {limit:,})"
            found.setdefault(group.reads, why)
    return found
