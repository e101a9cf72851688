"""
What may be forgotten: entries that every registered group has settled and that are older than `keep`.

Never more, while there is room.  Near `max_len`, or when Redis is nearly full, settled entries go before their time,
the oldest first and no more than makes room; then a group that may (`when_full = "skip"`) loses its oldest, counted.
What another group has not settled stays, whatever the memory: the ingress sheds instead.

No script is needed: what is unsettled only ever moves forward, so a bound that was right when it was read stays right.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterable

import msgspec
from redis.exceptions import RedisError

from streams import journals, log, memory, metrics
from streams.connection import Store, order
from streams.errors import Unavailable
from streams.groups import Registration, registered
from streams.lag import SLICE, behind, mend, walk
from streams.scripts import script
from streams.topology import Topology

EVERY, PRESSED_EVERY = 5.0, 1.0
"""Seconds between two looks by each worker process; the second while there is something to make room for."""

NEARLY_FULL, ENOUGH = 0.9, 0.8
"""From the first share of `max_len` on settled entries go before `keep` is up, down to the second."""

AT_A_TIME = 0.1
"""Of each stream's entries, while Redis is nearly full: its memory is looked at again before more go."""

MOST = 50_000
"""Entries that are stepped over in one round: a tenth of a second of Redis's time."""

_ROOMY = memory.Memory()
_SKIP = script(__file__, "skip.lua")
_pack = msgspec.msgpack.Encoder().encode
_log = log.get("retention")


