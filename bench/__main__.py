"""
`make bench`: Cauce beside its peers, in the same run on the same machine.

    make bench                                       everything, about half an hour
    make bench BENCH="--systems plain,cauce"         two of them
    make bench BENCH="--rounds 1 --messages 5000"    a quick look
    make bench BENCH="--systems bare"                the load generator alone, against a sink that only answers

Systems take turns within a round, so that what else the machine does falls on all alike; every figure is the median of
the rounds with the least and the most behind it, and every ratio is taken within its round.  `bare` is no system: above
the table it says what the load generator can do, and that it is not what limits the others.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import median

from rich.console import Console
from rich.table import Table

from bench import rows
from bench.systems import BARE, OURS, System, chosen

BASELINE = "plain"
Rounds = dict[str, list[rows.Figures]]
"""Of each system, what each round found."""


def main() -> None:
    options = _options()
    systems = chosen(options.systems)
    console = Console()
    console.print(f"{platform.platform()}, {os.cpu_count()} cores; no debounce, one reply to each message")
    rounds = asyncio.run(_run(systems, options, console))
    if BARE.name in rounds:
        console.print(_alone(rounds[BARE.name]), highlight=False)
    if others := {name: found for name, found in rounds.items() if name != BARE.name}:
        console.print(_table(others))
        console.print(_orderly(others), highlight=False)
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", help="names with commas between them; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--messages", type=int, default=rows.MESSAGES)
    parser.add_argument("--only", choices=("path", "promises"), help="one part")
    parser.add_argument("--json", type=Path, help="where to leave every figure")
    return parser.parse_args()


async def _run(systems: list[System], options: argparse.Namespace, console: Console) -> Rounds:
    found: Rounds = {system.name: [] for system in systems}
    for number in range(options.rounds):
        for system in systems:
            figures: rows.Figures = {}
            with console.status(f"round {number + 1} of {options.rounds}: {system.name}"):
                if options.only != "promises":
                    figures |= await rows.path(system, options.messages)
                if options.only != "path":
                    for latency in (0.0, 0.05):
                        figures |= await rows.promises(system, latency)
            found[system.name].append(figures)
            console.print(f"round {number + 1}: {system.name}: " + _line(figures), highlight=False)
    return found


def _line(figures: rows.Figures) -> str:
    return ", ".join(f"{name.strip()} {_number(value)}" for name, value in figures.items())


def _alone(found: list[rows.Figures]) -> str:
    """Of the load generator, in a line."""
    told = ", ".join(f"{name} {_cell(found, name, found)}" for name in found[0] if name != "live replies/s")
    return f"the load generator alone: {told or 'not measured'}"


def _table(rounds: Rounds) -> Table:
    table = Table("", *rounds, title=r"median \[least–most]; × the plain pipeline, round by round")
    names = dict.fromkeys(name for found in rounds.values() for figures in found for name in figures)
    for name in names:
        table.add_row(name, *(_cell(found, name, rounds.get(BASELINE, [])) for found in rounds.values()))
    return table


def _orderly(rounds: Rounds) -> str:
    """Ours against the peers that keep order in most rounds, the fastest of them in each."""
    peers = [
        name
        for name, found in rounds.items()
        if name != OURS.name and 2 * sum(map(rows.kept_order, found)) > len(found)
    ]
    told = []
    for row in ("drained replies/s", "live replies/s"):
        best = [max(figures[row] for figures in each) for each in zip(*(rounds[name] for name in peers), strict=True)]
        ours = [figures[row] for figures in rounds.get(OURS.name, [])]
        if best and ours:
            told.append(f"{row} ×{_spread([a / b for a, b in zip(ours, best, strict=True)], '{:.2f}'.format)}")
    return f"against the fastest that keeps order ({', '.join(peers) or 'none measured'}): {', '.join(told) or '–'}"


def _cell(found: list[rows.Figures], name: str, baseline: list[rows.Figures]) -> str:
    values = [figures[name] for figures in found if name in figures]
    if not values:
        return "–"
    told = _spread(values, _number)
    ratios = [
        figures[name] / base[name]
        for figures, base in zip(found, baseline, strict=False)
        if name in figures and base.get(name)
    ]
    return f"{told}\n×{_spread(ratios, '{:.2f}'.format)}" if ratios and found is not baseline else told


def _spread(values: list[float], form: Callable[[float], str]) -> str:
    middle = form(median(values))
    return middle if len(values) == 1 else f"{middle} [{form(min(values))}–{form(max(values))}]"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    main()
