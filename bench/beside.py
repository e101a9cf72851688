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

from bench.rows import ORDER_USERS, Figures, steady
from bench.stage import Stage, staged
from bench.systems import OURS, System, chosen

WARM = 20
"""Messages of each person before anything is measured: their conversations are as long as they get."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.beside", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", default="plain,cauce", help="names with commas between them; the first is 1")
    parser.add_argument("--trees", type=Path, nargs="+", help="checkouts of Cauce instead; the first is 1")
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=8, help="of each turn")
    options = parser.parse_args()
    systems = [replace(OURS, name=str(tree), cwd=tree.resolve()) for tree in options.trees or ()]
    found = asyncio.run(_measured(systems or chosen(options.systems), options.rounds, options.seconds))
    Console().print(_table(found))


async def _measured(systems: list[System], rounds: int, seconds: int) -> dict[str, list[Figures]]:
    async with AsyncExitStack() as stack:
        stages = [await stack.enter_async_context(staged(system)) for system in systems]
        for stage in stages:
            stage.start(*stage.system.workers)
            await stage.say(WARM * ORDER_USERS, ORDER_USERS)
            if not stage.system.answers:
                await stage.arrived(stage.sent)
        found: dict[str, list[Figures]] = {system.name: [] for system in systems}
        for number in track(range(rounds), "rounds"):
            for stage in stages[:: 1 if number % 2 else -1]:
                found[stage.system.name].append(await _turn(stage, seconds))
        return found


async def _turn(stage: Stage, seconds: int) -> Figures:
    before, sent = await stage.cpu(), stage.sent
    figures = await steady(stage, seconds)
    spent = sum((await stage.cpu()).values()) - sum(before.values())
    return figures | {"CPU ms a message": spent * 1e3 / (stage.sent - sent)}


def _table(found: dict[str, list[Figures]]) -> Table:
    first = next(iter(found.values()))
    table = Table("medians", *first[0], title="x the first, round by round")
    for name, turns in found.items():
        cells = []
        for row in first[0]:
            ratio = median(turn[row] / other[row] for turn, other in zip(turns, first, strict=True))
            cells.append(f"{median(turn[row] for turn in turns):.2f}  x{ratio:.3f}")
        table.add_row(name, *cells)
    return table


if __name__ == "__main__":
    main()
