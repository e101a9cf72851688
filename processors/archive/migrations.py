"""
The schema, brought to this release's: numbered files of SQL, each applied once, in their order, all in one transaction.

`archive_versions` says which have been.  Whoever starts first applies them; whoever starts meanwhile waits.
"""

from __future__ import annotations

from pathlib import Path
from string import Template

from processors.archive.session import Newer, Session

_FILES = Path(__file__).with_name("schema")
_TABLE = "CREATE TABLE IF NOT EXISTS archive_versions (version integer PRIMARY KEY, applied_at text NOT NULL)"


_WORDS = {
    "postgres": {
        "time": "timestamptz", "json": "jsonb", "day": "date", "hour": "time", "small": "smallint", "big": "bigint",
        "and_at": ", at", "by_entry": " PARTITION BY RANGE (at)",
        "random": "gen_random_uuid()::text || gen_random_uuid()::text",
    },
    "sqlite": {  # times are UTC as ISO 8601 has it
        "time": "text", "json": "text", "day": "text", "hour": "text", "small": "integer", "big": "integer",
        "and_at": "", "by_entry": " WITHOUT ROWID",
        "random": "lower(hex(randomblob(32)))",
    },
}  # fmt: skip
"""What the files have in one database and in the other for each of their words."""


def steps(dialect: str) -> dict[int, str]:
    """Number → SQL, of `postgres` or `sqlite`."""
    files = {int(file.name.partition("_")[0]): file.read_text(encoding="utf-8") for file in _FILES.glob("*.sql")}
    return {number: Template(sql).substitute(_WORDS[dialect]) for number, sql in sorted(files.items())}


def newest(dialect: str) -> int:
    """The version that this release works with."""
    return max(steps(dialect))


def found(session: Session) -> int:
    """The version that is there; 0 where there is none.  Changes nothing.  Raises Newer: it is newer than ours."""
    there = {
        "postgres": "SELECT to_regclass('archive_versions') IS NOT NULL",
        "sqlite": "SELECT count(*) FROM sqlite_master WHERE name = 'archive_versions'",
    }
    [(known,)] = session.run(there[session.dialect])
    [(version,)] = session.run("SELECT max(version) FROM archive_versions") if known else [(0,)]
    if (version or 0) > newest(session.dialect):
        raise Newer(
            f"the archive's schema has version {version}, and this release knows {newest(session.dialect)}: it was "
            "written by a newer one; update Cauce, or name another database"
        )
    return version or 0


def migrate(session: Session, now: str) -> int:
    """
    Apply what is missing.

    Returns:
        how many were.

    Raises:
        Newer: the schema is newer than this release.
    """
    if found(session) == newest(session.dialect):
        return 0
    with session.transaction(alone=True):
        session.run(_TABLE)
        version = found(session)  # somebody may have been faster
        missing = {number: sql for number, sql in steps(session.dialect).items() if number > version}
        for number, sql in missing.items():
            session.script(sql)
            session.run("INSERT INTO archive_versions VALUES (?, ?)", (number, now))
    return len(missing)
