"""
PostgreSQL: batches by COPY, tables in monthly partitions.

The only file that knows psycopg.  What its errors say may hold what was in a row or in DATABASE_URL: nothing of that
leaves here.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date
from typing import Any

import psycopg
from psycopg import errors

from processors.archive.migrations import newest
from processors.archive.rows import Row
from processors.archive.session import Away, Identity, Unfit, Wrong
from streams.masking import passwords

CONNECT_SECONDS, STATEMENT_SECONDS = 5, 30

_LOCK = 0x63617563  # "cauc"
"""Ours among PostgreSQL's advisory locks: shared by those who archive, taken alone by who migrates or erases."""

_MONTH = re.compile(r"_(\d{4})_(\d\d)$")


class Postgres:
    """A session.py's Session."""

    dialect = "postgres"

    def __init__(self, url: str) -> None:
        self._secrets = sorted(set(passwords(url)), key=len, reverse=True)
        self._there: set[str] = set()
        """Partitions that we have seen."""
        with self._told():
            self._connection = psycopg.connect(
                url,
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                prepare_threshold=None,  # PgBouncer may give each transaction another connection
                application_name="cauce-archive",
                keepalives_idle=10,
            )
            self.run("SET TIME ZONE 'UTC'")
            self.run(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")

    @contextmanager
    def transaction(self, *, alone: bool = False) -> Iterator[None]:
        with self._told(), self._connection.transaction():
            self.run(f"SELECT pg_advisory_xact_lock{'' if alone else '_shared'}({_LOCK})")
            yield

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._told(), self._connection.cursor() as cursor:
            cursor.execute(_sql(sql), values or None)
            return cursor.fetchall() if cursor.description else []

    def many(self, sql: str, values: Sequence[Sequence[Any]]) -> None:
        with self._told(), self._connection.cursor() as cursor:
            cursor.executemany(_sql(sql), values)

    def script(self, sql: str) -> None:
        self.run(sql)

    def insert(self, table: str, rows: Sequence[Row]) -> set[Identity]:
        if not rows:
            return set()
        names = rows[0].__struct_fields__
        columns, staged = ", ".join(names), f"staged_{table}_{newest(self.dialect)}"
        self.run(f"CREATE TEMP TABLE IF NOT EXISTS {staged} (LIKE {table}) ON COMMIT DELETE ROWS")
        with self._told(), self._connection.cursor() as cursor:
            with cursor.copy(_sql(f"COPY {staged} ({columns}) FROM STDIN")) as copy:
                for row in rows:
                    copy.write_row([getattr(row, name) for name in names])
            chosen = f"SELECT DISTINCT ON (entry, stream, shard) {columns} FROM {staged} ORDER BY entry, stream, shard"  # noqa: S608 - names of ours
            sql = f"INSERT INTO {table} ({columns}) {chosen} ON CONFLICT DO NOTHING RETURNING stream, shard, entry"
            cursor.execute(_sql(sql))
            return {(stream, shard, entry) for stream, shard, entry in cursor.fetchall()}

    def make_room(self, table: str, months: Sequence[str]) -> None:
        """Partitions for these months, made beside the table and attached, for which nobody has to stop writing."""
        for month in months:
            name = f"{table}_{month.replace('-', '_')}"
            if name in self._there:
                continue
            with self.transaction():
                self.run(f"SELECT pg_advisory_xact_lock({_LOCK + 1})")
                [(there,)] = self.run("SELECT to_regclass(?) IS NOT NULL", (name,))
                if not there:
                    first = date.fromisoformat(f"{month}-01")
                    next_one = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
                    self.run(f"CREATE TABLE {name} (LIKE {table} INCLUDING DEFAULTS)")
                    span = f"FROM ('{first}T00:00:00Z') TO ('{next_one}T00:00:00Z')"
                    self.run(f"ALTER TABLE {table} ATTACH PARTITION {name} FOR VALUES {span}")
            self._there.add(name)

    def expire(self, table: str, before: str) -> bool:
        """Partitions that lie wholly before; one that somebody uses is left for the next time."""
        children = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass(?)"
        for (name,) in self.run(children, (table,)):
            found = _MONTH.search(name)
            if found is None or f"{found[1]}-{found[2]}" >= before[:7]:
                continue
            with suppress(Away), self.transaction():
                self.run("SET LOCAL lock_timeout = '2s'")
                self.run(f"DROP TABLE {name}")
            self._there.discard(name)
        return False

    def scrub(self) -> None:
        """Nothing that we could do: what becomes of dead rows and of its write-ahead log is the server's."""

    def rights(self) -> None:
        """Raises Wrong: no table can be made."""
        asked = (
            "SELECT current_schema(), has_schema_privilege(current_schema(), 'CREATE'), "
            "has_database_privilege(current_database(), 'TEMP'), pg_is_in_recovery()"
        )
        [(schema, create, temporary, standby)] = self.run(asked)
        owned = self.run("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = to_regclass('messages')")
        if standby:
            raise Wrong("the server of DATABASE_URL is a standby, which takes no writes; name the primary")
        if not create or not temporary:
            missing = "CREATE on the schema" if not create else "TEMPORARY on the database"
            raise Wrong(f"the user of DATABASE_URL lacks {missing} ({schema or 'there is none in its search_path'})")
        if owned == [(False,)]:
            raise Wrong("the archive's tables are another user's: the one of DATABASE_URL can add no month to them")

    def interrupt(self) -> None:
        """From another thread: whatever it waits for fails now."""
        with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(self._connection.fileno())) as raw:
            raw.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """A driver's error as one of ours, without what it may quote."""
        try:
            yield
        except (errors.DataError, errors.IntegrityError) as error:
            if isinstance(error, errors.CheckViolation):  # a partition was dropped under our hands
                self._there.clear()
                raise Away(_first_line(error)) from None
            raise Unfit(f"{type(error).__name__} ({error.sqlstate})") from None
        except (errors.InsufficientPrivilege, errors.UndefinedTable, errors.UndefinedColumn) as error:
            raise Wrong(f"PostgreSQL: {self._bare(error)}") from None
        except psycopg.Error as error:
            raise Away(f"PostgreSQL: {self._bare(error)}") from None

    def _bare(self, error: Exception) -> str:
        text = _first_line(error)
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def _sql(text: str) -> bytes:
    """All of it is written here and in keeping.py; a value never becomes part of it."""
    return text.replace("?", "%s").encode()
