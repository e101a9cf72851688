"""
How full Redis is, and whether it may throw away what it holds.

INFO is asked first: hosted servers often refuse CONFIG, and some refuse both.  What is not told is unknown, and unknown
is no reason to stop: a Redis that is full says so itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from streams import log
from streams.connection import Store, info
from streams.errors import ConfigurationError

SETTLED_GO = 0.70
"""Of `maxmemory`: from here on settled entries go before `keep` is up."""

MARKS_SHORTEN = 0.75
"""From here on a new dedupe mark lives for an hour (docs/decisions/marks.md)."""

SKIPPED_GO = 0.80
"""From here on a group that may fall behind (`when_full = "skip"`) loses its oldest entries."""

SHED = 0.85
"""From here on the ingress takes nothing more; the rest is for finishing what is there."""

REMEDY = "set maxmemory-policy to noeviction (redis.conf, or your host's console)"
UNKNOWN = f"this Redis does not tell it to this user: {REMEDY}, or let the user ask (`ACL SETUSER … +info`)"

_log = log.get("redis")


class Memory(msgspec.Struct, frozen=True):
    """What a Redis tells of its memory."""

    used: int = 0
    limit: int | None = None
    """`maxmemory` in bytes; 0: there is none; None: it does not tell."""
    policy: str | None = None
    """`maxmemory-policy`; None: it does not tell."""

    @property
    def share(self) -> float:
        """Of `maxmemory` in use; 0 where there is no limit, or we may not know."""
        return self.used / self.limit if self.limit else 0.0

    @property
    def fault(self) -> str:
        """What is wrong with its policy and where to change it; empty where nothing is known to be."""
        if self.policy in (None, "noeviction"):
            return ""
        return f"is {self.policy}, which throws messages away when memory is full; {REMEDY}"


async def look(store: Store) -> Memory:
    """
    Ask INFO, and CONFIG for what INFO does not tell.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    told = info((await store.pipeline([("INFO", "memory")]))[0])
    if "maxmemory_policy" not in told:
        names = ("maxmemory", "maxmemory-policy")
        for reply in await store.pipeline([("CONFIG", "GET", name) for name in names]):
            if isinstance(reply, list) and len(reply) == 2:
                told[reply[0].decode().replace("-", "_")] = reply[1].decode()
    limit = told.get("maxmemory", "")
    return Memory(
        used=int(told.get("used_memory", 0)),
        limit=int(limit) if limit.isdigit() else None,
        policy=told.get("maxmemory_policy"),
    )


async def refuse_eviction(stores: Iterable[Store], *, production: bool) -> None:
    """
    For every process that starts: a Redis that evicts loses messages that were accepted.

    Raises:
        ConfigurationError: it evicts, and this is production; elsewhere that is a warning, as is not to know.
        Unavailable: Redis cannot be reached.
    """
    memory = worst([await look(store) for store in stores])
    if memory.fault and production:
        raise ConfigurationError(f"Redis: maxmemory-policy {memory.fault}")
    if memory.fault:
        _log.warning("redis.evicts", policy=memory.policy, hint=REMEDY)
    elif memory.policy is None:
        _log.warning("redis.policy_unknown", hint=UNKNOWN)


def worst(each: Sequence[Memory]) -> Memory:
    """Of the servers that hold the shards, the one that evicts, else one that does not tell."""
    return max(each, key=lambda memory: (bool(memory.fault), memory.policy is None))


def fullest(each: Sequence[Memory]) -> Memory:
    """Of the servers that hold the shards, the one that will be full first; where none has a limit, the largest."""
    return max(each, key=lambda memory: (memory.share, memory.used))
