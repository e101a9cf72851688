"""
The groups that Redis knows: who has registered, and forgetting one for good.

A group registers when its first worker opens it, and from then on nothing that it has not settled is trimmed, whether
streams.toml still has it or not.  Only `drop` ends that.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from streams.connection import Store
from streams.errors import CauceError, ConfigurationError
from streams.scripts import script
from streams.stores import Stores
from streams.survey import survey
from streams.tables import Group, WhenFull
from streams.topology import Topology

_DROP = script(__file__, "drop.lua")
_STATE = ("cursor", "leases", "due", "attempts", "hints", "consumers", "skipped", "journal")


class Registration(msgspec.Struct, frozen=True):
    """What a group has said of itself."""

    reads: str
    handler: str = ""
    when_full: WhenFull = "shed"
    max_backlog: int | None = None

    @classmethod
    def of(cls, group: Group) -> Registration:
        return cls(group.reads, group.handler, group.when_full, group.max_backlog)


def counted(number: int, one: str = "entry", several: str = "entries") -> str:
    """So many of something, in words."""
    return f"1 {one}" if number == 1 else f"{number:,} {several}"


class Listed(msgspec.Struct, frozen=True):
    """One group, as `cauce group list` shows it."""

    name: str
    stream: str
    registered: bool
    """Redis knows it: what it has not settled is not trimmed."""
    described: bool
    """streams.toml has it."""
    workers: int
    lag: int
    """Entries not settled."""
    oldest_s: float
    when_full: WhenFull
    max_backlog: int | None
    skipped: int
    """Entries that it has lost by falling too far behind, since it was registered."""

    @property
    def deserted(self) -> str:
        """What is to be said of a registered group that nobody consumes; else nothing."""
        if self.workers or not self.registered:
            return ""
        what = f"nobody consumes it, and what it has not settled is kept ({counted(self.lag)} of {self.stream})"
        drop = f"`cauce group drop {self.stream} {self.name}`"
        if not self.described:
            return f"is registered in Redis but not in streams.toml: {what}; {drop}"
        return f"{what}; start `cauce work {self.name}`, or take it out of streams.toml and {drop}"


class Consumed(CauceError):
    """A group is not dropped while somebody consumes it."""

    def __init__(self, workers: int) -> None:
        super().__init__(f"{workers} live worker{'s' if workers > 1 else ''}")
        self.workers = workers


async def registered(store: Store, topology: Topology | None = None) -> dict[str, Registration]:
    """
    Every registered group.

    Args:
        topology: what it says now of a group counts, not what the group's last worker had read there.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    [flat] = await store.pipeline([("HGETALL", store.keys.of("groups"))])
    if isinstance(flat, Exception):
        return {}  # somebody else's key stands in its place
    found = {}
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        group = name.decode()
        try:
            told = msgspec.json.decode(value, type=Registration)
        except msgspec.MsgspecError:
            continue  # somebody else's: nothing of ours writes such a value
        ours = topology.groups.get(group) if topology else None
        # Where it reads another stream by now, the registration still says where it left something.
        found[group] = Registration.of(ours) if ours and ours.reads == told.reads else told
    return found


async def refuse_moved(stores: Stores, topology: Topology, names: Collection[str]) -> None:
    """
    See that each of these groups still reads the stream that it has registered for: what it has not settled lies there.

    Raises:
        ConfigurationError: one reads another by now.
        Unavailable: Redis cannot be reached.
    """
    for store in stores:
        for name, told in (await registered(store)).items():
            if name in names and (why := moved(topology, name, told.reads)):
                raise ConfigurationError(f"{topology.path.name}: groups.{name}.{why}")


def moved(topology: Topology, name: str, was: str) -> str:
    """What is to be said of a group that read this stream, and reads another by streams.toml; else nothing."""
    group = topology.groups.get(name)
    if group is None or group.reads == was:
        return ""
    return (
        f"reads = {group.reads!r}, but it has read {was!r} until now, and what it has not settled lies there: give the "
        f"new one another name; or start without it, say `cauce group drop {was} {name}`, and then put it back"
    )


async def roll(stores: Stores, topology: Topology) -> list[Listed]:
    """
    Every group that is registered or stands in streams.toml, by stream, over all shards.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    known: dict[str, Registration] = {}
    for store in stores:
        known |= await registered(store, topology)
    both = {name: Registration.of(group) for name, group in topology.groups.items()} | known
    tables = {name: Group(name=name, reads=told.reads, handler=told.handler) for name, told in both.items()}
    views = await survey(stores, msgspec.structs.replace(topology, groups=tables))
    skipped = dict.fromkeys(both, 0)
    for store in stores:
        counts = await store.pipeline([("GET", store.keys.group("skipped", name)) for name in both])
        for name, count in zip(both, counts, strict=True):
            skipped[name] += int(count) if isinstance(count, bytes) else 0
    found = [
        Listed(
            name=name,
            stream=told.reads,
            registered=name in known,
            described=name in topology.groups,
            workers=views[name].workers,
            lag=views[name].lag,
            oldest_s=views[name].oldest_s,
            when_full=told.when_full,
            max_backlog=told.max_backlog,
            skipped=skipped[name],
        )
        for name, told in both.items()
    ]
    return sorted(found, key=lambda each: (each.stream, each.name))


async def drop(stores: Stores, stream: str, group: str, *, forced: bool = False) -> int:
    """
    Forget a group in every shard: its boxes, due times, leases, attempts and pending entries, and then that it was.

    Safe to repeat, and after an interruption to be.  Its `own:` keys live as long as its handler has said.

    Args:
        forced: although it is consumed; a worker that still runs makes it anew, where `from` says.

    Returns:
        how many keys (people) had something waiting.

    Raises:
        Consumed: a worker of it is alive.
        Unavailable: Redis cannot be reached.
    """
    return sum([await _drop(store, stream, group, forced=forced) for store in stores])


async def _drop(store: Store, stream: str, group: str, *, forced: bool = False) -> int:
    keys = store.keys
    state = [keys.group(kind, group) for kind in _STATE]
    declared = [keys.stream(stream), *state, keys.of("groups"), keys.of("bell", group)]
    box, heartbeat = keys.group("box", group) + ":", keys.group("heartbeat", group) + ":"
    deleted = 0
    while True:
        word, count = await store.run(_DROP, declared, [group, box, heartbeat, "1" if forced else "0"])
        if word == b"alive":
            raise Consumed(count)
        deleted += int(count)
        if word == b"dropped":
            return deleted
