"""
The errors we raise on purpose, as one tree.

Anything outside this tree is a bug and may show a traceback; anything inside carries a sentence a person can act on.
"""

from __future__ import annotations


class CauceError(Exception):
    """The root: catch this to catch all that Cauce raises on purpose."""


class ConfigurationError(CauceError):
    """Something in streams.toml or the environment is wrong; the command line prints it and exits with 2."""


class Unavailable(CauceError):
    """
    Redis cannot take the write now.

    Attributes:
        maybe_written: the answer was lost after the command had left, so it may have happened.
        retry_after: seconds after which it is worth trying again.
        told: Redis is away, which the log says once for all who find it so; whoever catches this need not.
    """

    def __init__(self, why: str, *, maybe_written: bool = False, retry_after: int = 2, told: bool = False) -> None:
        super().__init__(why)
        self.told = told
        self.maybe_written = maybe_written
        self.retry_after = retry_after


class Malformed(CauceError):
    """
    An entry on a stream, or a body from outside, is not what its format says; it will never become so.

    Attributes:
        entry: the id of the entry to blame, where it is known; its neighbours in the turn are not.
    """

    def __init__(self, why: str, *, entry: str | None = None) -> None:
        super().__init__(why)
        self.entry = entry


class Retry(CauceError):
    """
    Raised by a handler: not now, again later.

    Args:
        why: a short reason for the log; never message text.
        after: seconds until the next attempt; None takes the group's backoff.
        not_before: seconds; the next attempt is that far off at least, and by the group's backoff where that is longer.
        counted: False where the turn is not to blame (a model server or webhook that is down): no attempt is used up.
        at_door: it waits for a request that may still claim it, and is due as soon as one does.
        progress: what the next attempt finds in `turn.progress`; None leaves it as it is.
    """

    def __init__(
        self,
        why: str = "",
        *,
        after: float | None = None,
        not_before: float = 0.0,
        counted: bool = True,
        progress: str | None = None,
        at_door: bool = False,
    ) -> None:
        super().__init__(why)
        self.after = after
        self.not_before = not_before
        self.counted = counted
        self.progress = progress
        self.at_door = at_door


class Crash(CauceError):
    """
    Raised by a handler whose resources died under it, any of those in work may be why, and raised by their `failed()`.

    The worker ends, and what was in work was so at a crash, as if its process had been killed.
    """


class Bury(CauceError):
    """
    Raised by a handler: this can never succeed; to the dead letters with it, with this reason.

    Args:
        why: the reason, which the dead letter keeps.
        blame: what the journal and production's log say in its place, where it quotes anybody; empty: the same.
    """

    def __init__(self, why: str = "", *, blame: str = "") -> None:
        super().__init__(why)
        self.blame = blame


class Partly(CauceError):
    """
    Raised by a `forget`: not all of it could be done.

    Attributes:
        done: how much of what was deleted all the same.
    """

    def __init__(self, why: str, done: dict[str, int]) -> None:
        super().__init__(why)
        self.done = done
