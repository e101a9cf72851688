"""
How far behind is too far: which streams had better take no more.

What becomes of a full stream is retention.py's business, and the ingress's.
"""

from __future__ import annotations

from streams.connection import Store
from streams.groups import registered
from streams.lag import behind
from streams.topology import Topology

DOUBTED = 100_000
"""A limit up to which Redis's word is not enough: to step over so many entries is a third of a second of its time."""


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
        doubted = limit if limit <= DOUBTED else None
        taken, unread, _ = await behind(store, group.reads, name, limit, limit=doubted)
        if taken + unread >= limit:
            why = f"group {name} has {taken + unread:,} to settle (max_backlog {limit:,})"
            found.setdefault(group.reads, why)
    return found
