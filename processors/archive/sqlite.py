"""
SQLite: the archive in a file of DATA_DIR, for whoever has no PostgreSQL.

One process at a time writes; others wait for it.  A commit is on the disk before it returns, and what is deleted is
overwritten.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from processors.archive.rows import Row
from processors.archive.session import SLICE, Away, Identity, Unfit

BUSY_SECONDS = 10.0
"""How long one who writes waits for another."""


class SQLite:
    """A session.py's Session."""

    dialect = "sqlite"

    def __init__(self, path: Path) -> None:
        with _told():
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))  # what people say is for its owner alone
            # Used by one thread at a time, not always by the same.
            self._connection = sqlite3.connect(path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "secure_delete = ON", "temp_store = MEMORY"):
                self._connection.execute(f"PRAGMA {pragma}").close()
            for name, choose in (("least", min), ("greatest", max)):
                self._connection.create_function(name, -1, _known(choose), deterministic=True)

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[None]:
        """Whoever writes is always alone."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            with _told():
                self._connection.rollback()
            raise
        self.run("COMMIT")

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with _told():
            return self._connection.execute(sql, values).fetchall()

    def many(self, sql: str, values: Sequence[Sequence[Any]]) -> None:
        with _told():
            self._connection.executemany(sql, values)

    def script(self, sql: str) -> None:
        """Statement by statement: `executescript` would commit what came before."""
        statement = ""
        for line in sql.splitlines(keepends=True):
            statement += line
            if sqlite3.complete_statement(statement):
                self.run(statement)
                statement = ""

    def insert(self, table: str, rows: Sequence[Row]) -> set[Identity]:
        new = set()
        for row in rows:
            columns = row.__struct_fields__
            places = ", ".join("?" for _ in columns)
            sql = f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({places}) ON CONFLICT DO NOTHING"  # noqa: S608 - names of ours
            with _told():
                if self._connection.execute(sql, [getattr(row, column) for column in columns]).rowcount:
                    new.add(row.identity)
        return new

    def make_room(self, table: str, months: Sequence[str]) -> None:
        """There always is."""

    def expire(self, table: str, before: str) -> bool:
        old = f"SELECT entry, stream, shard FROM {table} WHERE at < ? AND entry < ? ORDER BY entry LIMIT {SLICE}"  # noqa: S608 - as above
        sql = f"DELETE FROM {table} WHERE (entry, stream, shard) IN ({old})"  # noqa: S608 - as above
        # An entry's id begins with its time, so the oldest lie together.
        first_kept = str(int(datetime.fromisoformat(before).timestamp() * 1000))
        with self.transaction(), _told():
            return self._connection.execute(sql, (before, first_kept)).rowcount == SLICE

    def rights(self) -> None:
        """Who can open the file can write to it, or is told so by `Away`."""

    def interrupt(self) -> None:
        self._connection.interrupt()

    def scrub(self) -> None:
        """
        The file anew, without what pages may still hold between rows, and an empty write-ahead log.

        Raises:
            Away: somebody reads or writes without end.
        """
        self.run("VACUUM")
        [(busy, *_)] = self.run("PRAGMA wal_checkpoint(TRUNCATE)")
        if busy:
            raise Away("the archive is being read, so its write-ahead log could not be emptied; erase once more")

    def close(self) -> None:
        self._connection.close()


def _known(choose: Any) -> Any:
    """As PostgreSQL has it: what is NULL is left out."""
    return lambda *values: choose((value for value in values if value is not None), default=None)


@contextmanager
def _told() -> Iterator[None]:
    """A driver's error as one of ours."""
    try:
        yield
    except (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError) as error:
        raise Unfit(f"{type(error).__name__}: {error}") from None
    except (sqlite3.Error, OSError) as error:
        raise Away(f"SQLite: {error}") from None
