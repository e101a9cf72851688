"""
What Redis has written to its disk, written again without what has been deleted since.

An append-only file holds every write since it was last rewritten, deleted or not, and a snapshot what was there when it
was made.  Knows what INFO says of both.  Hosted servers refuse these commands, and then only their host can help.
"""

from __future__ import annotations

import asyncio

import msgspec
from redis.exceptions import ResponseError

from streams.connection import Store, info

LOOK = 0.1
"""Seconds between two looks at how far it is."""


class _File(msgspec.Struct, frozen=True):
    """One of the two, and what INFO calls its state."""

    name: str
    command: str
    status: str


_AOF = _File("the append-only file", "BGREWRITEAOF", "aof_last_bgrewrite_status")
_RDB = _File("the snapshot (RDB)", "BGSAVE", "rdb_last_bgsave_status")
_BUSY = ("aof_rewrite_in_progress", "aof_rewrite_scheduled", "rdb_bgsave_in_progress", "loading")


class Disk(msgspec.Struct, kw_only=True):
    """What came of it."""

    rewritten: list[str] = []
    left: list[str] = []
    """What could not be done, and why."""
    replicas: int = 0


async def rewrite(store: Store, within: float) -> Disk:
    """
    Rewrite what a shard's server keeps on its disk.

    Args:
        within: seconds after which it is not waited for any longer; it goes on all the same.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    disk, until = Disk(), asyncio.get_running_loop().time() + within
    told, save = await _told(store), await store.pipeline([("CONFIG", "GET", "save")])
    [role] = await store.pipeline([("INFO", "replication")])
    disk.replicas = int(info(role).get("connected_slaves", 0))
    files = [_AOF] if not told or told.get("aof_enabled") == "1" else []
    if not _without_snapshots(save[0]):
        files.append(_RDB)
    for file in files:
        if why := await _rewrite(store, file, until):
            disk.left.append(f"{file.name} still holds it: {why}")
        else:
            disk.rewritten.append(file.name)
    return disk


def _without_snapshots(reply: object) -> bool:
    """Only where it says so: a server that does not tell may have one."""
    return isinstance(reply, list) and len(reply) == 2 and not reply[1]


async def _told(store: Store) -> dict[str, str]:
    return info((await store.pipeline([("INFO", "persistence")]))[0])


async def _rewrite(store: Store, file: _File, until: float) -> str:
    """Why it was not done; empty where it was."""
    if not await _idle(store, until):
        return "the server is busy writing another"
    [reply] = await store.pipeline([(file.command,)])
    if isinstance(reply, ResponseError):
        if "in progress" in str(reply) and asyncio.get_running_loop().time() < until:
            return await _rewrite(store, file, until)  # somebody else was faster, and began before what was deleted
        return f"the server refuses {file.command} ({reply})"
    if not await _idle(store, until):
        return f"{file.command} has begun and is still under way; run this again to see that it has ended well"
    told = await _told(store)
    if told.get(file.status) != "ok":
        return f"{file.command} has failed" if told else f"this server does not tell whether {file.command} has ended"
    return ""


async def _idle(store: Store, until: float) -> bool:
    """Wait until it writes nothing in the background."""
    while True:
        told = await _told(store)
        if all(told.get(field, "0") == "0" for field in _BUSY):
            return True
        if asyncio.get_running_loop().time() >= until:
            return False
        await asyncio.sleep(LOOK)
