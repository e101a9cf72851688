"""
The state of the pipeline for an operator's eyes, and of the breaker in front of the webhook.

What it shows is counted by survey.py and kept by egress; here it is put into tables.
"""

from __future__ import annotations

import sys

import msgspec
from rich.table import Table

from processors.egress import breaker as breakers
from streams import groups, pulse
from streams.commands.sheet import sheet
from streams.errors import ConfigurationError
from streams.masking import Mask
from streams.settings import Settings
from streams.stores import Stores
from streams.survey import GroupView, lengths, survey
from streams.topology import Topology


async def show(topology: Topology, stores: Stores, address: str, *, as_json: bool) -> None:
    """
    Print Redis, streams and groups.

    Args:
        address: where Redis is, for whoever reads it.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    views = await survey(stores, topology)
    known = await groups.roll(stores, topology)
    streams = await lengths(stores, topology)
    server = pulse.server([await store.pipeline(pulse.ABOUT_THE_SERVER) for store in stores])
    redis = {"name": server.name, "version": server.version, "memory_bytes": server.memory_bytes}
    if as_json:
        deserted = {each.name: each.deserted for each in known if each.deserted}
        picture = {"redis": redis, "streams": streams, "groups": msgspec.to_builtins(views), "deserted": deserted}
        sys.stdout.write(msgspec.json.encode(picture).decode() + "\n")
        return
    console = sheet()
    where = f"{Mask().text(address)}{f', {len(stores)} shards' if len(stores) > 1 else ''}"
    memory = f"{server.memory_bytes / 1e6:.1f} MB"
    console.print(f"{server.name} {server.version}, {memory}   {where}", highlight=False)
    console.print(_streams(streams))
    console.print(_groups(views))
    for each in known:
        if each.deserted:
            console.print(f"[red]{each.name}[/red]: {each.deserted}", highlight=False)
        elif each.lag and not each.workers:
            console.print(f"[red]{each.name} has no worker[/red]: start one with `cauce work {each.name}`")


def _streams(streams: dict[str, dict[str, int]]) -> Table:
    table = Table("stream", "entries", "dead", box=None, header_style="dim")
    for name, row in streams.items():
        table.add_row(name, str(row["length"]), _alarming(row["dead"]))
    return table


def _groups(views: dict[str, GroupView]) -> Table:
    table = Table("group", "workers", "lag", "pending", "in work", "oldest", box=None, header_style="dim")
    for name, view in views.items():
        workers = str(view.workers) if view.workers else "[red]0[/red]"
        counts = (view.lag, view.pending, view.in_work)
        table.add_row(name, workers, *map(str, counts), age(view.oldest_s))
    return table


def _alarming(count: int) -> str:
    return f"[red]{count}[/red]" if count else "0"


def age(seconds: float) -> str:
    if not seconds:
        return "–"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"


async def breaker(settings: Settings, stores: Stores) -> None:
    """Print the breaker's state.  Raises Unavailable, ConfigurationError."""
    sight = await breakers.look(stores.first, _destination(settings))
    sentence = {
        "closed": f"closed: replies are being delivered ({sight.failures} failed in a row)",
        "open": f"open: deliveries wait; the next try is in {sight.remaining_seconds:.0f} s",
        "gone": "open for good: the destination answered 410; `cauce breaker close` once it is mended",
    }[sight.state]
    sys.stdout.write(sentence + "\n")


async def close_breaker(settings: Settings, stores: Stores) -> None:
    """Close it and say whether it had been open.  Raises Unavailable, ConfigurationError."""
    was = await breakers.close(stores.first, _destination(settings))
    sys.stdout.write("closed\n" if was else "it was closed already\n")


def _destination(settings: Settings) -> str:
    if settings.outbound_url is None:
        raise ConfigurationError("environment: OUTBOUND_URL is not set, so there is no breaker")
    return settings.outbound_url.reveal()
