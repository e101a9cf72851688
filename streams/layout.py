"""
How this bot's keys lie in Redis, written there once; a process that would look for them elsewhere refuses to run.

With another number of shards a person's history, marks and turns would be looked for where they are not: nothing is
lost, but nobody is answered as before.  `cauce reshard` moves them.
"""

from __future__ import annotations

import asyncio

import msgspec

from streams import log, wire
from streams.errors import ConfigurationError, Unavailable
from streams.stores import Stores

EVERY = 3.0
"""Seconds between two looks: as often as a worker beats."""


class Layout(msgspec.Struct, frozen=True):
    """What decides where a key lies, beside the namespace."""

    shards: int
    tagged: bool
    """Keys carry their shard's tag: with several, and on a Cluster."""
    moving_to: int | None = None
    """The number of shards to which `cauce reshard` is moving, or was when it was cut off."""
    copied: bool = False
    """All is there, and only has to change places."""


def of(stores: Stores) -> Layout:
    """As this process would have it."""
    return Layout(shards=len(stores), tagged=bool(stores.first.keys.tag))


async def stored(stores: Stores) -> Layout | None:
    """
    As it is; None where nothing has been written here yet.

    Raises:
        ConfigurationError: a newer Cauce has written what we cannot read.
        Unavailable: Redis cannot be reached.
    """
    keys = stores.layout.keys
    told = await stores.layout.command("GET", keys.of("layout"))
    if told is None:
        # Releases that knew one way only wrote nothing of it.
        plain = not stores.clustered and await stores.layout.command("EXISTS", keys.of("groups"))
        return Layout(shards=1, tagged=False) if plain else None
    try:
        return msgspec.json.decode(told, type=Layout)
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"the key {keys.of('layout')} in Redis is none of ours: {error}") from error


async def agree(stores: Stores) -> None:
    """
    Write it where nobody has; else see that it is the same.

    Raises:
        ConfigurationError: it is another one.
        Unavailable: Redis cannot be reached.
    """
    if not await compare(stores):
        await stores.layout.command("SET", stores.layout.keys.of("layout"), wire.encode(of(stores)), "NX")
        await compare(stores)


async def compare(stores: Stores) -> bool:
    """
    See that it is the same; False where there is none yet.

    Raises:
        ConfigurationError: it is another one.
        Unavailable: Redis cannot be reached.
    """
    ours, theirs = of(stores), await stored(stores)
    if theirs is None:
        return False
    if theirs.moving_to is not None:
        raise ConfigurationError(
            f"this Redis is being changed from {theirs.shards} to {theirs.moving_to} shards; where `cauce reshard` was "
            "cut off, run it again"
        )
    if theirs != ours:
        raise ConfigurationError(
            f"shards = {ours.shards}, but what lies in this Redis is in {theirs.shards}; write shards = "
            f"{theirs.shards}, or stop every process and run `cauce reshard`"
        )
    return True


async def watch(stores: Stores) -> None:
    """
    Look again and again, until cancelled: Redis may have been emptied, or somebody else may be changing it.

    Raises:
        ConfigurationError: it is another one by now.
    """
    while True:
        await asyncio.sleep(EVERY)
        try:
            await agree(stores)
        except Unavailable as error:
            log.get("layout").debug("round.skipped", why=str(error))
