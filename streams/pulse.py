"""
What goes on in Redis at one moment, for whoever looks every second: cheap commands, and never a scan.

Groups are counted by survey.py, as for `cauce status` and /metrics; rates are rates.py's to make of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec

from streams import published
from streams.connection import Store, info
from streams.line import Argument
from streams.stores import Stores
from streams.survey import GroupView, survey
from streams.topology import Topology

ABOUT_THE_SERVER = (("INFO", "server"), ("INFO", "memory"), ("INFO", "stats"))
"""What `server` wants the replies to."""


class Server(msgspec.Struct):
    """Redis; of several servers, all together."""

    name: str
    version: str
    memory_bytes: int
    limit_bytes: int
    """`maxmemory`; 0: there is none, or it does not tell."""
    ops: int
    """Commands a second, as it says."""


class Flow(msgspec.Struct):
    """One stream."""

    entries: int = 0
    dead: int = 0
    added: int = 0
    """Grows by one with each entry; where Redis does not count them (6.2), its length."""


class Pulse(msgspec.Struct):
    """All of it."""

    server: Server
    streams: dict[str, Flow]
    groups: dict[str, GroupView]
    models: list[dict[str, Any]]
    """As published.py puts them together."""


class Finger:
    """Feels it again and again: a worker's model is seen one look after the worker itself."""

    def __init__(self, stores: Stores, topology: Topology) -> None:
        self._stores, self._topology = stores, topology
        self._consumers: list[str] = []
        """Whose model is asked for with the next look."""

    async def feel(self) -> Pulse:
        """
        Three round trips a shard, whatever the number of groups.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        groups, *told = await asyncio.gather(
            survey(self._stores, self._topology), *(store.pipeline(self._commands(store)) for store in self._stores)
        )
        count = 2 * len(self._topology.streams)
        streams = {name: Flow() for name in self._topology.streams}
        for replies in told:
            for number, flow in enumerate(streams.values()):
                _add(flow, *replies[3 + 2 * number : 5 + 2 * number])
        of_models = told[0][3 + count :]
        consumers, models = of_models[: len(self._topology.groups)], of_models[len(self._topology.groups) :]
        self._consumers = [name.decode() for names in consumers if isinstance(names, list) for name in names]
        return Pulse(server([replies[:3] for replies in told]), streams, groups, published.models(models))

    def _commands(self, store: Store) -> list[tuple[Argument, ...]]:
        keys = store.keys
        commands: list[tuple[Argument, ...]] = list(ABOUT_THE_SERVER)
        for name in self._topology.streams:
            commands += [("XINFO", "STREAM", keys.stream(name)), ("XLEN", keys.dead(name))]
        if store is self._stores.first:  # where models are published
            commands += [("HKEYS", keys.group("consumers", group)) for group in self._topology.groups]
            commands += [("GET", keys.of("model", name)) for name in self._consumers]
        return commands


def _add(flow: Flow, stream: Any, dead: Any) -> None:
    """What one shard tells; of a stream that is not there yet, nothing."""
    flat = stream if isinstance(stream, list) else []
    fields: dict[bytes, Any] = dict(zip(flat[::2], flat[1::2], strict=False))
    length: int = fields.get(b"length", 0)
    flow.entries += length
    flow.added += fields.get(b"entries-added", length)
    flow.dead += dead if isinstance(dead, int) else 0


def server(told: Sequence[Sequence[Any]]) -> Server:
    """What each shard's server says; of a cluster, of all masters that have a shard of ours."""
    every = [[info(reply) for reply in replies] for replies in told]
    servers = {each[0].get("run_id", ""): each for each in every}.values()
    name, version = release(every[0][0])

    def total(part: int, field: str) -> int:
        return sum(int(each[part].get(field, 0)) for each in servers)

    return Server(
        name=name,
        version=version or "?",
        memory_bytes=total(1, "used_memory"),
        limit_bytes=total(1, "maxmemory"),
        ops=total(2, "instantaneous_ops_per_sec"),
    )


def release(fields: dict[str, str]) -> tuple[str, str]:
    """Whose server it is and its version, from INFO: others give Redis's version for the sake of old clients."""
    for name in ("Valkey", "Dragonfly"):
        if version := fields.get(f"{name.lower()}_version"):
            return name, version
    return "Redis", fields.get("redis_version", "")
