"""
The commands `cauce group …`, by the same rules as the others: what one does stands in a module of its own.
"""

from __future__ import annotations

from typing import Annotated

import typer

from streams.cli.options import Json, Yes
from streams.commands import entry

app = typer.Typer(help="The groups that Redis knows.", no_args_is_help=True)


@app.command("list", epilog=entry.examples("cauce group list", "cauce group list --json | jq '.[].lag'"))
def group_list(context: typer.Context, as_json: Json = False) -> None:
    """List the groups of each stream: who consumes them, and how far behind they are."""
    from streams.commands import roster

    topology = context.obj.topology
    entry.ask(context.obj, lambda stores: roster.show(stores, topology, as_json=as_json))


@app.command("drop", epilog=entry.examples("cauce group drop outbound bookings", "cauce group drop inbound x --yes"))
def group_drop(
    context: typer.Context,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="The stream that it reads.")],
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")],
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Although a worker of it is alive.")] = False,
) -> None:
    """
    Forget a group: what it has not settled is lost to it, and nothing is kept for it any more.

    Stop its workers and take it out of streams.toml first.  Cut off in the middle, the same command ends it.
    """
    from streams.commands import roster

    topology = context.obj.topology
    entry.ask(context.obj, lambda stores: roster.drop(stores, topology, stream, group, yes=yes, forced=force))
