"""
`cauce group`: the groups that Redis knows, as a table, and the dropping of one.

What there is, and what dropping means, stands in groups.py; here it is shown, and asked for.
"""

from __future__ import annotations

import sys

import msgspec
from rich.table import Table

from streams import groups
from streams.commands import entry
from streams.commands.sheet import sheet
from streams.commands.status import age
from streams.errors import ConfigurationError
from streams.stores import Stores
from streams.topology import Topology, suggest


async def show(stores: Stores, topology: Topology, *, as_json: bool) -> None:
    """Print every group.  Raises Unavailable."""
    known = await groups.roll(stores, topology)
    if as_json:
        sys.stdout.write(msgspec.json.encode(known).decode() + "\n")
        return
    table = Table(
        "stream", "group", "registered", "workers", "lag", "oldest", "when full", "skipped", box=None,
        header_style="dim",
    )  # fmt: skip
    for each in known:
        registered = "yes" if each.registered else "no"
        numbers = (str(each.workers), f"{each.lag:,}", age(each.oldest_s))
        policy = each.when_full + (f" at {each.max_backlog:,}" if each.max_backlog else "")
        table.add_row(each.stream, each.name, registered, *numbers, policy, f"{each.skipped:,}")
    console = sheet()
    console.print(table)
    for each in known:
        if each.deserted:
            console.print(f"[red]{each.name}[/red]: {each.deserted}", highlight=False)


async def drop(stores: Stores, topology: Topology, stream: str, group: str, *, yes: bool, forced: bool) -> None:
    """
    Drop a group and say what is lost.

    Args:
        yes: do not ask.

    Raises:
        ConfigurationError: there is none, it reads another stream, is consumed, or whoever was asked said no.
        Unavailable: Redis cannot be reached.
    """
    known = {each.name: each for each in await groups.roll(stores, topology)}
    found = known.get(group)
    if found and found.stream != stream:
        raise ConfigurationError(f"group {group} reads {found.stream}, not {stream}")
    if not found and stream not in topology.streams:
        raise ConfigurationError(f"there is no stream {stream!r}{suggest(stream, topology.streams)}")
    if found and found.workers and not forced:
        raise ConfigurationError(_alive(group, found.workers))
    behind = found.lag if found else 0
    question = f"Drop group {group} of {stream}, which has not settled {groups.counted(behind)}?"
    if found and not yes and not await entry.agreed(question):
        raise ConfigurationError("nothing was dropped")
    try:
        left = await groups.drop(stores, stream, group, forced=forced)
    except groups.Consumed as error:
        raise ConfigurationError(_alive(group, error.workers)) from error
    if not found and not left:
        there = ", ".join(name for name, each in known.items() if each.stream == stream) or "none"
        raise ConfigurationError(f"there is no group {group!r} of {stream}{suggest(group, known)}; there are: {there}")
    sys.stdout.write(f"dropped; it had not settled {groups.counted(behind)}\n" if found else "its rest was dropped\n")
    if group in topology.groups:
        begins = topology.groups[group].from_
        sys.stdout.write(f"it stands in streams.toml: its next worker makes it anew, from = {begins!r}\n")


def _alive(group: str, workers: int) -> str:
    count = "a live worker" if workers == 1 else f"{workers} live workers"
    return f"group {group} has {count}: stop them (they count as gone 8 s later), or say --force"
