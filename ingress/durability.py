"""
What must have a message before its sender is told so: the memory of the server that took it, its disk, or a replica.

Sent behind the append over the same connection, so that it waits for that write.  What each can lose stands in
docs/guarantees.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from streams.connection import Store, info
from streams.errors import ConfigurationError, Unavailable

PATIENCE_MS = 2_000
"""Milliseconds that a disk or a replica has."""

_WAIT = {"fsync": ("WAITAOF", 1, 0, PATIENCE_MS), "replica": ("WAIT", 1, PATIENCE_MS)}


class Durability:
    """How one process waits."""

    def __init__(self, wanted: Literal["memory", "fsync", "replica"]) -> None:
        self.wanted = wanted
        self.command: Sequence[str | int] | None = _WAIT.get(wanted)
        """To send behind an append; None where its answer says it all."""

    async def prepare(self, store: Store) -> None:
        """
        See what this server can do.

        Raises:
            ConfigurationError: nothing that would keep the word.
            Unavailable: Redis cannot be reached.
        """
        if self.wanted != "fsync":
            return
        [known], persistence = await store.pipeline([("COMMAND", "INFO", "WAITAOF"), ("INFO", "persistence")])
        if info(persistence).get("aof_enabled") == "0":
            raise ConfigurationError('durability = "fsync" needs an append-only file: `appendonly yes` in redis.conf')
        if known is not None:
            return
        # Before Redis 7.2 only a server that writes before it answers is as good.
        [told] = await store.pipeline([("CONFIG", "GET", "appendfsync")])
        if not isinstance(told, list) or told[1:] != [b"always"]:
            raise ConfigurationError(
                'durability = "fsync" needs Redis 7.2 or Valkey (WAITAOF), or a server with `appendfsync always` that '
                "may be asked for it (CONFIG GET)"
            )
        self.command = None

    def check(self, reply: Any) -> None:
        """
        Read what came of `command`.

        Raises:
            Unavailable: not in time, or nobody can say.  The message is there all the same; its repeat waits anew.
        """
        if isinstance(reply, Exception):
            # Prepared for another server, or another setting of this one.
            raise Unavailable(f"Redis does not say where it is kept: {reply}", maybe_written=True) from reply
        count = reply[0] if isinstance(reply, list) else reply
        if count < 1:
            why = "the disk has not" if self.wanted == "fsync" else "no replica has"
            raise Unavailable(f"{why} got it within {PATIENCE_MS / 1000:g} s", maybe_written=True)
