"""
What was said is answered again: each turn of a run, in the order of the log, with its outcome beside what it was then.

Turns before the range are told, not handled: what they left is known from what was answered.  Beside the state that the
replay makes the original's goes on, for what staff did between two turns shows only where the original's do not fit.
Knows no Redis and shows nothing to anybody.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from streams import fate, wire
from streams.effects import Retold
from streams.errors import ConfigurationError
from streams.lab import compare
from streams.lab.changes import History
from streams.lab.replayed import Input, Output, Planned, Result
from streams.lab.runs import Run
from streams.lab.sandbox import Sandbox, old_message

OLD, NEW = "old", "new"
"""Sides of the state: as the original had it, and as the replay has it."""

PAGE = 500
"""Turns that are planned at once."""

AHEAD = 1000
"""Turns that may wait for one of their own person; with more of them nobody else's is begun."""

AHEAD_OF_A_TURN = ("typing",)
"""What is appended while a turn is in work is no outcome of it; a replay says none of it."""


class Replay:
    """
    Args:
        speed: how many times faster than it was; None: as fast as it goes.
        step: told after each turn.
    """

    def __init__(
        self,
        run: Run,
        sandbox: Sandbox,
        *,
        history: History = "replayed",
        speed: float | None = None,
        step: Callable[[Planned], None] = lambda turn: None,
    ) -> None:
        self._run, self._sandbox, self._history, self._speed, self._step = run, sandbox, history, speed, step
        self._waiting: dict[str, deque[Planned]] = {}
        """Of whoever has a turn in work, those behind it."""
        self._places = asyncio.Semaphore(sandbox.group.concurrency)
        self._room = asyncio.Semaphore(AHEAD)
        self._zero: tuple[float, int] | None = None

    async def go(self) -> None:
        """Do what is not done yet."""
        after = (-1, -1)
        async with asyncio.TaskGroup() as working:
            while page := self._run.due(after, PAGE):
                for turn in page:
                    after = turn.at_ms, turn.number
                    await self._its_time(turn)
                    await self._room.acquire()
                    if (behind := self._waiting.get(turn.key)) is not None:
                        behind.append(turn)
                        continue
                    await self._places.acquire()
                    self._waiting[turn.key] = deque([turn])
                    working.create_task(self._of_one(turn.key))

    async def _its_time(self, turn: Planned) -> None:
        if self._speed is None or not turn.chosen:
            return
        loop = asyncio.get_running_loop()
        if self._zero is None:
            self._zero = loop.time(), turn.at_ms
        began, first_ms = self._zero
        await asyncio.sleep(max(0.0, began + (turn.at_ms - first_ms) / 1000 / self._speed - loop.time()))

    async def _of_one(self, key: str) -> None:
        """One person's turns, in their order, until none waits."""
        behind = self._waiting[key]
        try:
            while behind:
                turn = behind.popleft()
                await self._do(turn)
                self._room.release()
                self._step(turn)
        finally:
            del self._waiting[key]
            self._places.release()

    async def _do(self, turn: Planned) -> None:
        inputs = list(self._run.inputs(turn.key, turn.first, turn.last))
        old = [each for each in self._run.outputs(turn.key, turn.last) if each.type not in AHEAD_OF_A_TURN]
        told = await self._told(turn, inputs, old)
        if turn.chosen or self._history == "rerun":
            await self._handle(turn, inputs, old, told)
            return
        with self._run.act():
            for side in (OLD, NEW):
                self._run.write(side, turn.key, turn.at_ms, told.left)
            self._run.done(turn.number)

    async def _told(self, turn: Planned, inputs: list[Input], old: list[Output]) -> Retold:
        """What the original tells of this turn; `found` only where it is not what its turn before had left."""
        retell = self._sandbox.handler.retell
        if retell is None:
            return Retold()
        before = self._run.state(OLD, turn.key, turn.at_ms)
        try:
            past = self._sandbox.turn(turn.key, inputs, turn.at_ms, before)
            told = await retell(past, [old_message(each) for each in old])
        except Exception as error:
            raise ConfigurationError(
                f"`retell` of {self._sandbox.group.handler} fails on the turn {inputs[-1].id}: {fate.why(error)}"
            ) from error
        told.found = [write for write in told.found if (write.value is None) == (write.kind in before)]
        return told

    async def _handle(self, turn: Planned, inputs: list[Input], old: list[Output], told: Retold) -> None:
        if told.found:
            with self._run.act():  # before its state is read; should we be cut off here, it is found no more, and stays
                for side in (OLD, NEW):
                    self._run.write(side, turn.key, turn.at_ms, told.found)
        state = self._run.state(OLD if self._history == "original" else NEW, turn.key, turn.at_ms)
        began = time.monotonic()
        became = await self._sandbox.handle(self._sandbox.turn(turn.key, inputs, turn.at_ms, state), state)
        took_ms = (time.monotonic() - began) * 1000
        verdict = compare.verdict(
            [compare.said_then(each) for each in old], [compare.said_now(each) for each in became.outputs],
            became.error, buried=turn.buried,
        )  # fmt: skip
        result = Result(turn.number, verdict, became.error, wire.encode(became.outputs), took_ms)
        with self._run.act():
            self._run.write(OLD, turn.key, turn.at_ms, told.left)
            self._run.write(NEW, turn.key, turn.at_ms, became.writes)
            self._run.done(turn.number, result if turn.chosen else None)
