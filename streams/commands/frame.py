"""
One frame of `cauce top`, drawn.

Knows colours, columns and how wide a line of blocks is; what is in it was found out by top.py.
"""

from __future__ import annotations

from typing import Any

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from streams.commands.status import age
from streams.pulse import Server
from streams.rates import sparkline

SPARKS = 20
"""Columns of a sparkline: so many seconds."""

SLOW = 60.0
"""Seconds that somebody may wait before it is shown in red."""

NEARLY_FULL = 0.7
"""Of `maxmemory`."""


class Stream(msgspec.Struct, kw_only=True):
    entries: int
    dead: int
    per_s: float | None
    """What came; None where that is not known yet."""
    past: list[float] = []
    """The same in the seconds before, the oldest first."""


class OfGroup(msgspec.Struct, kw_only=True):
    workers: int
    lag: int
    oldest_s: float
    in_work: int
    per_s: float | None
    """What was settled."""
    past: list[float] = []


class Webhook(msgspec.Struct, kw_only=True):
    breaker: str
    """closed, open, gone; unset where OUTBOUND_URL is not known here."""
    wait_s: float = 0.0
    """Until the next try."""


class Frame(msgspec.Struct, kw_only=True):
    """What goes on at one moment."""

    at: str
    """When it was looked at last with success, local time."""
    where: str
    trouble: str = ""
    """Why that is not now."""
    redis: Server | None = None
    streams: dict[str, Stream] = {}
    groups: dict[str, OfGroup] = {}
    models: list[dict[str, Any]] = []
    webhook: Webhook | None = None
    ingress: str = ""
    """Why the rates below are not known; empty where they are."""
    rates: dict[str, dict[str, float]] = {}
    """By what is counted (messages, deliveries, tokens) and kind, a second."""
    waiting: int | None = None
    """Requests that wait for their reply."""


def draw(frame: Frame, *, hint: str = "") -> RenderableType:
    """
    Args:
        hint: the last line, for whoever may press a key.
    """
    parts: list[RenderableType] = [_head(frame)]
    if frame.trouble:
        parts.append(Text(f"{frame.trouble}; trying again", style="bold red"))
    if frame.redis is not None:
        parts += [Text(), _streams(frame), Text(), _groups(frame), Text(), *_beside(frame)]
    if hint:
        parts += [Text(), Text(hint, style="dim")]
    return Group(*parts)


def _head(frame: Frame) -> Text:
    redis, head = frame.redis, Text(f"cauce top  {frame.at}", style="bold")
    head.append(f"   {frame.where}", style="not bold")
    if redis is None:
        return head
    head.append(f"\n{redis.name} {redis.version}   {redis.memory_bytes / 1e6:.1f} MB", style="not bold")
    if redis.limit_bytes:
        share = redis.memory_bytes / redis.limit_bytes
        head.append(f" ({share:.0%} of maxmemory)", style="red" if share > NEARLY_FULL else "not bold")
    return head.append(f"   {redis.ops:,} commands/s", style="not bold")


def _streams(frame: Frame) -> Table:
    table = _table("stream", "entries", "dead", "in/s", "")
    for name, row in frame.streams.items():
        dead = Text(f"{row.dead:,}", style="red" if row.dead else "")
        table.add_row(name, f"{row.entries:,}", dead, _rate(row.per_s), _sparks(row.past))
    return table


def _groups(frame: Frame) -> Table:
    table = _table("group", "workers", "in work", "lag", "oldest", "settled/s", "")
    for name, row in frame.groups.items():
        workers = Text(str(row.workers), style="" if row.workers else "bold red")
        oldest = Text(age(row.oldest_s), style="red" if row.oldest_s > SLOW else "")
        table.add_row(name, workers, str(row.in_work), f"{row.lag:,}", oldest, _rate(row.per_s), _sparks(row.past))
    return table


def _beside(frame: Frame) -> list[Text]:
    lines = [_model(each) for each in frame.models] or [Text("no worker has published a model", style="dim")]
    if tokens := frame.rates.get("tokens"):
        lines[0].append(f"   {tokens.get('reply', 0):.0f} tokens/s written, {tokens.get('prompt', 0):.0f} read")
    lines.append(_webhook(frame))
    messages = Text("messages  ")
    if frame.ingress:
        return [*lines, messages.append(f"not known: {frame.ingress}", style="dim")]
    messages.append(_kinds(frame.rates.get("messages", {})))
    if frame.waiting:
        messages.append(f"   {frame.waiting} requests wait for their reply")
    return [*lines, messages]


def _model(model: dict[str, Any]) -> Text:
    text = Text(f"model     {model.get('name')}: ")
    if "running" not in model:
        return text.append(f"{model['workers']} worker{'s' * (model['workers'] != 1)}")
    slots = model.get("slots")
    text.append(f"{model['running']}" + (f" of {slots * model['workers']} places" if slots else " in work"))
    waiting = int(model.get("waiting", 0))
    return text.append(f", {waiting} waiting", style="yellow" if waiting else "")


def _webhook(frame: Frame) -> Text:
    text, webhook = Text("webhook   "), frame.webhook
    if webhook is None or webhook.breaker == "unset":
        text.append("OUTBOUND_URL is not set here", style="dim")
    elif webhook.breaker == "closed":
        text.append("delivering", style="green")
    else:
        next_try = "until `cauce breaker close`" if webhook.breaker == "gone" else f"next try in {webhook.wait_s:.0f} s"
        text.append(f"held: the breaker is {webhook.breaker}, {next_try}", style="bold red")
    if deliveries := frame.rates.get("deliveries"):
        text.append("   ").append(_kinds(deliveries))
    return text


_ALARMING = {"shed": "red", "retried": "red", "buried": "red", "held": "yellow"}
_ORDER = ("accepted", "duplicate", "shed", "ignored", "delivered", "retried", "held", "buried", "unsent")


def _kinds(rates: dict[str, float]) -> Text:
    parts = [
        Text(f"{rates[kind]:.1f}/s {kind}", style=_ALARMING.get(kind, "") if rates[kind] else "")
        for kind in _ORDER
        if kind in rates
    ]
    return Text("  ").join(parts)


def _table(*names: str) -> Table:
    table = Table(box=None, header_style="dim", padding=(0, 2, 0, 0))
    for number, name in enumerate(names):
        table.add_column(name, justify="left" if number == 0 or not name else "right", no_wrap=True)
    return table


def _rate(rate: float | None) -> str:
    return "–" if rate is None else f"{rate:,.1f}"


def _sparks(past: list[float]) -> Text:
    return Text(sparkline(past[-SPARKS:], SPARKS).rjust(SPARKS), style="cyan")
