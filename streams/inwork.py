"""
The turns that one consumer has in work: each is handled, ended, committed, and then gone.

A turn is one task, its handler's; the rest are callbacks, for what happens here happens to every message.  What becomes
of a turn is decided in fate.py, how it is told to Redis in committer.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import CoroutineType
from typing import Any, Literal

from streams import fate, log, metrics
from streams.buckets import Calendar
from streams.committer import Committer, Result
from streams.effects import Effects, Handler, Turn
from streams.endings import Ending, ending
from streams.errors import Crash
from streams.keys import Keys
from streams.tables import Group
from streams.turns import Changed, Grant

CANCEL_GRACE = 5.0
"""Seconds that a cancelled handler has to end before it is left behind."""


@dataclass(slots=True, eq=False)
class _Work:
    grant: Grant
    began: float
    handling: asyncio.Future[Effects | None] | None = None
    """The handler; None once its result is known, or nobody waits for it any more."""
    given_up: Literal["", "late", "lost", "superseded"] = ""
    """Why the handler was cancelled; its result counts no more, unless it has made one though superseded."""
    failed_to_commit: bool = False
    in_place: bool = True
    """It still has the place of a turn whose handler works."""


class InWork:
    """Starts turns and sees them through."""

    def __init__(
        self,
        keys: Keys,
        group: Group,
        handler: Handler,
        resources: Any,
        committer: Committer,
        *,
        journaled: bool,
        handled: Callable[[], None],
        ended: Callable[[Grant], None],
        due: Callable[[int], None],
        calendar: Calendar,
    ) -> None:
        """
        Args:
            journaled: how each turn ends is told in the group's journal.
            handled: called once for each turn, when another may be started in its place: once its handler has ended,
                or, while twice as many as may be handled at once are in work, when it is in work no longer.
            ended: called once for each turn, when it is in work no longer.
            due: called with the milliseconds until a key of which something is left is due again.
            calendar: in whose days is counted.
        """
        self._keys, self._group, self._handler, self._resources = keys, group, handler, resources
        self._committer, self._journaled, self._calendar = committer, journaled, calendar
        self._freed, self._ended, self._due = handled, ended, due
        self._log = log.get(group.name)
        self._loop = asyncio.get_running_loop()  # asked for once: it is a system call each time, until Python 3.12
        self._works: dict[str, _Work] = {}
        """By token, the oldest first."""
        self._alarm: asyncio.TimerHandle | None = None
        """One timer for all, for all have the same deadline: that of the oldest."""
        self._idle = asyncio.Event()

    def __len__(self) -> int:
        return len(self._works)

    def tokens(self) -> list[str]:
        """The leases that we hold."""
        return [token for token, work in self._works.items() if work.given_up != "lost"]

    def start(self, grant: Grant) -> None:
        """Handle a turn, or bury it unhandled where it was started too often."""
        work = self._works[grant.token] = _Work(grant, self._loop.time())
        if grant.turn.attempt > 1:
            metrics.RETRIES.labels(self._group.name).inc()
        if burial := fate.before(grant.starts, self._group.attempts):
            self._guarded(work, lambda: self._commit(work, "buried", self._buried(grant, burial)))
            return
        grant.turn.resources = self._resources
        before = log.trace.set(grant.turn.messages[-1].trace)  # the handler's task takes it along
        try:
            handled = self._handler.handle(grant.turn)
            if isinstance(handled, CoroutineType):
                work.handling = self._loop.create_task(handled)
            else:
                work.handling = asyncio.ensure_future(handled)
            work.handling.add_done_callback(partial(self._handled, work))
        except Exception as error:  # it is no coroutine function, and said so at once
            self._close(work, None, error)
            return
        finally:
            log.trace.reset(before)
        if self._alarm is None:
            self._alarm = self._loop.call_at(work.began + self._group.deadline, self._overdue)

    def lose(self, token: str) -> None:
        """Our lease is gone, and not by our own commit: what we do about this turn no longer counts."""
        work = self._works.get(token)
        if work is None or work.handling is None:
            return
        self._log.warning("lease.lost", token=token)
        self._give_up(work, "lost")

    def supersede(self, token: str) -> None:
        """Something of its key has come that its handler does not know of: handle all anew, where fate has it so."""
        work = self._works.get(token)
        if work is None or work.handling is None:
            return  # it has been made
        turn = work.grant.turn
        if fate.overtaken(turn.superseded, self._group.supersede_max, suspect=work.grant.suspect):
            self._give_up(work, "superseded")

    async def idle(self, seconds: float) -> None:
        """Return when nothing is in work, or after so many seconds."""
        self._idle.clear()
        if self._works:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._idle.wait()

    async def abandon(self) -> None:
        """Cancel what is in work; what has been ended by then is committed or not, as Redis finds it."""
        for work in list(self._works.values()):
            if work.handling is None:
                self._gone(work, "failed")
            else:
                self._give_up(work, "lost")
        await self.idle(CANCEL_GRACE)

    def cancel(self) -> None:
        """At once, and without a word to anybody."""
        for work in self._works.values():
            if work.handling is not None:
                work.handling.cancel()
        if self._alarm is not None:
            self._alarm.cancel()

    # A handler's end

    def _overdue(self) -> None:
        self._alarm = None
        for work in self._works.values():
            if (until := work.began + self._group.deadline) > self._loop.time():
                self._alarm = self._loop.call_at(until, self._overdue)
                return
            self._give_up(work, "late")

    def _give_up(self, work: _Work, why: Literal["late", "lost", "superseded"]) -> None:
        if work.handling is not None and not work.given_up:
            work.given_up = why
            work.handling.cancel()
            self._loop.call_later(CANCEL_GRACE, self._leave_behind, work)

    def _leave_behind(self, work: _Work) -> None:
        if work.handling is not None:
            self._let_go(work)

    def _handled(self, work: _Work, handling: asyncio.Future[Effects | None]) -> None:
        error = TimeoutError("the handler cancelled itself") if handling.cancelled() else handling.exception()
        if work.handling is None:
            return  # it was left behind
        if work.given_up and (error or work.given_up != "superseded"):
            self._let_go(work)
        elif isinstance(error, Crash):
            work.handling = None  # its lease is kept until the worker leaves, which is about to
        else:
            self._close(work, None if error else handling.result(), error)

    def _let_go(self, work: _Work) -> None:
        if work.given_up == "lost":
            self._gone(work, "failed")
        elif work.given_up == "superseded":
            self._guarded(work, lambda: self._commit(work, "superseded", self._joined(work.grant)))
        else:
            self._close(work, None, TimeoutError(f"deadline of {self._group.deadline:g} s passed"))

    # Its commit

    def _close(self, work: _Work, effects: Effects | None, error: BaseException | None) -> None:
        self._guarded(work, lambda: self._commit(work, *self._end(work.grant, effects, error)))

    def _guarded(self, work: _Work, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as error:
            # A bug of ours: the lease is named no longer, so the next beat gives the turn back.
            why = log.plainly(f"{type(error).__name__}: {error}", fate.blame(error))
            self._log.error("turn.failed", token=work.grant.token, why=why)
            self._gone(work, "failed")

    def _commit(self, work: _Work, word: str, end: Ending) -> None:
        work.handling = None
        if len(self._works) <= 2 * self._group.concurrency:
            self._free(work)
        self._committer.commit(end, partial(self._told, work, word, end))

    def _told(self, work: _Work, word: str, end: Ending, result: Result | Exception) -> None:
        if work.grant.token in self._works:
            self._guarded(work, lambda: self._committed(work, word, end, result))

    def _committed(self, work: _Work, word: str, end: Ending, result: Result | Exception) -> None:
        if isinstance(result, Changed):
            assert end.instead is not None  # noqa: S101 - else nothing could have changed
            try:
                return self._commit(work, word, end.instead())
            except Exception as error:
                result = error
        if isinstance(result, Exception):
            # Redis refuses these effects, or they cannot be made; without them the turn can still be parked or buried.
            if work.failed_to_commit:
                raise result
            work.failed_to_commit = True
            return self._commit(work, *self._end(work.grant, None, result))
        done, due_ms = result
        if not done:
            self._log.warning("turn.refused", turn=work.grant.turn.id, why="its lease is another's by now")
        if due_ms >= 0:
            self._due(due_ms)
        self._gone(work, word if done else "refused")

    def _gone(self, work: _Work, how: str) -> None:
        work.handling = None
        work.grant.turn.ahead = None  # it knows the turn, and a circle would wait for the collector
        del self._works[work.grant.token]
        self._free(work)
        metrics.turn(self._group.name, how, self._loop.time() - work.began)
        if not self._works:
            self._idle.set()
        self._ended(work.grant)

    def _free(self, work: _Work) -> None:
        if work.in_place:
            work.in_place = False
            self._freed()

    # What becomes of it

    def _end(self, grant: Grant, effects: Effects | None, error: BaseException | None) -> tuple[str, Ending]:
        """In a word, and for Redis."""
        turn = grant.turn
        if error is None:
            try:
                return "settled", self._ending(grant, [message.id for message in turn.messages], effects=effects)
            except Exception as wrong:  # whatever a handler's effects can be wrong about is the turn's failure
                error = wrong
        verdict = fate.after(
            error,
            attempt=turn.attempt,
            attempts=self._group.attempts,
            backoff=self._group.backoff,
            luck=random.random(),  # noqa: S311 - jitter, not a secret
        )
        if isinstance(verdict, fate.Burial):
            return "buried", self._buried(grant, verdict)
        assert isinstance(verdict, fate.Park)  # noqa: S101 - an error never settles
        level = self._log.warning if verdict.counted else self._log.debug
        why, wait_s = log.plainly(verdict.why, verdict.blame), verdict.delay_ms / 1000
        level("turn.parked", turn=turn.id, attempt=turn.attempt, wait_s=wait_s, why=why)
        return "parked", self._ending(grant, [], park=verdict)

    def _joined(self, grant: Grant) -> Ending:
        turn = grant.turn
        self._log.info("turn.superseded", turn=turn.id, messages=len(turn.messages), times=turn.superseded + 1)
        return self._ending(grant, [], park=fate.Join())

    def _buried(self, grant: Grant, burial: fate.Burial) -> Ending:
        turn, unrun = grant.turn, int(burial.unrun)
        guilty = [
            message
            for message, starts in zip(turn.messages, grant.starts, strict=True)
            if (not burial.exhausted_only or starts - unrun >= self._group.attempts)
            and burial.only in (None, message.id)
        ]
        ids = [message.id for message in guilty]
        how: dict[str, Any] = {"bury": burial.why, "blame": burial.blame, "uncounted": burial.unrun}
        why = log.plainly(burial.why, burial.blame)
        self._log.error("turn.buried", turn=turn.id, messages=len(ids), attempt=turn.attempt - unrun, why=why)
        if self._handler.buried:
            last = Turn(**{field: getattr(turn, field) for field in turn.__struct_fields__})
            last.messages, last.resources = guilty, self._resources
            try:
                return self._ending(grant, ids, effects=self._handler.buried(last, burial.why), **how)
            except Exception as error:  # an apology that fails must not keep the dead alive
                self._log.exception("apology.failed", turn=turn.id, why=type(error).__name__)
        return self._ending(grant, ids, **how)

    def _ending(self, grant: Grant, ids: list[str], **how: Any) -> Ending:
        how |= {"journaled": self._journaled, "calendar": self._calendar}
        return ending(self._keys, self._group, grant.turn, grant.token, ids, **how)