async def run(stores: Iterable[Store], topology: Topology) -> None:
    """Trim all streams of the topology in every shard now and then, until cancelled."""
    wait = EVERY
    while True:
        await asyncio.sleep(wait * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        wait = EVERY
        for store in stores:
            try:
                seen = await memory.look(store)
                if seen.share >= memory.SETTLED_GO:
                    wait = PRESSED_EVERY
                await make_room(store, topology, seen)
            except Unavailable as error:
                _log.debug("round.skipped", why=str(error))


async def make_room(store: Store, topology: Topology, seen: memory.Memory) -> bool:
    """Trim, whatever Redis says of it; whether anything went.  Raises Unavailable."""
    try:
        return any((await trim(store, topology, seen)).values())
    except RedisError as error:
        # A key of another type, say.  Trimming goes on: without it memory grows until nothing can be taken.
        _log.warning("trim.failed", why=f"{type(error).__name__}: {error}")
        return False


async def trim(store: Store, topology: Topology, seen: memory.Memory = _ROOMY) -> dict[str, int]:
    """
    Forget what may be forgotten.

    Args:
        seen: how full Redis is; left out, not at all.

    Returns:
        how many entries each stream lost, dead letters under `<stream>.dead`.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    seconds, _ = await store.command("TIME")
    now_ms = int(seconds) * 1000
    groups = await registered(store, topology)
    lost = {}
    for name in topology.streams:
        readers = {group: told for group, told in groups.items() if told.reads == name}
        lost[name] = await _Stream(store, topology, name, readers).trim(now_ms, seen.share)
        dead_bound = f"{now_ms - int(topology.dead.keep * 1000)}-0"
        dead = await _trim(store, store.keys.dead(name), dead_bound)
        # As burials do, but to the entry: nobody else may have buried for long.
        dead += int(await store.command("XTRIM", store.keys.dead(name), "MAXLEN", topology.dead.max_len))
        lost[f"{name}.dead"] = dead
    await journals.trim(store, list(groups), topology.journal, now_ms, seen.share)
    if any(lost.values()):
        _log.info("stream.trimmed", **{name: count for name, count in lost.items() if count})
    return lost


class _Stream:
    """One stream, and the registered groups that read it."""

    def __init__(self, store: Store, topology: Topology, name: str, readers: dict[str, Registration]) -> None:
        self._store = store
        self._name = name
        self._key = store.keys.stream(name)
        self._readers = readers
        self._table = topology.streams[name]
        # A reader that has not registered yet may want all of it.
        self._awaited = bool(topology.readers(name)) and not readers

    async def trim(self, now_ms: int, share: float) -> int:
        unsettled = {group: await _unsettled(self._store, self._name, group) for group in self._readers}
        # Where the ingress has to shed, nothing is kept for its history's sake.
        keep_ms = 0 if share >= memory.SHED and not self._awaited else int(self._table.keep * 1000)
        lost = await _trim(self._store, self._key, _lowest(f"{now_ms - keep_ms}-0", *unsettled.values()))
        length, oldest = await self._store.pipeline([("XLEN", self._key), ("XRANGE", self._key, "-", "+", "COUNT", 1)])
        excess = self._excess(length, share)
        if excess and oldest and not self._awaited:
            may_skip = self._full(length) or share >= memory.SKIPPED_GO
            lost += await self._make_room(oldest[0][0].decode(), excess, unsettled, may_skip=may_skip)
        await mend(self._store, self._name, list(self._readers))
        for group, told in self._readers.items():
            if told.when_full == "skip" and told.max_backlog:
                await self._shorten(group, told.max_backlog)
        return lost

    def _full(self, length: int) -> bool:
        return length >= NEARLY_FULL * self._table.max_len

    def _excess(self, length: int, share: float) -> int:
        """How many of the oldest entries should make room."""
        too_long = math.ceil(length - ENOUGH * self._table.max_len) if self._full(length) else 0
        too_big = math.ceil(length * AT_A_TIME) if share >= memory.SETTLED_GO else 0
        return min(max(too_long, too_big), MOST)

    async def _make_room(self, oldest: str, excess: int, unsettled: dict[str, str], *, may_skip: bool) -> int:
        """Forget the oldest entries if they are settled, or not settled only by groups that may fall behind."""
        skipping = {group for group in unsettled if may_skip and self._readers[group].when_full == "skip"}
        kept = [id for group, id in unsettled.items() if group not in skipping]
        if kept and order(oldest) >= order(_lowest(*kept)):
            return 0  # nothing to count steps for
        _, last = await walk(self._store, self._name, "-", excess)
        if not last:
            return 0  # another worker was here meanwhile
        below = _lowest(_next(last), *kept)
        lost = await _trim(self._store, self._key, _lowest(below, *unsettled.values()))
        for group in skipping:
            if order(unsettled[group]) < order(below) and not await self._skip(group, below):
                return lost
        return lost + await _trim(self._store, self._key, below)

    async def _shorten(self, group: str, most: int) -> None:
        """Let a group lose the oldest of what it is too far behind."""
        length = await self._store.command("XLEN", self._key)
        if length <= most:
            return
        taken, unread, cursor = await behind(self._store, self._name, group, length, limit=most)
        excess = taken + unread - most
        if excess > taken:
            _, last = await walk(self._store, self._name, cursor, excess - taken)
        elif excess > 0:
            rows = await self._store.command("XPENDING", self._key, group, "-", "+", min(excess, SLICE))
            last = rows[-1][0].decode() if rows else ""
        if excess > 0 and last:
            await self._skip(group, _next(last))

    async def _skip(self, group: str, below: str) -> bool:
        """Settle unseen what a group has not settled below an id; False where Redis has lost the group."""
        keys = self._store.keys
        kinds = ("cursor", "leases", "due", "attempts", "hints", "skipped")
        declared = [self._key, *(keys.group(kind, group) for kind in kinds)]
        args = {"group": group, "box": keys.group("box", group) + ":", "below": below, "after": "-"}
        word, count = b"more", 0
        while word == b"more":
            word, *rest = await self._store.run(_SKIP, declared, [_pack(args)])
            if word == b"nogroup":
                return False
            count, args["after"] = count + rest[0], rest[1].decode()
        if count:
            metrics.SKIPPED.labels(group).inc(count)
            hint = "it is too far behind, and streams.toml lets it lose its oldest entries"
            _log.warning("group.skipped", group=group, stream=self._name, entries=count, below=below, hint=hint)
        return True


async def _trim(store: Store, key: str, bound: str) -> int:
    return int(await store.command("XTRIM", key, "MINID", bound))


async def _unsettled(store: Store, stream: str, group: str) -> str:
    """The lowest id that a group has not settled, or the first it has not read."""
    cursor, pending = await store.pipeline(
        [
            ("GET", store.keys.group("cursor", group)),
            ("XPENDING", store.keys.stream(stream), group),
        ]
    )
    if isinstance(pending, Exception) and isinstance(cursor, bytes):
        return "0-0"  # Redis has lost the group; what it had taken lies in its boxes, and nobody counts it here
    ids = []
    if isinstance(cursor, bytes):
        ids.append(_next(cursor.decode()))
    if isinstance(pending, list) and pending[0]:
        ids.append(pending[1].decode())
    return _lowest(*ids) if ids else "0-0"


def _lowest(*ids: str) -> str:
    return min(ids, key=order)


def _next(id: str) -> str:
    """The first id behind this one."""
    milliseconds, _, sequence = id.partition("-")
    return f"{milliseconds}-{int(sequence) + 1}"
