"""
Who has died, and handing on what they left: of every group of streams.toml, for every worker.

A group's only worker cannot sweep up after itself until it has started anew, loaded its model, and seen Redis answer
for a whole heartbeat; so the others do it meanwhile.  Decides nothing: housekeeping.py judges who is dead.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from streams.connection import Store
from streams.scripts import script
from streams.topology import Topology

_SWEEP = script(__file__, "sweep.lua")
_pack = msgspec.msgpack.Encoder().encode


class Consumer(NamedTuple):
    """One consumer of one group."""

    group: str
    name: str


class Watch:
    """The consumers of all groups, seen from outside."""

    def __init__(self, store: Store, topology: Topology) -> None:
        self._store = store
        self._streams = {name: store.keys.stream(group.reads) for name, group in topology.groups.items()}

    async def silent(self) -> set[Consumer]:
        """
        Those whose heartbeat is missing now.

        Raises:
            Unavailable: Redis cannot be reached, or its slot is under way: then nobody could beat.
        """
        keys, groups = self._store.keys, list(self._streams)
        found = await self._store.pipeline([("HKEYS", keys.group("consumers", group)) for group in groups])
        if self._store.void:
            declared = [keys.group("consumers", group) for group in groups]
            await self._store.command("EXISTS", *declared, *self._store.void)
        everybody = [
            Consumer(group, name.decode())
            for group, names in zip(groups, found, strict=True)
            if isinstance(names, list)
            for name in names
        ]
        alive = await self._store.pipeline([("EXISTS", keys.group("heartbeat", *each)) for each in everybody])
        return {each for each, there in zip(everybody, alive, strict=True) if there == 0}

    async def sweep(self, dead: Consumer, *, leaving: bool = False) -> int | None:
        """
        Hand on what a consumer left, and wake its group.

        Args:
            leaving: it says goodbye itself; nothing crashed, so nothing is counted.

        Returns:
            how many leases were freed; None where it turned out to be alive.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        keys = self._store.keys
        state = [keys.group(kind, dead.group) for kind in ("leases", "due", "attempts", "hints", "consumers")]
        heartbeat, bell = keys.group("heartbeat", *dead), keys.of("bell", dead.group)
        declared = [self._streams[dead.group], *state, heartbeat, bell]
        box = keys.group("box", dead.group) + ":"
        args = {"group": dead.group, "dead": dead.name, "box": box, "leaving": leaving}
        freed = 0
        while True:
            reply = await self._store.run(_SWEEP, declared, [_pack(args)])
            if reply[0] == b"alive":
                return None
            freed += int(reply[1])
            if reply[0] == b"swept":
                return freed
