"""
The schema, brought to this release's: numbered files of SQL, each applied once, in their order, all in one transaction.

`archive_versions` says which have been.  Whoever starts first applies them; whoever starts meanwhile waits.
"""

from __future__ import annotations

from pathlib import Path

from processors.archive.session import Newer, Session

_FILES = Path(__file__).with_name("schema")
_TABLE = "CREATE TABLE IF NOT EXISTS archive_versions (version integer PRIMARY KEY, applied_at text NOT NULL)"


def steps(dialect: str) -> dict[int, str]:
    """Number → SQL, of `postgres` or `sqlite`."""
    files = sorted((_FILES / dialect).glob("*.sql"))
    return {int(file.name.partition("_")[0]): file.read_text(encoding="utf-8") for file in files}


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
