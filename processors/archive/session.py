"""
What the archive asks of a database, whichever it is: one connection, used by one thread at a time.

The SQL of keeping.py is written once for both, with `?` where a value goes; what they do differently is a method here.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from processors.archive.rows import Row
from streams.errors import CauceError

Identity = tuple[str, int, str]

SLICE = 1000
"""Rows deleted in one transaction."""


class Away(CauceError):
    """The database cannot be reached, or not be written to, now: nobody's message is to blame.  Says no secret."""


class Unfit(CauceError):
    """The database does not take this: a value is to blame.  Says nothing of what it holds."""


class Wrong(CauceError):
    """The database can be reached and not be used, as where rights are missing."""


class Newer(Wrong):
    """Its schema was made by a newer release."""


class Session(Protocol):
    """All of it raises Away, Unfit and Wrong, and nothing of a driver's own."""

    dialect: str

    def transaction(self, *, alone: bool = False) -> AbstractContextManager[None]:
        """
        All or nothing.

        Args:
            alone: nobody else archives meanwhile: what they have begun is committed before.
        """

    def run(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """One statement; its rows."""

    def many(self, sql: str, values: Sequence[Sequence[Any]]) -> None:
        """One statement for each row of values."""

    def script(self, sql: str) -> None:
        """Several statements, without values."""

    def insert(self, table: str, rows: Sequence[Row]) -> set[Identity]:
        """Rows of one table that are not there yet; says which those were."""

    def make_room(self, table: str, months: Sequence[str]) -> None:
        """Before a transaction: there is a place for rows of these months (`2025-10`)."""

    def expire(self, table: str, before: str) -> bool:
        """Some rows of a table with a row for each entry, older than this; whether there may be more."""

    def rights(self) -> None:
        """Raises Wrong: tables cannot be made, or not be written to."""

    def scrub(self) -> None:
        """What was deleted leaves no trace in its files, as far as it can be made to."""

    def interrupt(self) -> None:
        """From another thread: whatever it waits for fails now."""

    def close(self) -> None: ...
