"""
Which database the archive is in, and how it is opened: DATABASE_URL's PostgreSQL, else SQLite in DATA_DIR.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from processors.archive import migrations
from processors.archive.keeping import stamp
from processors.archive.session import Session
from processors.archive.sqlite import SQLite
from streams import log as logs
from streams.errors import ConfigurationError
from streams.settings import Settings

log = logs.get("archive")


def path(settings: Settings) -> Path:
    """Where SQLite's file is."""
    return settings.data_dir / "archive.db"


def everywhere(settings: Settings) -> dict[str, Settings]:
    """
    Wherever rows of somebody may lie: the archive, and the file that moving to PostgreSQL has left behind.

    Returns:
        what the receipt adds to a table's name there → settings that name it.
    """
    if settings.database_url is None or not path(settings).exists():
        return {"": settings}
    return {"": settings, f" ({path(settings).name})": msgspec.structs.replace(settings, database_url=None)}


def connected(settings: Settings) -> Session:
    """
    A session, whatever is in the database.

    Raises:
        Away: it cannot be reached.
        ConfigurationError: psycopg is not installed.
    """
    if settings.database_url is None:
        return SQLite(path(settings))
    try:
        from processors.archive.postgres import Postgres
    except ImportError:
        raise ConfigurationError(
            "environment: DATABASE_URL names a PostgreSQL, and psycopg is not installed: pip install 'cauce[archive]'"
        ) from None
    return Postgres(settings.database_url.reveal())


def opened(settings: Settings) -> Session:
    """
    A session on this release's tables, which are made where they are missing.

    Raises:
        Away, Wrong, ConfigurationError: as `connected`; Newer: the tables are a newer release's.
    """
    session = connected(settings)
    try:
        if migrations.found(session) < migrations.newest(session.dialect):
            session.rights()
            if applied := migrations.migrate(session, stamp(time.time())):
                version = migrations.newest(session.dialect)
                log.info("archive.migrated", database=session.dialect, version=version, steps=applied)
    except BaseException:
        session.close()
        raise
    return session
