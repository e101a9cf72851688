"""
From a file of SQLite into the archive that the settings name: for whoever moves to PostgreSQL.

Row by row through keeping.py, as if the entries came again: what is there already stays one row, people, conversations
and appointments come out as they were, and one that was cut off is simply run again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

from processors.archive import keeping, migrations, opening
from processors.archive.rows import TABLES, Row
from processors.archive.session import Away, Unfit, Wrong
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Archive

BATCH = 500


def total(file: Path) -> int:
    """How many rows there are.  Raises ConfigurationError: it is no archive of ours."""
    with _open(file) as there:
        return sum(there.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in TABLES.values())  # noqa: S608 - names of ours


def bring(file: Path, settings: Settings, names: Archive, told: Callable[[int], None]) -> int:
    """
    Args:
        told: is called with the number of rows of each batch once it is kept.

    Returns:
        how many rows were new.

    Raises:
        ConfigurationError: the file is no archive, or the settings name no other one, or one that cannot be used.
    """
    if settings.database_url is None:
        raise ConfigurationError(
            "environment: DATABASE_URL is not set, so there is nothing to import into; name a PostgreSQL"
        )
    new = 0
    try:
        session = opening.opened(settings)
        try:
            for rows in _batches(file):
                new += keeping.keep(session, rows, names)
                told(len(rows))
        finally:
            session.close()
    except (Away, Unfit, Wrong) as error:
        raise ConfigurationError(f"the archive of DATABASE_URL: {error}; run it again, it goes on") from None
    return new


def _batches(file: Path) -> Iterator[list[Row]]:
    with _open(file) as there:
        for shape, table in TABLES.items():
            found = there.execute(f"SELECT {', '.join(shape.__struct_fields__)} FROM {table} ORDER BY entry")  # noqa: S608 - as above
            while batch := found.fetchmany(BATCH):
                yield [shape(**dict(zip(shape.__struct_fields__, row, strict=True))) for row in batch]


def _open(file: Path) -> closing[sqlite3.Connection]:
    if not file.is_file():
        raise ConfigurationError(f"{file}: no such file; the archive in SQLite is archive.db in DATA_DIR")
    there = sqlite3.connect(f"file:{file.resolve().as_posix()}?mode=ro", uri=True)
    try:
        [(version,)] = there.execute("SELECT max(version) FROM archive_versions").fetchall()
    except sqlite3.Error as error:
        there.close()
        raise ConfigurationError(f"{file}: is no archive of Cauce ({error})") from None
    ours = migrations.newest("sqlite")
    if version != ours:
        there.close()
        raise ConfigurationError(
            f"{file}: its schema is {version}, and this release has {ours}; start a worker on it first"
        )
    return closing(there)
