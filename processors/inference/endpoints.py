"""
Which of several model servers is asked next, and how much at once.

Pure: time comes in, and what became of a request is told.  The least busy of those that answer is taken; one that does
not answer is left alone for a second, for twice as long after each further failure, up to half a minute, and then tried
with one request (the circuit breaker of M. Nygard, "Release It!").  One that fails while it has several of ours gets
half as many from then on, and one more after some that went well, which is taken back where it does not: D.-M. Chiu and
R. Jain, "Analysis of the Increase and Decrease Algorithms for Congestion Avoidance in Computer Networks" (1989),
section 2.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds for which a server that failed is left alone."""

MOST_DOUBTS = 3

FIRST_TRIAL, LONGEST_TRIAL = 8, 512
"""Requests that have to go well before a server that was crowded gets one more at once; after each further crowd twice
as many."""


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
    most: int | None = None
    """Requests of ours that it can take at once, as far as it has shown; None: any number."""
    crowd: int = 0
    """How many it had when that was last found out."""
    crowded_at: float = -1.0
    """And when."""
    shared_at: float = -1.0
    """When it last had two at once."""
    trial: int = FIRST_TRIAL
    """Requests that have to go well before it gets one more."""
    well: int = 0
    """Those that have, since it was crowded or got one more."""
    grown: bool = False
    """The last change of `most` was one more: one fewer is known to go well."""
    tells: bool | None = None
    """Whether it tells why an answer ended; None: it has not shown."""

    @property
    def full(self) -> bool:
        return self.most is not None and self.busy >= self.most


class Endpoints:
    """Those that serve one model."""

    def __init__(self, urls: Sequence[str]) -> None:
        self.all = [Endpoint(url.rstrip("/")) for url in urls]

    def next(self, now: float, but: Container[Endpoint] = ()) -> Endpoint | None:
        """The one to ask; None where all others are to be left alone.  It counts as busy until `done`."""
        free = [each for each in self.all if each not in but and self._takes(each, now) and not each.full]
        if not free:
            return None
        chosen = min(free, key=lambda each: (each.failures > 0, each.doubts, each.busy))
        chosen.busy += 1
        self._look(chosen, now)
        return chosen

    @staticmethod
    def _look(endpoint: Endpoint, now: float) -> None:
        if endpoint.busy > 1:
            endpoint.shared_at = now

    @staticmethod
    def _takes(endpoint: Endpoint, now: float) -> bool:
        if endpoint.failures == 0:
            return True
        return endpoint.again_at <= now and endpoint.busy == 0  # one request finds out for all

    def all_full(self, now: float, but: Container[Endpoint] = ()) -> bool:
        """Some of the others would take one, but for those that they have."""
        return any(each not in but and each.full and self._takes(each, now) for each in self.all)

    def done(self, endpoint: Endpoint, now: float) -> None:
        """A request has ended, in whatever way."""
        self._look(endpoint, now)
        endpoint.busy -= 1

    def works(self, endpoint: Endpoint) -> None:
        """It has answered a request."""
        endpoint.failures = endpoint.doubts = 0
        endpoint.well += 1
        if endpoint.most is None or endpoint.well < endpoint.trial:
            return
        endpoint.most, endpoint.well, endpoint.grown = endpoint.most + 1, 0, True
        if endpoint.most > endpoint.crowd:  # it takes them well now: it was something else, or is no more
            endpoint.most, endpoint.trial = None, FIRST_TRIAL

    @staticmethod
    def _shared(endpoint: Endpoint, began: float) -> bool:
        """It had others of ours since then."""
        return endpoint.shared_at >= began

    def interrupted(self, endpoint: Endpoint, began: float, finish: str | None) -> bool:
        """
        Whether the answer to a request that was sent then is not the whole one, though it came to an end.

        llama-cpp-python's server ends who is served when somebody else comes, and does not say so: there is no reason.
        Some servers never give one.
        """
        if finish is not None:
            endpoint.tells = True
        elif endpoint.tells is None and not self._shared(endpoint, began):
            endpoint.tells = False
        return finish is None and endpoint.tells is not False

    def crowded(self, endpoint: Endpoint, began: float, now: float) -> bool:
        """
        A request failed that was sent then.  Returns whether it had others of ours beside it, and may have failed for
        them; it gets fewer at once from now on.
        """
        if not self._shared(endpoint, began):
            return False
        if began > endpoint.crowded_at:  # else it had been sent before that was known
            endpoint.trial = FIRST_TRIAL if endpoint.most is None else min(LONGEST_TRIAL, 2 * endpoint.trial)
            tried_one_more = endpoint.most is not None and endpoint.grown and endpoint.busy >= endpoint.most
            endpoint.crowd, endpoint.crowded_at = endpoint.busy, now
            endpoint.most = max(1, endpoint.busy - 1 if tried_one_more else endpoint.busy // 2)
            endpoint.well, endpoint.grown = 0, False
        return True

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
