"""
What may be forgotten: entries that every registered group has settled and that are older than `keep`.

Never more, whatever the memory: an unsettled entry stays.  Near `max_len` settled entries go before their time, so
that a busy day does not end in 503.  No script is needed: what is unsettled only ever moves forward, so a bound that
was right when it was read stays right.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any

import msgspec
from redis.exceptions import RedisError

from streams import log
from streams.connection import Store, order
from streams.errors import Unavailable
from streams.topology import Topology

EVERY = 60.0
"""Seconds between two looks, by each worker process."""

NEARLY_FULL = 0.9
"""From this share of `max_len` on, settled entries go before `keep` is up."""

_log = log.get("retention")


async def run(stores: Iterable[Store], topology: Topology) -> None:
    """Trim all streams of the topology in every shard now and then, until cancelled."""
    while True:
        await asyncio.sleep(EVERY * random.uniform(0.5, 1.5))  # noqa: S311 - jitter, not a secret
        for store in stores:
            await _round(store, topology)


async def _round(store: Store, topology: Topology) -> None:
    try:
        await trim(store, topology)
    except Unavailable as error:
        _log.debug("round.skipped", why=str(error))
    except RedisError as error:
        # A key of another type, say.  Trimming goes on: without it memory grows until nothing can be taken.
        _log.warning("trim.failed", why=f"{type(error).__name__}: {error}")


async def trim(store: Store, topology: Topology) -> dict[str, int]:
    """
    Forget what may be forgotten.

    Returns:
        how many entries each stream lost, dead letters under `<stream>.dead`.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    seconds, _ = await store.command("TIME")
    now_ms = int(seconds) * 1000
    registered = await store.command("HGETALL", store.keys.of("groups"))
    readers = _readers(registered)
    lost = {}
    for name, stream in topology.streams.items():
        bound = f"{now_ms - int(stream.keep * 1000)}-0"
        length = await store.command("XLEN", store.keys.stream(name))
        unsettled = [await _unsettled(store, name, group) for group in readers.get(name, [])]
        if unsettled and length >= NEARLY_FULL * stream.max_len:
            bound = min(unsettled, key=order)
        lost[name] = await _trim(store, store.keys.stream(name), min([bound, *unsettled], key=order))
        dead_bound = f"{now_ms - int(topology.dead.keep * 1000)}-0"
        lost[f"{name}.dead"] = await _trim(store, store.keys.dead(name), dead_bound)
    if any(lost.values()):
        _log.info("stream.trimmed", **{name: count for name, count in lost.items() if count})
    return lost


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
        milliseconds, _, sequence = cursor.decode().partition("-")
        ids.append(f"{milliseconds}-{int(sequence) + 1}")
    if isinstance(pending, list) and pending[0]:
        ids.append(pending[1].decode())
    return min(ids, key=order, default="0-0")


def _readers(registered: list[bytes]) -> dict[str, list[str]]:
    readers: dict[str, list[str]] = {}
    for name, registration in zip(registered[::2], registered[1::2], strict=True):
        reads: Any = msgspec.json.decode(registration)["reads"]
        readers.setdefault(reads, []).append(name.decode())
    return readers
