"""
How Cauce's own figures grow: with what lies there, the people, their history, the processes, the groups, the servers.

    python -m bench.growth                     all of it, about twenty minutes
    python -m bench.growth backlog consumers   two of them
    python -m bench.growth backlog --most 100000
    python -m bench.growth ingresses masters --messages 20000
    python -m bench.growth ingresses --most 2  one and two processes only

Each size has a stage of its own; the ratio is to the first size of its sweep, in the same run.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.rows import Figures
from bench.stage import Sent, Stage, now, quantile, staged
from bench.systems import OURS

SHIPPED = (Path(__file__).parents[1] / "streams.toml").read_text(encoding="utf-8")

MEASURED, USERS = 5_000, 1_000
"""Messages of each measurement where nothing else is said, and who says them."""


async def backlog(size: int, messages: int) -> Figures:
    """So many messages lie on `inbound` that nobody has read."""
    async with staged(OURS) as stage:
        await stage.say(size, USERS)
        sent = await stage.say(messages, USERS)
        found = {"accepted/s": sent.rate, "accept p99 ms": quantile(sent.latencies(), 0.99) * 1e3}
        return found | await _drained(stage, min(size, messages))


async def users(count: int, messages: int) -> Figures:
    """So many others have a conversation, of 400 bytes."""
    async with staged(OURS) as stage:
        stage.ground.servers[0].ask("DEBUG", "POPULATE", str(count), "conversation:+592", "400")
        return await _both(stage, messages)


async def history(length: int, messages: int) -> Figures:
    """Conversations hold so many messages."""
    people = 100
    async with staged(OURS, max_messages=length) as stage:
        stage.start(*stage.system.workers)
        await stage.say(people * length // 2, people)
        await stage.arrived(stage.sent)
        return await _live(stage, people, messages)


async def consumers(count: int, messages: int) -> Figures:
    """So many workers of each group, and one ingress; four times as many messages."""
    async with staged(OURS) as stage:
        return await _both(stage, 4 * messages, [role for role in stage.system.workers for _ in range(count)])


async def groups(count: int, messages: int) -> Figures:
    """So many more groups read `inbound`, one process each, and only look."""
    names = [f"watch{number}" for number in range(count)]
    more = "".join(
        f'\n[groups.{name}]\nreads = "inbound"\nhandler = "bench.watching:look"\nconcurrency = 100\n' for name in names
    )
    work = OURS.processes["inference"][:-1]
    system = replace(OURS, processes=OURS.processes | {name: [*work, name] for name in names})
    async with staged(system, more=more) as stage:
        return await _both(stage, messages)


async def counting(on: int, messages: int) -> Figures:
    """Counts are off, or on as streams.toml ships them, in one process."""
    commented = re.findall(r"^# ?(\[groups\.analytics(?:.|\n)*?)^#?$", SHIPPED, re.MULTILINE)
    tables = re.sub(r"^# ?", "", "\n".join(commented), flags=re.MULTILINE)
    names = re.findall(r"^\[groups\.(.+)\]", tables, re.MULTILINE)
    system, work = OURS, OURS.processes["inference"][:-1]
    if on:
        system = replace(OURS, processes=OURS.processes | {"analytics": [*work, *names]})
    async with staged(system, more=tables if on else "") as stage:
        return await _both(stage, messages)


async def ingresses(count: int, messages: int) -> Figures:
    """So many processes of the ingress on one port, and as many load generators; four times as many messages."""
    system = replace(OURS, environment=OURS.environment | {"INGRESS_WORKERS": str(count)})
    async with staged(system) as stage:
        if count > 1:
            await stage.says("ingress", f"workers={count}")
        await _said(stage, 2_000, count)  # nobody is measured while it warms up
        before = await stage.cpu()
        rate, sents = await _said(stage, 4 * messages, count)
        spent = _spent(before, await stage.cpu())
    said = sum(len(sent.rows) for sent in sents)
    latencies = sorted(seconds for sent in sents for seconds in sent.latencies())
    return {
        "accepted/s": rate,
        "accept p99 ms": quantile(latencies, 0.99) * 1e3,
        "ingress us/message": spent["ingress"] / said * 1e6,
        "Redis us/message": spent["redis"] / said * 1e6,
    }


async def masters(count: int, messages: int) -> Figures:
    """A Redis Cluster of so many masters, a shard on each; four times as many messages, us of CPU for one of them."""
    async with staged(OURS, masters=count, shards=count) as stage:
        await stage.say(2_000, USERS)  # the ingress learns where everything lies
        before = await stage.cpu()
        sent = await stage.say(4 * messages, USERS)
        accepting = _redis(_spent(before, await stage.cpu()), 4 * messages)
        drained = await _drained(stage, stage.sent)
    return {
        "accepted/s": sent.rate,
        **{f"accept {name.partition('/')[0]}": value for name, value in accepting.items()},
        "drained/s": drained.pop("drained/s"),
        **{f"drain {name.partition('/')[0]}": value for name, value in drained.items()},
    }


async def _said(stage: Stage, messages: int, generators: int) -> tuple[float, list[Sent]]:
    """Accepted a second, where so many generators share the messages; and what each saw."""
    sents = await asyncio.gather(*(stage.say(messages // generators, USERS) for _ in range(generators)))
    seconds = max(sent.began + sent.seconds for sent in sents) - min(sent.began for sent in sents)
    return sum(len(sent.rows) for sent in sents) / seconds, sents


async def _both(stage: Stage, messages: int, roles: list[str] | None = None) -> Figures:
    sent = await stage.say(messages, USERS)
    return {"accepted/s": sent.rate} | await _drained(stage, messages, roles)


async def _drained(stage: Stage, messages: int, roles: list[str] | None = None) -> Figures:
    stage.start(*(roles or stage.system.workers))
    await stage.arrived(1)
    before, began = await stage.cpu(), now()
    await stage.arrived(messages)
    seconds = now() - began
    return {"drained/s": messages / seconds} | _redis(_spent(before, await stage.cpu()), messages)


def _spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    """CPU seconds of each process between two looks."""
    return {name: used - before.get(name, 0.0) for name, used in after.items()}


def _redis(spent: dict[str, float], messages: int) -> Figures:
    """Of all servers together, and where there are several of the busiest."""
    each = [used / messages * 1e6 for name, used in spent.items() if name.partition(".")[0] == "redis"]
    busiest = {"busiest us/message": max(each)} if "redis" not in spent else {}
    return {"Redis us/message": sum(each)} | busiest


async def _live(stage: Stage, people: int, messages: int) -> Figures:
    sent = await stage.say(messages, people)
    await stage.arrived(stage.sent)
    arrivals = await stage.arrivals()
    last = max(arrivals[number] for number, _, _ in sent.rows)
    return {"live replies/s": messages / (last - sent.began)}


SWEEPS: dict[str, tuple[Callable[[int, int], Awaitable[Figures]], list[int]]] = {
    "backlog": (backlog, [1_000, 10_000, 100_000, 1_000_000]),
    "users": (users, [100, 1_000, 10_000, 100_000, 1_000_000]),
    "history": (history, [2, 20, 200]),
    "consumers": (consumers, [1, 2, 4]),
    "groups": (groups, [0, 1, 3, 7]),
    "counting": (counting, [0, 1]),
    "ingresses": (ingresses, [1, 2, 4]),
    "masters": (masters, [1, 2, 3]),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("sweeps", nargs="*", help=f"of {', '.join(SWEEPS)}; all by default")
    parser.add_argument("--most", type=int, default=10**6, help="leave larger sizes out")
    parser.add_argument("--messages", type=int, default=MEASURED, help=f"of each measurement; {MEASURED:,} by default")
    options = parser.parse_args()
    if unknown := set(options.sweeps) - SWEEPS.keys():
        parser.error(f"no sweep {', '.join(sorted(unknown))}; there are {', '.join(SWEEPS)}")
    console = Console()
    for name in options.sweeps or SWEEPS:
        console.print(asyncio.run(_swept(name, options, console)))


async def _swept(name: str, options: argparse.Namespace, console: Console) -> Table:
    measure, sizes = SWEEPS[name]
    found: dict[int, Figures] = {}
    for size in [size for size in sizes if size <= options.most]:
        with console.status(f"{name}: {size:,}"):
            found[size] = await measure(size, options.messages)
    first = next(iter(found.values()))
    table = Table(name, *first, title=(measure.__doc__ or "").strip())
    for size, figures in found.items():
        table.add_row(f"{size:,}", *(f"{value:,.0f}  x{value / first[row]:.2f}" for row, value in figures.items()))
    return table


if __name__ == "__main__":
    main()
