"""
The commands `cauce archive …`, by the same rules as the others: what one does stands in a module of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.commands import entry

app = typer.Typer(help="What was said, in a database.", no_args_is_help=True)


@app.callback()
def archive() -> None:
    """So that `import` stays a word of its own while it is the only one."""


@app.command("import", epilog=entry.examples("cauce archive import data/archive.db"))
def archive_import(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An archive in SQLite: archive.db of a DATA_DIR.")],
) -> None:
    """
    Bring an archive from SQLite into the PostgreSQL of DATABASE_URL.

    What is there already stays as it is: it can be run while workers archive, and once more where it was cut off.
    """
    from processors.archive import importing
    from streams.commands.steps import Steps

    settings, topology = context.obj.settings, context.obj.topology
    with Steps().measured("rows", total=importing.total(file)) as advance:
        new = importing.bring(file, settings, topology.archive, advance)
    typer.echo(f"{new} rows were new")
