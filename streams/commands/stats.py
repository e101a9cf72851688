"""
`cauce stats`: what was counted, as a table with a line of small bars for each name.

Knows how it looks; what is in it is analytics.py's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby

import msgspec
from rich.console import Console
from rich.table import Table

from streams import analytics
from streams.analytics import Asked, Report, Row
from streams.buckets import Calendar
from streams.errors import ConfigurationError
from streams.moments import span
from streams.rates import sparkline
from streams.settings import Settings
from streams.stores import Stores
from streams.topology import Topology

_FIRST = ("messages_in", "messages_out")
"""These before the others, which stand in alphabetical order."""

_PERCENTILES = ("p50", "p95", "p99")

Line = tuple[str, str, list[int]]
"""A name, its total as it is shown, and one number for each bucket."""


async def show(stores: Stores, topology: Topology, settings: Settings, asked: Asked, *, as_json: bool) -> None:
    """
    Raises:
        ConfigurationError: what is asked for makes no sense.
        Unavailable: Redis cannot be reached.
    """
    try:
        report = await analytics.report(stores, topology, Calendar(settings.zone, topology.tallies), asked)
    except analytics.Unclear as error:
        raise ConfigurationError(str(error)) from error
    if as_json:
        sys.stdout.write(msgspec.json.encode(report).decode() + "\n")
        return
    console = Console()
    console.print(f"{report.of}   {report.since} – {report.until}", highlight=False)
    if not report.groups:
        console.print(
            f"[yellow]no group counts under {report.of}[/yellow]: docs/analytics.md says how to switch it on",
            highlight=False,
        )
    elif not any(_lines(report)):
        others = ", ".join(name for name in analytics.names(topology) if name != report.of)
        console.print(f"nothing was counted in this time; what else may be: {others}", highlight=False, markup=False)
        return
    console.print(_table(report, max(10, console.width - 40)))
    for group, reasons in report.reasons.items():
        for why, count in reasons.items():
            console.print(f"  {group}: {count} × {why}", highlight=False, markup=False)
    if report.buried_partly:
        console.print("  (there are more dead letters than were looked at)")


def _table(report: Report, width: int) -> Table:
    table = Table(box=None, header_style="dim")
    table.add_column("")
    table.add_column("total", justify="right")
    table.add_column(f"by {report.by}", no_wrap=True)
    for name, total, values in _lines(report):
        table.add_row(name, total, sparkline(values, width) if values else "")
    return table


def _lines(report: Report) -> Iterator[Line]:
    total, rows = report.total, report.rows
    for name, count in sorted(total.distinct.items()):
        yield _words(name), str(count), _each(rows, lambda row: row.distinct.get(name, 0))  # noqa: B023
    plain = sorted((name for name in total.counts if "." not in name), key=lambda name: (name not in _FIRST, name))
    for name in plain:
        yield _words(name), str(total.counts[name]), _each(rows, _count_of(name))
    dotted = sorted(name for name in total.counts if "." in name)
    for group, names in groupby(dotted, lambda name: name.partition(".")[0]):
        yield _words(group), "", []
        for name in names:
            yield f"  {name.partition('.')[2]}", str(total.counts[name]), _each(rows, _count_of(name))
    for name, timing in sorted(total.timings.items()):
        yield f"time to {_words(name)}", "", []
        for percentile in _PERCENTILES:
            yield (
                f"  {percentile}",
                span(getattr(timing, percentile)),
                _each(rows, lambda row: getattr(row.timings.get(name), percentile, 0)),  # noqa: B023
            )
    if total.buried:
        yield "dead letters", "", []
        for group, count in sorted(total.buried.items()):
            yield f"  {group}", str(count), _each(rows, lambda row: row.buried.get(group, 0))  # noqa: B023


def _count_of(name: str) -> Callable[[Row], int]:
    return lambda row: row.counts.get(name, 0)


def _each(rows: Sequence[Row], number: Callable[[Row], int]) -> list[int]:
    return [number(row) for row in rows]


def _words(name: str) -> str:
    return name.replace("_", " ")
