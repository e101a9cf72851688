"""
Is Redis there?  As this process finds when it calls; the log says once that it is lost and once that it is back.

Everybody's calls fail at once and each repeats its own, so none of them can tell alone what is news.  Asks nothing
itself, and knows neither connections nor commands.
"""

from __future__ import annotations

import asyncio

from streams import log, metrics

LOST_AFTER = 1.0
"""Seconds for which a call has to fail: a connection that was reset, or a quick failover, is nobody's news."""

_log = log.get("redis")


class Outage:
    """What one process knows of its Redis, whatever the number of shards and callers."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._refused: set[str] = set()
        """Calls to which a server that can be read said no; empty where none can be reached."""
        self._worked: dict[str, float] = {}
        """Each call, and when it was last answered."""

    def fails(self, call: str, since: float, why: str, *, readable: bool) -> None:
        """
        A call has failed for too long.

        Args:
            call: what was called, such as the name of a command.
            since: when it began to fail, by the loop's clock.
            readable: Redis answers, and takes no writes; others that only read are answered all the while.
        """
        if not self._worked:
            return  # what was never there cannot be lost; whoever starts says so
        if max([self._worked.get(call, 0.0)] if readable else self._worked.values()) > since:
            return  # it was this one's connection that was bad: others were answered meanwhile
        if self._since is None:
            self._since = since
            metrics.REDIS.set(0)
            _log.warning("redis.lost", why=why)
            self._refused = {call} if readable else set()
        elif readable and self._refused:
            self._refused.add(call)

    def works(self, call: str, *, writes: bool) -> None:
        """A call has been answered; `writes`: and it is one that no server takes that can only be read."""
        now = asyncio.get_running_loop().time()
        if not self._worked:
            metrics.REDIS.set(1)
        self._worked[call] = now
        if self._since is not None and (writes or not self._refused or call in self._refused):
            metrics.REDIS.set(1)
            _log.info("redis.back", after_s=round(now - self._since, 1))
            self._since = None
