"""
Many turns in one call of a handler: gathered, called, and told apart again.

Each turn stays what it is, with its own lease, commit and fate; only the call is shared.  So this stands between worker
and handler, and looks to the worker like a handler of single turns.  Knows no Redis.  Whether an error is a whole
batch's fate.py says; if not, whose it is shows when each of its turns is tried alone.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from streams import fate, log
from streams.effects import Effects, Handler, Turn
from streams.tables import Group, Seconds

CANCEL_GRACE = 5.0
"""Seconds that a cancelled call has to end before it is left behind."""


class Place:
    """One turn on its way through a call."""

    __slots__ = ("answer", "came", "turn")

    def __init__(self, turn: Turn, came: float, answer: asyncio.Future[Effects | None]) -> None:
        self.turn, self.came, self.answer = turn, came, answer


class Gathering:
    """
    Which turns go into the next call.  Pure: its callers bring the clock.

    A turn that has been started before is alone, whatever came of it then: what it did to its batch it would do to the
    next one.

    Args:
        most: turns in a call.
        wait: seconds that the first of a batch waits for others, while fewer have come.
    """

    def __init__(self, most: int, wait: float) -> None:
        self._most, self._wait = most, wait
        self._together: deque[Place] = deque()
        self._alone: deque[Place] = deque()

    def add(self, place: Place) -> None:
        (self._alone if place.turn.attempt > 1 else self._together).append(place)

    def alone(self, places: Sequence[Place]) -> None:
        """Their batch has failed: each gets a call of its own, before what came later."""
        self._alone.extend(places)

    def remove(self, place: Place) -> bool:
        """False where it is in a call, or was."""
        for waiting in (self._alone, self._together):
            if place in waiting:
                waiting.remove(place)
                return True
        return False

    def next(self, now: float) -> list[Place]:
        """The turns of a call that may be made now; none where there are none, or the first may still wait."""
        if self._alone:
            return [self._alone.popleft()]
        if len(self._together) < self._most and now < self.due:
            return []
        return [self._together.popleft() for _ in range(min(self._most, len(self._together)))]

    @property
    def due(self) -> float:
        """When the first has waited long enough; infinite where nothing waits."""
        return self._together[0].came + self._wait if self._together else math.inf


class Batches:
    """
    A handler of batches as one of single turns.

    Args:
        group: at most `concurrency` calls at once, of `batch` turns each, of which each may take as long as `deadline`.
    """

    def __init__(self, handler: Handler, group: Group) -> None:
        self._call_with = handler.handle
        self._deadline = group.deadline
        self._gathering = Gathering(group.batch or 1, group.batch_wait)
        self._free = group.concurrency
        self._calls: dict[asyncio.Task[None], list[Place]] = {}
        self._alarm: asyncio.TimerHandle | None = None
        self._told = False
        self._log = log.get(group.name)

    async def handle(self, turn: Turn) -> Effects | None:
        """What came of it, in whichever call.  Cancelled, it leaves its call, which goes on for the others."""
        loop = asyncio.get_running_loop()
        place = Place(turn, loop.time(), loop.create_future())
        self._gathering.add(place)
        if not self._told:  # not at once: those that were taken together come one after the other
            self._told = True
            loop.call_soon(self._serve)
        try:
            return await place.answer
        except asyncio.CancelledError:
            await self._leave(place)
            raise

    def _serve(self) -> None:
        loop, self._told = asyncio.get_running_loop(), False
        while self._free and (places := self._gathering.next(loop.time())):
            self._free -= 1
            call = loop.create_task(self._call(places))
            self._calls[call] = places
            call.add_done_callback(self._over)
        if self._alarm is None and self._free and self._gathering.due < math.inf:
            self._alarm = loop.call_at(self._gathering.due, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        self._serve()

    def _over(self, call: asyncio.Task[None]) -> None:
        del self._calls[call]
        self._free += 1
        self._serve()

    async def _leave(self, place: Place) -> None:
        if self._gathering.remove(place):
            return
        for call, places in self._calls.items():
            if place in places:
                if all(each.answer.done() for each in places):
                    call.cancel()
                    await asyncio.wait({call})
                return

    async def _call(self, places: list[Place]) -> None:
        turns = [place.turn for place in places]
        # Made in the context of one of them; what is logged of several is of none in particular.
        log.trace.set(turns[0].messages[-1].trace if len(turns) == 1 else "")
        try:
            found = await self._bounded(turns)
            answers = [None] * len(turns) if found is None else list(found)
            if len(answers) != len(turns):
                raise ValueError(f"it returned {len(answers)} effects for {len(turns)} turns")
        except Exception as error:  # whatever a handler raises is a failure, of all its turns or of one
            self._failed([place for place in places if not place.answer.done()], error, len(places))
            return
        for place, effects in zip(places, answers, strict=True):
            if not place.answer.done():
                place.answer.set_result(effects)

    def _failed(self, places: list[Place], error: Exception, called: int) -> None:
        if called > 1 and not fate.of_all(error):
            why = log.plainly(fate.why(error), fate.blame(error))
            self._log.warning("batch.failed", turns=called, why=why, hint="each is tried alone")
            self._gathering.alone(places)
            return
        for place in places:
            place.answer.set_exception(error)

    async def _bounded(self, turns: list[Turn]) -> Sequence[Effects | None] | None:
        """
        Call the handler.

        Raises:
            TimeoutError: its deadline has passed, or it has cancelled itself.
            whatever it does.
        """
        handling = asyncio.ensure_future(self._call_with(turns))
        handling.add_done_callback(_heard)
        try:
            done, _ = await asyncio.wait({handling}, timeout=self._deadline)
        except asyncio.CancelledError:
            await _ended(handling)
            raise
        if not done:
            await _ended(handling)
            raise TimeoutError(f"deadline of {self._deadline:g} s passed")
        if handling.cancelled():
            raise TimeoutError("the handler cancelled itself")
        return handling.result()  # type: ignore[no-any-return]


def served(handler: Handler, group: Group) -> tuple[Handler, Group]:
    """
    A handler and its group as a worker serves them.

    Where it takes batches, as a handler of single turns, with so many places that another batch gathers while the first
    are in work.  The deadline is the call's then, not the turn's, which may have to wait for it.
    """
    if not handler.batch:
        return handler, group
    places = (group.concurrency + 1) * (group.batch or 1)
    gathering: Callable[[Turn], object] = Batches(handler, group).handle
    return (
        msgspec.structs.replace(handler, handle=gathering, batch=False),
        msgspec.structs.replace(group, concurrency=places, deadline=Seconds(math.inf)),
    )


async def _ended(handling: asyncio.Future[object]) -> None:
    handling.cancel()
    await asyncio.wait({handling}, timeout=CANCEL_GRACE)


def _heard(handling: asyncio.Future[object]) -> None:
    """What a call that was left behind raises is nobody's business any more."""
    if not handling.cancelled():
        handling.exception()
