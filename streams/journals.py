"""
The groups' journals in Redis: read from where a message came, and kept within bounds.

A journal is in the order of time, and a group ends what it reads mostly in the order of the stream.  So how a message
ended stands shortly behind its own time; where a group was far behind, it is found by halving, like a word in a
dictionary.  What is told there is journal.py's.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import msgspec

from streams import journal, memory
from streams.connection import Store, order
from streams.journal import Ending
from streams.sieve import SLICE, sift
from streams.tables import Journal

AT_A_TIME = 0.1
"""Of a journal, while Redis is nearly full: it goes before anything else does."""

NEAR = SLICE
"""Entries that are looked at behind a message's own time before its place is sought by halving."""

MARGIN_MS = 30_000
"""How far before that place reading begins: turns overtake each other by as much as they wait and take."""

MOST = 50 * SLICE
"""Entries looked at for one ending; a turn of which nothing is told within them is given up."""

HALVINGS = 24

LARGEST = 15_000
"""Bytes of an entry, where Redis does not tell how large a journal is."""


class Read(msgspec.Struct):
    """What was found of one entry in one journal."""

    endings: list[Ending] = []
    complete: bool = True
    """False: more may stand where nobody looked."""
    since_ms: int | None = None
    """How far back the journal goes; None: it is empty."""


async def read(store: Store, group: str, id: str, since_ms: int) -> Read:
    """
    How the turns of an entry ended in a group, up to the last that is told.

    Args:
        since_ms: nothing is told of it before.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    key = store.keys.group("journal", group)
    oldest = await store.command("XRANGE", key, "-", "+", "COUNT", 1)
    found = Read(since_ms=_ms(oldest[0]) if oldest else None)
    after = str(since_ms)
    while True:
        ending, found.complete = await _next(store, key, group, id, after, sought=not found.endings)
        if ending is None:
            return found
        found.endings.append(ending)
        if ending.final:
            return found
        # It is due again after its wait, and nothing is told of it until then; but a request may come for it any time.
        at_any_time = ending.told.at_door or not ending.told.wait_ms
        after = f"({ending.entry}" if at_any_time else str(ending.at_ms + ending.told.wait_ms)


async def between(store: Store, group: str, first: str, last: str) -> AsyncIterator[Ending]:
    """
    All that a group's journal tells of a stretch of time.

    Args:
        first, last: ids or milliseconds, both included.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    key = store.keys.group("journal", group)
    while True:
        page = await store.command("XRANGE", key, first, last, "COUNT", SLICE)
        for row in page:
            for ending in _endings(group, row):
                yield ending
        if len(page) < SLICE:
            return
        first = f"({page[-1][0].decode()}"


async def _next(store: Store, key: str, group: str, id: str, after: str, *, sought: bool) -> tuple[Ending | None, bool]:
    """The next ending of an entry, and whether all of the journal was looked at that can hold it."""
    found, last = await _within(store, key, group, id, after, NEAR)
    if found or not last:
        return found, True
    if sought:
        place = await _place(store, key, id, int(after))
        if place > order(last)[0]:
            found, _ = await _within(store, key, group, id, str(place), 4 * NEAR)
            if found:
                return found, True
    found, last = await _within(store, key, group, id, f"({last}", MOST)
    return found, not last


async def _within(store: Store, key: str, group: str, id: str, after: str, most: int) -> tuple[Ending | None, str]:
    """The first ending of an entry; else the last id that was looked at, empty at the journal's end."""
    last = ""
    async for slice in sift(store, key, [f'"{id}"'], first=after, field="turns", enough=1, most=most):
        for row in slice.found:
            for ending in _endings(group, row):
                if id in ending.told.of:
                    return ending, ""
        last = slice.last if slice.more else ""
    return None, last


async def _place(store: Store, key: str, id: str, since_ms: int) -> int:
    """About when a group came to an entry, Unix milliseconds: where its journal tells of those around it."""
    newest = await store.command("XREVRANGE", key, "+", "-", "COUNT", 1)
    low, high = since_ms, _ms(newest[0]) if newest else since_ms
    for _ in range(HALVINGS):
        middle = (low + high) // 2
        there = await store.command("XRANGE", key, str(middle), "+", "COUNT", 1)
        if not there or high - low < 1000:
            break
        if _come_to(there[0]) < order(id):
            low = middle
        else:
            high = middle
    return max(since_ms, low - MARGIN_MS)


def _ms(row: Any) -> int:
    return order(row[0].decode())[0]


def _come_to(row: Any) -> tuple[int, int]:
    """The middle of what a journal's entry tells of: a retry of something old says little of where the group is."""
    of = sorted(order(ending.told.of[0]) for ending in _endings("", row))
    return of[len(of) // 2] if of else (0, 0)


def _endings(group: str, row: Any) -> Iterator[Ending]:
    """What one entry of a journal tells: all turns of a settle."""
    id, flat = row
    for told in journal.read(flat[1]):
        yield Ending(group, order(id.decode())[0], told, id.decode())


async def trim(store: Store, groups: Sequence[str], table: Journal, now_ms: int, share: float) -> int:
    """
    Forget the oldest of each group's journal; how many entries went.

    Args:
        share: of Redis's memory in use; a journal makes room before anything else does.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    keys = [store.keys.group("journal", group) for group in groups]
    room = (table.max_mb << 20) / max(1, len(groups) * store.keys.shards)
    lost = 0
    for key in keys:
        oldest = f"{now_ms - int(table.keep * 1000)}-0"
        gone, length, size = await store.pipeline(
            [("XTRIM", key, "MINID", oldest), ("XLEN", key), ("MEMORY", "USAGE", key, "SAMPLES", 0)]
        )
        if isinstance(gone, Exception) or not length:
            continue  # a key of another type, which settle.lua leaves alone as well
        size = length * LARGEST if isinstance(size, Exception) else size or 0
        kept = min(1.0, room / size if size else 1.0) * (1 - AT_A_TIME if share >= memory.SETTLED_GO else 1)
        lost += gone
        if kept < 1:
            lost += await store.command("XTRIM", key, "MAXLEN", int(length * kept))
    return lost
