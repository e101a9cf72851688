"""
`python -m bench.newcomer`: what the people who write notice of a new group that works off a retained stream.

So many entries lie on `inbound`, long answered.  Messages come at a steady rate, first by themselves, then while a new
group reads all of it from the start; the two take turns.  Time is from when a message was due to its reply's arrival at
the webhook.

    python -m bench.newcomer                     200,000 entries, 100 messages a second, three rounds of each kind
    python -m bench.newcomer --rate 50 --rounds 1
"""

from __future__ import annotations

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

from rich.console import Console
from rich.table import Table

from bench.stage import Stage, now, quantile, staged
from bench.systems import OURS
from streams import wire
from streams.stores import Stores

KINDS = {
    "key": "",
    "none": 'order = "none"\n',
    "batch": 'order = "none"\nbatch = 100\nconcurrency = 2\n',
}
"""Groups by what their table says beside the handler."""

PEOPLE = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.newcomer", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--entries", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=100, help="messages a second")
    parser.add_argument("--seconds", type=int, default=6, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    columns = ("group", "p50 ms", "with it", "p99 ms", "with it", "replies/s", "it read/s")
    table = Table(*columns, title="medians [least-most]")
    for kind in options.kinds:
        table.add_row(kind, *asyncio.run(_measured(kind, options)))
    Console().print(table)


async def _measured(kind: str, options: argparse.Namespace) -> list[str]:
    names = [f"new{number}" for number in range(options.rounds)]
    handler = "look_at_many" if kind == "batch" else "look"
    more = "".join(
        f'\n[groups.{name}]\nreads = "inbound"\nhandler = "bench.watching:{handler}"\n{KINDS[kind]}' for name in names
    )
    work = OURS.processes["inference"][:-1]
    system = replace(OURS, processes=OURS.processes | {name: [*work, name] for name in names})
    alone, beside, read = [], [], []
    async with staged(system, more=more) as stage:
        await _fill(stage, options.entries)
        stage.start("inference", "egress")
        await stage.says("inference", "worker.reading")
        await _replies(stage, options)  # nobody is measured while all warm up
        for name in names:
            alone.append(await _replies(stage, options))
            stage.start(name)
            await stage.says(name, "worker.reading")
            began, before = now(), _read(stage, name)
            beside.append(await _replies(stage, options))
            read.append((_read(stage, name) - before) / (now() - began))
            stage.running.pop(name).kill()  # it need not finish
    (p50, p99, rates), (with_p50, with_p99, with_rates) = (zip(*figures, strict=True) for figures in (alone, beside))
    rate, with_rate = median(rates), median(with_rates)
    return [
        _told(p50), _compared(with_p50, p50), _told(p99), _compared(with_p99, p99),
        f"{rate:.0f} | {with_rate:.0f}  x{with_rate / rate:.3f}", f"{median(read):,.0f}",
    ]  # fmt: skip


def _told(figures: Sequence[float]) -> str:
    return f"{median(figures):.1f} [{min(figures):.1f}-{max(figures):.1f}]"


def _compared(beside: Sequence[float], alone: Sequence[float]) -> str:
    return f"{_told(beside)} x{median(beside) / median(alone):.2f}"


async def _fill(stage: Stage, entries: int) -> None:
    """So many of people, of the last hour but some minutes, which inference has behind it."""
    stores, began = Stores.open(stage.ground.url), int(time.time() * 1000) - 3_600_000
    for start in range(0, entries, 1_000):
        commands = []
        for n in range(start, start + 1_000):
            person = f"+5917{n % PEOPLE:07}"
            body = wire.encode(wire.Inbound(user_id=person, message_id=f"m{n}", text="Quisiera una cita, por favor"))
            fields = ("key", person, "type", "text", "body", body, "v", wire.VERSION)
            commands.append(("XADD", "inbound", f"{began + n * 3_000_000 // entries}-{n + 1}", *fields))
        await stores.first.pipeline(commands)
    await stores.first.command("XGROUP", "CREATE", "inbound", "inference", "$")
    await stores.close()


async def _replies(stage: Stage, options: argparse.Namespace) -> tuple[float, float, float]:
    """Milliseconds to the reply, half and 99 of 100 of them; and how many came a second."""
    sent = await stage.say(options.rate * options.seconds, PEOPLE, rate=options.rate)
    await stage.arrived(stage.sent)
    arrivals = await stage.arrivals()
    ours = sent.latencies(arrivals)
    last = max(arrivals[number] for number, _, _ in sent.rows)
    return quantile(ours, 0.5) * 1e3, quantile(ours, 0.99) * 1e3, len(sent.rows) / (last - sent.began)


def _read(stage: Stage, group: str) -> int:
    """How many entries a group has read (Redis 7 counts them)."""
    told = stage.ground.servers[0].ask("XINFO", "GROUPS", "inbound").decode().split()
    return int(told[told.index("entries-read", told.index(group)) + 1])


if __name__ == "__main__":
    main()
