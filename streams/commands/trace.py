"""
`cauce trace`: what happened to a message, or to somebody's latest ones, for an operator's eyes.

Finding is finding.py's, gathering stories.py's, and what it adds up to timeline.py's; here it is put on a terminal, or
into JSON.  Numbers and ids are masked unless asked for.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import date, datetime, tzinfo
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ingress import timelines
from streams.commands.steps import Steps
from streams.commands.tail import Form
from streams.errors import ConfigurationError
from streams.moments import local, seconds, span
from streams.stores import Stores
from streams.story.finding import Unknown
from streams.story.timeline import Step, Timeline, folded
from streams.topology import Topology

_COLOURS = {
    "dead": "red", "lost": "red", "refused": "red", "meta_failed": "red", "parked": "yellow", "waiting": "yellow",
    "unread": "yellow", "rate_limited": "yellow", "degenerate": "yellow", "delivered": "green", "in_work": "yellow",
}  # fmt: skip


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants to know, and how."""

    id: str
    user: str | None = None
    since: str = "24h"
    count: int = 20
    as_json: bool = False
    full: bool = False
    zone: tzinfo | None = None
    """By whose clock times are told."""


async def show(topology: Topology, stores: Stores, asked: Asked) -> int:
    """
    Print it.

    Returns:
        the exit status: 1 where nothing is known of it.

    Raises:
        ConfigurationError: a time or a person that is none.
        Unavailable: Redis cannot be reached.
    """
    form = Form(full=asked.full, zone=asked.zone)
    try:
        with Steps().counting("entries looked through") as look:
            question = timelines.Question(asked.id, asked.user, _seconds(asked.since), asked.count)
            told = await timelines.ask(stores, topology, question, look, asked.zone)
    except timelines.Unusable as wrong:
        raise ConfigurationError(str(wrong)) from None
    except Unknown as unknown:
        sys.stderr.write(f"cauce: {unknown if asked.full else form.mask.text(str(unknown))}\n")
        return 1
    if asked.as_json:
        sys.stdout.write(json.dumps(timelines.plain(told, full=asked.full, mask=form.mask), ensure_ascii=False) + "\n")
    elif isinstance(told, Timeline):
        _print(told, form)
    else:
        _console().print(_list(told, form))
    return 0


def _seconds(since: str) -> float:
    try:
        return seconds(since)
    except ValueError as error:
        raise ConfigurationError(f"--since {since!r} {error}") from None


def _console() -> Console:
    """A pipe's other end has no width."""
    console = Console()
    return console if console.is_terminal else Console(width=200)


def _print(told: Timeline, form: Form) -> None:
    console = _console()
    took = f" in {span(told.took_ms)}" if told.took_ms is not None else ""
    head = Text.assemble((told.outcome, _COLOURS.get(told.outcome, "")), took, "   ")
    for name, value in (("person", told.person), ("message_id", told.message_id), ("type", told.type)):
        head.append(f"{form.hide(name, value)}  " if value else "")
    console.print(head, soft_wrap=True)
    console.print(f"entry {told.entry} of {told.stream}, trace {told.trace or '–'}", highlight=False, soft_wrap=True)
    table = Table("time", "wait", "what", "where", "", box=None, header_style="dim", padding=(0, 2, 0, 0))
    day = datetime.now(form.zone).date()
    for step in told.steps:
        at = local(step.at_ms, form.zone)
        table.add_row(_clock(at, day), *_row(step, form))
        day = at.date()
    console.print(table)
    for gap in told.gaps:
        console.print(f"[dim]not told: {gap}[/dim]", highlight=False, soft_wrap=True)


def _row(step: Step, form: Form) -> Sequence[str | Text]:
    facts = "  ".join(_fact(name, value, form) for name, value in step.facts.items() if (name, value) != _FIRST)
    wait = f"+{span(step.wait_ms)}" if step.wait_ms else ""
    what = Text(step.kind, style=_COLOURS.get(step.kind, ""))
    return wait, what, step.group or step.stream, Text(facts)


_FIRST = ("attempt", 1)


def _fact(name: str, value: Any, form: Form) -> str:
    if name == "meta_ms":
        return f"at {local(value, form.zone):%H:%M:%S}"
    if name.endswith("_ms") or name == "ms":
        return f"{_LABELS.get(name, name.removesuffix('_ms'))} {span(value)}"
    if isinstance(value, bool):
        return name if value else f"not {name}"
    shown = form.hide(name, value)
    return shown if name in ("why", "id", "wamid", "matched") else f"{name} {shown}"


def _list(told: Sequence[Timeline], form: Form) -> Table:
    table = Table("time", "outcome", "took", "message", "", box=None, header_style="dim", padding=(0, 2, 0, 0))
    for one in told:
        line = folded(one)
        rest = [_fact(name, value, form) for name, value in line.items() if name in _FOLDED]
        outcome = Text(one.outcome, style=_COLOURS.get(one.outcome, ""))
        took = span(one.took_ms) if one.took_ms is not None else "–"
        at = local(line["at_ms"], form.zone).strftime("%d.%m. %H:%M:%S")
        table.add_row(at, outcome, took, one.entry, Text("  ".join([one.type, *rest])))
    return table


_LABELS = {"again_ms": "again in", "due_ms": "due in", "ms": "took"}
_FOLDED = ("retries", "repeats", "rate_limited", "cached", "redriven", "model_ms", "meta")


def _clock(at: datetime, day: date) -> str:
    """With its day where that is another than the one before."""
    form = "%H:%M:%S" if at.date() == day else "%d.%m. %H:%M:%S"
    return f"{at.strftime(form)}.{at.microsecond // 1000:03d}"
