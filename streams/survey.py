"""How the groups are doing: workers, lag, what is in work, what is dead."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from streams import lag
from streams.connection import Store
from streams.line import Argument
from streams.stores import Stores
from streams.tables import Group
from streams.topology import Topology

COUNTED = 10_000
"""Unread entries are counted up to here; beyond, the stream's length stands in."""


class GroupView(msgspec.Struct):
    """One group at one moment."""

    stream: str
    """That it reads."""
    workers: int
    """Consumers with a heartbeat."""
    lag: int
    """Entries that are not settled: unread, waiting or in work."""
    pending: int
    """Of these, taken and not settled."""
    oldest_s: float
    """Age of the oldest of them; 0 where there is none."""
    in_work: int
    """Turns being handled now."""
    dead: int
    """Dead letters of its stream, whichever of its groups gave them up."""


async def survey(stores: Stores, topology: Topology) -> dict[str, GroupView]:
    """
    Every group of the topology, in its order, over all shards.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    shards = await asyncio.gather(*(_shard(store, topology) for store in stores))
    return {name: _together([shard[name] for shard in shards]) for name in topology.groups}


async def lengths(stores: Stores, topology: Topology) -> dict[str, dict[str, int]]:
    """
    Of each stream its entries and its dead letters, over all shards.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    found = {name: {"length": 0, "dead": 0} for name in topology.streams}
    for store in stores:
        names = [name for each in found for name in (store.keys.stream(each), store.keys.dead(each))]
        counts = await store.pipeline([("XLEN", name) for name in names])
        for number, row in enumerate(found.values()):
            row["length"] += _number(counts[2 * number])
            row["dead"] += _number(counts[2 * number + 1])
    return found


def _together(views: list[GroupView]) -> GroupView:
    # A worker serves every shard; where one of them is not read, that is the group's news.
    return GroupView(
        stream=views[0].stream,
        workers=min(view.workers for view in views),
        lag=sum(view.lag for view in views),
        pending=sum(view.pending for view in views),
        oldest_s=max(view.oldest_s for view in views),
        in_work=sum(view.in_work for view in views),
        dead=sum(view.dead for view in views),
    )


async def _shard(store: Store, topology: Topology) -> dict[str, GroupView]:
    """In two round trips, whatever the number of groups."""
    groups = list(topology.groups.values())
    [clock], *told = await _all(store, [[("TIME",)], *(_first(store, group) for group in groups)])
    now_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
    more = await _all(store, [_second(store, group, *one[:2]) for group, one in zip(groups, told, strict=True)])
    return {
        group.name: await _view(store, group, now_ms, first, second)
        for group, first, second in zip(groups, told, more, strict=True)
    }


async def _all(store: Store, batches: Sequence[Sequence[Sequence[Argument]]]) -> list[list[Any]]:
    """The replies to each batch of commands, in one round trip."""
    replies = iter(await store.pipeline([command for batch in batches for command in batch]))
    return [[next(replies) for _ in batch] for batch in batches]


def _first(store: Store, group: Group) -> list[tuple[str, ...]]:
    keys = store.keys
    stream = keys.stream(group.reads)
    return [
        ("HKEYS", keys.group("consumers", group.name)),
        ("GET", keys.group("cursor", group.name)),
        ("XPENDING", stream, group.name),
        ("HLEN", keys.group("leases", group.name)),
        ("XLEN", keys.dead(group.reads)),
        ("XINFO", "GROUPS", stream),
    ]


def _second(store: Store, group: Group, consumers: Any, cursor: Any) -> list[tuple[Argument, ...]]:
    """What can be asked once these are known."""
    keys = store.keys
    stream = keys.stream(group.reads)
    after = f"({cursor.decode()}" if isinstance(cursor, bytes) else "-"
    beats = [("EXISTS", keys.group("heartbeat", group.name, name)) for name in _names(consumers)]
    return [("XRANGE", stream, after, "+", "COUNT", 1), ("XLEN", stream), *beats]


async def _view(store: Store, group: Group, now_ms: int, first: list[Any], second: list[Any]) -> GroupView:
    _, cursor, pending, leases, dead, groups = first
    unread, length, *beats = second
    taken = int(pending[0]) if isinstance(pending, list) else 0
    ids = [unread[0][0]] if isinstance(unread, list) and unread else []
    waiting = 0
    if ids:
        told = lag.told(groups, group.name)
        waiting = await _unread(store, group, cursor, _number(length)) if told is None else told
    if taken:
        ids.append(pending[1])
    oldest = min((int(id.partition(b"-")[0]) for id in ids), default=now_ms)
    return GroupView(
        stream=group.reads,
        workers=sum(map(_number, beats)),
        lag=taken + waiting,
        pending=taken,
        oldest_s=max(0.0, (now_ms - oldest) / 1000),
        in_work=_number(leases),
        dead=_number(dead),
    )


async def _unread(store: Store, group: Group, cursor: Any, length: int) -> int:
    """How many entries lie behind the cursor, counted up to a bound."""
    counted, _ = await lag.walk(store, group.reads, cursor.decode() if isinstance(cursor, bytes) else "-", COUNTED)
    return counted if counted < COUNTED else max(COUNTED, length)


def _names(reply: Any) -> list[str]:
    """Consumers; none where somebody else's key stands in place of ours."""
    return [name.decode(errors="replace") for name in reply] if isinstance(reply, list) else []


def _number(reply: Any) -> int:
    return reply if isinstance(reply, int) else 0
