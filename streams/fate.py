"""
What becomes of a turn after its handler has run, or could not.

Pure: no clock, no Redis.  inwork.py supplies both and carries the verdict out, so every rule about retrying can be
read, and tested, in this file alone.
"""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from streams.errors import Bury, CauceError, Crash, Malformed, Retry


class Settle(msgspec.Struct, frozen=True):
    """Done: commit what the handler returned."""


class Park(msgspec.Struct, frozen=True):
    """Not now, again later."""

    delay_ms: int
    why: str
    counted: bool = True
    blame: str = ""
    """What to tell instead of `why` where nothing that people write may stand; empty: the same."""
    progress: str | None = None
    at_door: bool = False
    """Due at once when a request claims it."""


class Join(msgspec.Struct, frozen=True):
    """Superseded: again with what has come since, at the end of its window.  It was no attempt."""

    counted: ClassVar[bool] = False


class Burial(msgspec.Struct, frozen=True):
    """Never again: to the dead letters."""

    why: str
    blame: str = ""
    """As a Park's."""
    exhausted_only: bool = False
    """Bury the messages whose attempts are used up; what came later gets its own chances."""
    only: str | None = None
    """Bury this entry alone: it is known to be the one to blame."""
    unrun: bool = False
    """It was not handled this time, so this start is no attempt."""


Fate = Settle | Park | Join | Burial

JITTER = 0.2
"""Backoff is stretched or shrunk by up to this share, so that what failed together does not return together."""


def before(starts: Sequence[int], attempts: int) -> Burial | None:
    """A turn that was started more often than allowed is buried without running: its worker died each time."""
    if starts[0] > attempts:
        return Burial(why=f"its worker died or lost it {attempts} times", exhausted_only=True, unrun=True)
    return None


def overtaken(superseded: int, most: int, *, suspect: bool) -> Join | None:
    """
    Whether a turn in work makes way for what has come of its key since.

    Args:
        superseded: how often it has already; `most` times, and whoever writes on and on is answered all the same.
        suspect: it has to be alone in its turn, so nothing could join it.
    """
    return Join() if superseded < most and not suspect else None


def after(error: BaseException | None, *, attempt: int, attempts: int, backoff: Sequence[float], luck: float) -> Fate:
    """
    Args:
        error: what the handler raised; None where it returned.
        attempt: 1 for the first start.
        attempts: how many starts a turn has.
        backoff: seconds after the first, second, … failure; the last stands for all that follow.
        luck: uniform in [0, 1), for the jitter.
    """
    if error is None:
        return Settle()
    wait: float | None
    if isinstance(error, (Bury, Malformed)):
        text = str(error) or type(error).__name__
        return Burial(why=text, blame=blame(error), only=getattr(error, "entry", None))
    reason, retry = why(error), error if isinstance(error, Retry) else Retry()
    if not retry.counted:
        wait = 1.0 if retry.after is None else retry.after
        return Park(delay_ms=_ms(wait), why=reason, counted=False, progress=retry.progress, at_door=retry.at_door)
    if attempt >= attempts:
        return Burial(why=reason, blame=blame(error), exhausted_only=True)
    wait = retry.after
    if wait is None:
        wait = (backoff[min(attempt, len(backoff)) - 1] if backoff else 1.0) * (1 + JITTER * (2 * luck - 1))
    wait_ms = _ms(max(wait, retry.not_before))
    return Park(delay_ms=wait_ms, why=reason, blame=blame(error), progress=retry.progress)


def of_all(error: BaseException) -> bool:
    """Whether what a batch raised is for all its turns; else it is nobody's attempt, and each is tried alone."""
    return isinstance(error, Crash) or (isinstance(error, Retry) and not error.counted)


def _ms(seconds: float) -> int:
    return max(0, round(seconds * 1000))


def why(error: BaseException) -> str:
    """The error's kind and the start of its text; never a traceback."""
    if isinstance(error, TimeoutError):
        return "deadline passed"
    text = str(error).splitlines()[0][:200] if str(error) else ""
    if isinstance(error, Retry):
        return text or "retry"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def blame(error: BaseException) -> str:
    """
    The kind of an error that is not ours, and where in the handler's module it was raised; of ours what a Bury says.

    For the text of others may quote what somebody wrote: `int("tengo diabetes")` does.
    """
    if isinstance(error, (CauceError, TimeoutError)):
        return error.blame if isinstance(error, Bury) else ""
    kind, frames = type(error).__name__, list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return kind
    theirs = [(frame.f_code.co_filename, line) for frame, line in frames if not _ours(frame.f_globals)]
    # Where a handler was never reached, as with effects that cannot be encoded, it is our own line.
    file, line = theirs[0] if theirs else (frames[-1][0].f_code.co_filename, frames[-1][1])
    line = next((line for name, line in reversed(theirs) if name == file), line)
    return f"{kind} at {Path(file).name}:{line}"


def _ours(module: dict[str, object]) -> bool:
    return str(module.get("__name__")).startswith("streams.")
