"""What the tests of the protocol say again and again, said once."""

from __future__ import annotations

from typing import Any

from streams import topology
from streams.connection import Store
from streams.effects import Effects, Handler, Turn
from streams.endings import ending
from streams.fate import Park
from streams.turns import Changed, Grant, Impossible, Turns
from streams.watch import Consumer, Watch


async def nothing(turn: Turn) -> None:
    """A handler for tests that never run one."""


def a_topology(**group: Any) -> topology.Topology:
    """One group `g` that reads `inbound` and writes `outbound`; no debounce unless asked for."""
    table = {"reads": "inbound", "writes": ["outbound"], "handler": "nowhere:nothing", **group}
    return topology.parse({"streams": {"inbound": {}, "outbound": {}}, "groups": {"g": table}})


async def a_consumer(store: Store, handler: Handler | None = None, **group: Any) -> Turns:
    """A consumer of group `g`, which exists afterwards."""
    top = a_topology(**group)
    turns = Turns(store, top, top.groups["g"], handler or Handler(handle=nothing))
    await turns.open()
    return turns


def named(turns: Turns) -> Consumer:
    """A consumer, as whoever watches all groups knows it."""
    return Consumer(turns.group.name, turns.consumer)


async def kill(store: Store, turns: Turns, top: topology.Topology | None = None) -> None:
    """Its heartbeat is over, and somebody hands on what it left."""
    await store.command("DEL", turns._heartbeat)
    assert await Watch(store, top or a_topology()).sweep(named(turns)) is not None


async def say(store: Store, key: str, body: str = "{}", *, id: str = "*", **fields: str) -> str:
    """Append an entry of a person; its id."""
    extra = [part for pair in fields.items() for part in pair]
    added = await store.command("XADD", "inbound", id, "key", key, "type", "text", "body", body, *extra)
    return str(added.decode())


async def end(
    turns: Turns,
    grant: Grant,
    effects: Effects | None = None,
    *,
    delay_ms: int | None = None,
    uncount: bool = False,
    progress: str | None = None,
    at_door: bool = False,
    bury: str | None = None,
) -> tuple[bool, int]:
    """Settle a turn, or park it, with `delay_ms`."""
    park = None
    if delay_ms is not None:
        park = Park(delay_ms=delay_ms, why="", counted=not uncount, progress=progress, at_door=at_door)
    ids = [] if park else [message.id for message in grant.turn.messages]
    packed = ending(turns._store.keys, turns.group, grant.turn, grant.token, ids, effects=effects, bury=bury, park=park)
    (result,) = await turns.settle([packed])
    if isinstance(result, Changed):  # then as a worker does
        assert packed.instead is not None
        (result,) = await turns.settle([packed.instead()])
    assert not isinstance(result, Impossible | Changed)
    return result


def bodies(grant: Grant) -> list[str]:
    return [message.body.decode() for message in grant.turn.messages]


async def ids(store: Store, stream: str = "inbound") -> list[str]:
    """What lies on a stream."""
    return [id.decode() for id, _ in await store.command("XRANGE", store.keys.stream(stream), "-", "+")]


async def redis_ms(store: Store) -> int:
    """Redis's clock, milliseconds."""
    seconds, micros = await store.command("TIME")
    return int(seconds) * 1000 + int(micros) // 1000
