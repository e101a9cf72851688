"""
What was said with a person before, read back from the archive for whoever answers them (`history.from_archive`).

Never a reason to wait: it is given a moment, and a database that does not answer within it is left alone for a while.
Whether there is an archive at all does not matter either; where there is none, nothing was said.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from processors.archive import keeping, migrations, opening
from processors.archive.door import Door
from processors.archive.session import Away, Session, Unfit, Wrong
from streams.settings import Settings

PATIENCE = 0.3
"""Seconds."""


class Past:
    """A reader of its own; it writes nothing and makes no tables."""

    def __init__(self, settings: Settings, *, patience: float = PATIENCE) -> None:
        self._door = Door(
            partial(_opened, settings), stalled=patience, hint="replies are made without what was said before"
        )

    async def reach(self) -> None:
        """Connect, and load what that needs, before anybody waits.  Raises ConfigurationError, as `Door.reach`."""
        await self._door.reach()

    async def before(self, person: str, at_ms: int, most: int) -> list[dict[str, Any]]:
        """
        What was last said before that moment, oldest first; nothing where the archive does not answer at once.

        Each has `at`, `role`, `kind`, `text`, `message_id`, `source`, `metadata` and
        `content`.
        """
        at = keeping.stamp(at_ms / 1000)
        try:
            return await self._door.ask(lambda session: keeping.before(session, person, at, most))
        except (Away, Wrong, Unfit):
            return []

    async def close(self) -> None:
        await self._door.close()


def _opened(settings: Settings) -> Session:
    """With the tables that are there; raises Away where no worker has made any yet."""
    if settings.database_url is None and not opening.path(settings).exists():
        raise Away(f"there is no {opening.path(settings)} yet")
    session = opening.connected(settings)
    try:
        if migrations.found(session) == 0:
            raise Away("nothing has been archived yet")
    except BaseException:
        session.close()
        raise
    return session
