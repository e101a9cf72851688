"""
How Cauce's own figures grow: with what lies there, the people, their history, the workers, the groups.

    python -m bench.growth                     all of it, about twenty minutes
    python -m bench.growth backlog consumers   two of them
    python -m bench.growth backlog --most 100000

Each size has a stage of its own; the ratio is to the first size of its sweep, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from bench.rows import Figures
from bench.stage import OURS, Stage, now, quantile, staged

MEASURED, USERS = 5_000, 1_000
"""Messages of each measurement, and who says them."""


async def backlog(size: int) -> Figures:
    """So many messages lie on `inbound` that nobody has read."""
    async with staged(OURS) as stage:
        await stage.say(size, USERS)
        sent = await stage.say(MEASURED, USERS)
        found = {"accepted/s": sent.rate, "accept p99 ms": quantile(sent.latencies(), 0.99) * 1e3}
        return found | await _drained(stage, min(size, MEASURED))


async def users(count: int) -> Figures:
    """So many others have a conversation, of 400 bytes."""
    async with staged(OURS) as stage:
        stage.redis("DEBUG", "POPULATE", str(count), "conversation:+592", "400")
        return await _both(stage)


async def history(length: int) -> Figures:
    """Conversations hold so many messages."""
    people = 100
    async with staged(OURS, max_messages=length) as stage:
        stage.start(*stage.system.workers)
        await stage.say(people * length // 2, people)
        await stage.arrived(stage._sent)
        return await _live(stage, people)


async def consumers(count: int) -> Figures:
    """So many workers of each group, and one ingress."""
    async with staged(OURS) as stage:
        return await _both(stage, [role for role in stage.system.workers for _ in range(count)], 4 * MEASURED)


async def groups(count: int) -> Figures:
    """So many more groups read `inbound`, one process each, and only look."""
    names = [f"watch{number}" for number in range(count)]
    more = "".join(
        f'\n[groups.{name}]\nreads = "inbound"\nhandler = "bench.watching:look"\nconcurrency = 100\n' for name in names
    )
    work = OURS.processes["inference"][:-1]
    system = replace(OURS, processes=OURS.processes | {name: [*work, name] for name in names})
    async with staged(system, more=more) as stage:
        return await _both(stage)


async def _both(stage: Stage, roles: list[str] | None = None, messages: int = MEASURED) -> Figures:
    sent = await stage.say(messages, USERS)
    return {"accepted/s": sent.rate} | await _drained(stage, messages, roles)


async def _drained(stage: Stage, messages: int, roles: list[str] | None = None) -> Figures:
    stage.start(*(roles or stage.system.workers))
    await stage.arrived(1)
    cpu, began = (await stage.cpu()).get("redis", 0.0), now()
    await stage.arrived(messages)
    seconds = now() - began
    spent = (await stage.cpu())["redis"] - cpu
    return {"drained/s": messages / seconds, "Redis us/message": spent / messages * 1e6}


async def _live(stage: Stage, people: int) -> Figures:
    sent = await stage.say(MEASURED, people)
    await stage.arrived(stage._sent)
    arrivals = await stage.arrivals()
    last = max(arrivals[number] for number, _, _ in sent.rows)
    return {"live replies/s": MEASURED / (last - sent.began)}


SWEEPS: dict[str, tuple[Callable[[int], Awaitable[Figures]], list[int]]] = {
    "backlog": (backlog, [1_000, 10_000, 100_000, 1_000_000]),
    "users": (users, [100, 1_000, 10_000, 100_000, 1_000_000]),
    "history": (history, [2, 20, 200]),
    "consumers": (consumers, [1, 2, 4]),
    "groups": (groups, [0, 1, 3, 7]),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="*", help=f"of {', '.join(SWEEPS)}; all by default")
    parser.add_argument("--most", type=int, default=10**6, help="leave larger sizes out")
    options = parser.parse_args()
    if unknown := set(options.sweeps) - SWEEPS.keys():
        parser.error(f"no sweep {', '.join(sorted(unknown))}; there are {', '.join(SWEEPS)}")
    console = Console()
    for name in options.sweeps or SWEEPS:
        console.print(asyncio.run(_swept(name, options.most, console)))


async def _swept(name: str, most: int, console: Console) -> Table:
    measure, sizes = SWEEPS[name]
    found: dict[int, Figures] = {}
    for size in [size for size in sizes if size <= most]:
        with console.status(f"{name}: {size:,}"):
            found[size] = await measure(size)
    first = next(iter(found.values()))
    table = Table(name, *first, title=(measure.__doc__ or "").strip())
    for size, figures in found.items():
        table.add_row(f"{size:,}", *(f"{value:,.0f}  x{value / first[row]:.2f}" for row, value in figures.items()))
    return table


if __name__ == "__main__":
    main()
