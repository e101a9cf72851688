"""
The archive: what was said, asked for and delivered, in a database, for good.

A handler for each kind of stream; each takes a batch of entries and returns once the database has them, so what is
acknowledged is kept, and what is done twice is one row.  Which database stands in opening.py, what is done there in
keeping.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import Any

import msgspec

from processors.archive import keeping, migrations, opening, rows
from processors.archive.door import Door
from processors.archive.session import Away, Unfit, Wrong
from streams import log as logs
from streams.effects import Turn, handler
from streams.errors import Bury, CauceError, ConfigurationError, Partly, Unavailable
from streams.settings import Settings
from streams.tables import Archive, Group
from streams.topology import Topology

log = logs.get("archive")

TIDY_SECONDS = 3600.0
"""Between two looks for what is older than `archive.keep`."""


class Resources(msgspec.Struct, kw_only=True):
    """What the batches of one worker share."""

    door: Door
    stream: str
    names: Archive


@asynccontextmanager
async def opened(group: Group, topology: Topology, settings: Settings, stores: Any) -> AsyncIterator[Resources]:
    """
    Where the database is away the worker waits for it.

    Raises:
        ConfigurationError: psycopg is missing, or a newer release has made the tables.
    """
    here = Resources(door=Door(partial(opening.opened, settings)), stream=group.reads, names=topology.archive)
    await here.door.reach()
    tidying = asyncio.create_task(_tidy(here))
    try:
        yield here
    finally:
        tidying.cancel()
        await asyncio.gather(tidying, return_exceptions=True)
        await here.door.close()


async def forget(person: str, group: Group, topology: Topology, settings: Settings) -> dict[str, int]:
    """
    Everything of a person, of whatever group: rows by table.  The first group of the archive does it for all.

    Raises:
        Unavailable: the database cannot be reached.
        Partly: the rows are gone, and their bytes still in its files; or of two databases one cannot be reached.
    """

    def act(place: Settings) -> dict[str, int]:
        with closing(opening.opened(place)) as session:
            gone = keeping.forget(session, person)
            try:
                session.scrub()
            except (Away, Wrong) as error:
                raise Partly(str(error), gone) from None
            return gone

    return await _asked(act, group, topology, settings)


async def kept(person: str, group: Group, topology: Topology, settings: Settings) -> dict[str, int]:
    """
    How many rows `forget` would delete, by table; a database that no worker has made yet is not made for it.

    Raises:
        Unavailable, Partly: it, or one of two, cannot be reached.
    """

    def act(place: Settings) -> dict[str, int]:
        if place.database_url is None and not opening.path(place).exists():
            return {}
        with closing(opening.connected(place)) as session:
            return keeping.kept(session, person) if migrations.found(session) else {}

    return await _asked(act, group, topology, settings)


async def _asked(
    act: Callable[[Settings], dict[str, int]], group: Group, topology: Topology, settings: Settings
) -> dict[str, int]:
    """By the first of the archive's groups for all."""
    ours = [each.name for each in topology.groups.values() if each.handler.startswith(f"{__name__}:")]
    if group.name in ours[1:]:
        return {}
    return await asyncio.to_thread(_everywhere, act, settings)


def _everywhere(act: Callable[[Settings], dict[str, int]], settings: Settings) -> dict[str, int]:
    """In each database, whatever becomes of the other."""
    done: dict[str, int] = {}
    wrong, nothing = [], True
    for mark, place in opening.everywhere(settings).items():
        rows: dict[str, int] = {}
        try:
            rows, nothing = act(place), False
        except Partly as error:
            rows, nothing = error.done, False
            wrong.append(f"the archive{mark}: {error}")
        except (Away, Wrong, ConfigurationError) as error:
            wrong.append(f"the archive{mark}: {error}")
        done |= {table + mark: count for table, count in rows.items()}
    if wrong and nothing:
        raise Unavailable("; ".join(wrong))
    if wrong:
        raise Partly("; ".join(wrong), done)
    return done


@handler(batch=True, outside=True, lifespan=opened, forget=forget, kept=kept)
async def messages(turns: list[Turn]) -> None:
    """Of `inbound`."""
    await _keep(turns, rows.said)


@handler(batch=True, outside=True, lifespan=opened, forget=forget, kept=kept)
async def replies(turns: list[Turn]) -> None:
    """Of `outbound`."""
    await _keep(turns, rows.replied)


@handler(batch=True, outside=True, lifespan=opened, forget=forget, kept=kept)
async def statuses(turns: list[Turn]) -> None:
    """Of `statuses`."""
    await _keep(turns, rows.reported)


@handler(batch=True, outside=True, lifespan=opened, forget=forget, kept=kept)
async def deliveries(turns: list[Turn]) -> None:
    """Of the stream that egress writes to."""
    await _keep(turns, rows.delivered)


async def _keep(turns: Sequence[Turn], read: Callable[[Turn, str], list[rows.Row]]) -> None:
    """
    Raises:
        Retry: the database is away; no attempt of anybody's.
        Bury, Malformed: an entry that no table takes; with others beside it each is tried alone.
    """
    here: Resources = turns[0].resources
    found = [row for turn in turns for row in read(turn, here.stream)]
    try:
        await here.door.kept(lambda session: keeping.keep(session, found, here.names))
    except Unfit as error:
        raise Bury(f"the archive does not take it: {error}") from None


async def _tidy(here: Resources) -> None:
    """What is too old goes, at the start and every hour; where that fails it is tried again then."""
    while True:
        with contextlib.suppress(CauceError):
            while await here.door.ask(lambda session: keeping.expire(session, here.names)):
                pass  # between two slices others have their turn
        await asyncio.sleep(TIDY_SECONDS)
