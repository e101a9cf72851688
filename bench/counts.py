"""
How much memory counts take: of so many messages, spread over all the time for which anything is kept.

    python -m bench.counts                         100,000 messages of 5,000 people
    python -m bench.counts --messages 1000000

A third of them is of the last two days, a third of the last sixty, a third of two years, so that there are as many
buckets as there can be.  Each has a reply and a status; the groups count them as they always do, and MEMORY USAGE of
each key is added up.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from processors import analytics
from streams import batches, embedded, topology, wire
from streams.connection import Store
from streams.wire import Inbound, Reply, Status
from streams.worker import Worker

DAYS = (2, 60, 730)
ACTIONS = ("book", "cancel", "move", "hours", "prices", None, None, None)
GROUPS = {"inbound": analytics.messages, "outbound": analytics.replies, "statuses": analytics.statuses}
TOPOLOGY = topology.parse({
    "groups": {
        name: {"reads": name, "handler": "nowhere:nothing", "order": "none", "tallies": "analytics", "batch": 100}
        for name in GROUPS
    }
})  # fmt: skip


def entries(messages: int, people: int, now_ms: int) -> Iterator[tuple[str, list[Any]]]:
    """Stream and entry, the oldest first."""
    luck = random.Random(1)  # noqa: S311 - the same each time
    moments = sorted(now_ms - 60_000 - int(luck.random() * luck.choice(DAYS) * 86_400_000) for _ in range(messages))
    for number, ms in enumerate(moments):
        person, took = f"+5917{luck.randrange(people):07}", int(luck.lognormvariate(7, 1))
        conversation = f"conv_{person}_{ms // 3_600_000 * 3600}"
        reply = Reply(
            id=f"reply_{ms}-{number}", user_id=person, message="Hola", created_at="", action=luck.choice(ACTIONS),
            conversation_id=conversation, source=luck.choice(("model", "model", "model", "cache", "fallback")),
        )  # fmt: skip
        errors = {"errors": [{"code": 131000 + luck.randrange(60)}]} if luck.random() < 0.05 else {}
        status = Status(message_id=str(number), status="failed" if errors else "read", content=errors)
        told: list[tuple[str, Any, int]] = [
            ("inbound", Inbound(user_id=person, message_id=str(number), text="Hola"), 0),
            ("outbound", reply, took),
            ("statuses", status, took),
        ]
        for stream, body, later in told:
            yield stream, ["key", person, "type", "reply", "body", wire.encode(body), "at", ms + later]


async def measure(url: str, messages: int, people: int) -> Table:
    store = Store.open(url)
    last: dict[str, int] = {}
    page: list[list[Any]] = []
    for number, (stream, (*fields, ms)) in enumerate(entries(messages, people, int(time.time() * 1000))):
        last[stream] = max(last.get(stream, 0), ms)  # ids only grow
        page.append(["XADD", stream, f"{last[stream]}-{number + 1}", *fields[:-1]])
        if len(page) == 1000:
            await store.pipeline(page)
            page = []
    await store.pipeline(page)
    for name, handler in GROUPS.items():
        served, group = batches.served(handler, TOPOLOGY.groups[name])
        worker = Worker(store, TOPOLOGY, group, served)
        running = asyncio.create_task(worker.run(30))
        while not await _settled(store, name):  # noqa: ASYNC110 - nobody rings
            await asyncio.sleep(0.1)
        worker.stop()
        await running
    table = await _weighed(store)
    await store.close()
    return table


async def _settled(store: Store, name: str) -> bool:
    newest, cursor, pending = await store.pipeline([
        ("XREVRANGE", name, "+", "-", "COUNT", 1), ("GET", store.keys.group("cursor", name)), ("XPENDING", name, name),
    ])  # fmt: skip
    return bool(newest[0][0] == cursor and not pending[0])


async def _weighed(store: Store) -> Table:
    """Keys and bytes of each kind and length of bucket."""
    found: dict[str, list[int]] = {}
    for kind in ("tally", "distinct"):
        async for names in store.scan(f"{kind}:*"):
            sizes = await store.pipeline([("MEMORY", "USAGE", name, "SAMPLES", "0") for name in names])
            for name, size in zip(names, sizes, strict=True):
                bucket = name.decode().split(":", 2)[2]
                unit = "day" if "T" not in bucket else "hour" if bucket.partition("Z")[0][-3] == "T" else "minute"
                found.setdefault(f"{kind} by {unit}", []).append(size)
    table = Table("", "keys", "bytes, median", "most", "all, MB", box=None)
    for what, sizes in sorted(found.items()):
        middle = sorted(sizes)[len(sizes) // 2]
        table.add_row(what, f"{len(sizes):,}", f"{middle:,}", f"{max(sizes):,}", f"{sum(sizes) / 1e6:.1f}")
    whole = sum(map(sum, found.values()))
    table.add_row("all", f"{sum(map(len, found.values())):,}", "", "", f"{whole / 1e6:.1f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.counts", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--people", type=int, default=5_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cauce-") as folder, embedded.served(Path(folder)) as url:
        Console().print(asyncio.run(measure(url, options.messages, options.people)), highlight=False)


if __name__ == "__main__":
    main()
