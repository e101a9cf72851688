"""
`python -m bench.beside`: POST to webhook at a steady rate, of systems that run side by side and take turns.

What differs by a twentieth drowns where each is measured by itself, minutes apart.

    python -m bench.beside                          plain and Cauce, eight turns each, three minutes
    python -m bench.beside --systems plain,taskiq,cauce --rounds 4
    python -m bench.beside --trees ../before .      two checkouts of Cauce
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.progress import track
from rich.table import Table

from bench.rows import ORDER_USERS, RATE
from bench.stage import Stage, quantile, staged
from bench.systems import OURS, System, peers

WARM = 20
"""Messages of each person before anything is measured: their conversations are as long as they get."""

Turn = tuple[float, float, float]
"""p50 and p99 in ms, and the CPU of all processes in us a message."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.beside", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default="plain,cauce", help="names with commas between them; the first is 1")
    parser.add_argument("--trees", type=Path, nargs="+", help="checkouts of Cauce instead; the first is 1")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=8, help="of each turn")
    options = parser.parse_args()
    known = {system.name: system for system in (*peers(), OURS)}
    asked = options.systems.split(",")
    if options.trees:
        chosen = {str(tree): replace(OURS, cwd=tree.resolve()) for tree in options.trees}
    elif unknown := set(asked) - known.keys():
        parser.error(f"no system {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    else:
        chosen = {name: known[name] for name in asked}
    Console().print(_table(asyncio.run(_measured(chosen, options.rounds, options.seconds))))


async def _measured(systems: dict[str, System], rounds: int, seconds: int) -> dict[str, list[Turn]]:
    async with AsyncExitStack() as stack:
        stages = {}
        for name, system in systems.items():
            stage = stages[name] = await stack.enter_async_context(staged(system))
            if not system.answers:
                stage.start(*system.workers)
            await stage.say(WARM * ORDER_USERS, ORDER_USERS)
            await stage.arrived(0 if system.answers else stage.sent)
        found: dict[str, list[Turn]] = {name: [] for name in stages}
        for number in track(range(rounds), "rounds"):
            for name in list(stages)[:: 1 if number % 2 else -1]:
                found[name].append(await _turn(stages[name], seconds))
        return found


async def _turn(stage: Stage, seconds: int) -> Turn:
    before = sum((await stage.cpu()).values())
    sent = await stage.say(RATE * seconds, ORDER_USERS, rate=RATE)
    if not stage.system.answers:
        await stage.arrived(stage.sent)
    latencies = sent.latencies(None if stage.system.answers else await stage.arrivals())
    spent = sum((await stage.cpu()).values()) - before
    return quantile(latencies, 0.5) * 1e3, quantile(latencies, 0.99) * 1e3, spent * 1e6 / len(sent.rows)


def _table(found: dict[str, list[Turn]]) -> Table:
    table = Table("at 200/s, medians", "p50 ms", "p99 ms", "CPU us/message", title="x the first, round by round")
    first = next(iter(found.values()))
    for name, turns in found.items():
        cells = []
        for column in range(3):
            ratios = [turn[column] / other[column] for turn, other in zip(turns, first, strict=True)]
            middle = median(turn[column] for turn in turns)
            cells.append(
                f"{middle:,.0f}  x{median(ratios):.3f}" if column == 2 else f"{middle:.2f}  x{median(ratios):.3f}"
            )
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
