"""
Which of several model servers is asked next.

Pure: time comes in, and what became of a request is told.  The least busy of those that answer is taken; one that does
not answer is left alone for a second, for twice as long after each further failure, up to half a minute, and then tried
with one request (the circuit breaker of M. Nygard, "Release It!").
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds for which a server that failed is left alone."""

MOST_DOUBTS = 3


@dataclass(eq=False)
class Endpoint:
    """One server."""

    url: str
    """Without a slash at its end: `https://models.example/v1`."""
    busy: int = 0
    """Requests that it is answering for us."""
    failures: int = 0
    """In a row."""
    doubts: int = 0
    """Requests in a row at which it failed, though it answered: they may be to blame."""
    again_at: float = 0.0
    """When it may be asked again, in seconds on the caller's clock."""


class Endpoints:
    """Those that serve one model."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.all = [Endpoint(url.rstrip("/")) for url in urls]

    def next(self, now: float, but: Container[Endpoint] = ()) -> Endpoint | None:
        """The one to ask; None where all others are to be left alone.  It counts as busy until `done`."""
        free = [each for each in self.all if each not in but and self._takes(each, now)]
        if not free:
            return None
        chosen = min(free, key=lambda each: (each.failures > 0, each.doubts, each.busy))
        chosen.busy += 1
        return chosen

    @staticmethod
    def _takes(endpoint: Endpoint, now: float) -> bool:
        if endpoint.failures == 0:
            return True
        return endpoint.again_at <= now and endpoint.busy == 0  # one request finds out for all

    def done(self, endpoint: Endpoint) -> None:
        """A request has ended, in whatever way."""
        endpoint.busy -= 1

    def works(self, endpoint: Endpoint) -> None:
        endpoint.failures = endpoint.doubts = 0

    def doubted(self, endpoint: Endpoint, now: float) -> None:
        """It failed at a request that may be to blame for it; at several in a row it is the server."""
        endpoint.doubts += 1
        if endpoint.doubts >= MOST_DOUBTS:
            self.failed(endpoint, now)

    def failed(self, endpoint: Endpoint, now: float, *, pause: float | None = None) -> None:
        """
        It could not be reached, or takes nothing now.

        Args:
            pause: seconds for which it asked to be left alone.
        """
        if endpoint.failures and now < endpoint.again_at:
            return  # of many requests under way the first has said so
        endpoint.failures += 1
        ours = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(10, endpoint.failures - 1))
        endpoint.again_at = now + (ours if pause is None else min(LONGEST_PAUSE, max(pause, 0.1)))

    def wait(self, now: float) -> float:
        """Seconds until one may be asked again; 0 where one may."""
        return max(0.0, min((each.again_at if each.failures else now) for each in self.all) - now)

    @property
    def up(self) -> bool:
        """At least one is not known to fail."""
        return any(each.failures == 0 for each in self.all)
