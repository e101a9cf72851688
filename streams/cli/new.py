"""
The commands `cauce new …`, by the same rules as the others: what one does stands in a module of its own.
"""

from __future__ import annotations

from typing import Annotated

import typer

from streams.commands import entry

app = typer.Typer(help="Files to begin with.", no_args_is_help=True)


@app.callback()
def new() -> None:
    """So that `group` is a word of the command line though it is the only one."""


@app.command("group", epilog=entry.examples("cauce new group orders", "cauce new group ledger --batch --no-write"))
def new_group(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The group's name: lower-case letters, digits, - and _.")],
    reads: Annotated[str, typer.Option("--reads", metavar="STREAM", help="The stream that it reads.")] = "inbound",
    batch: Annotated[bool, typer.Option("--batch", help="It takes many entries at once, in no order.")] = False,
    write: Annotated[
        bool, typer.Option("--write/--no-write", help="Add its table to streams.toml, or only print it.")
    ] = True,
) -> None:
    """
    Write a handler to begin with, its test, and its table in streams.toml.

    Beside streams.toml: NAME.py, test_NAME.py.  What is there already is never overwritten.
    """
    from streams.commands import new

    new.group(context.obj.topology, name, reads=reads, batch=batch, write=write)
