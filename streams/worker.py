"""
The loop of one consumer: take, start, wait; and how it stops.

It decides nothing and knows no script: what a started turn goes through is in inwork.py, Redis's verbs are in turns.py.
It polls nothing: a blocking read rings when something is appended, a timer when a key's time comes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import UTC, tzinfo
from functools import partial
from typing import Any

from streams import log
from streams.bell import Bell
from streams.buckets import Calendar
from streams.committer import Committer
from streams.connection import Store
from streams.effects import Handler, Output
from streams.errors import Crash, Unavailable
from streams.housekeeping import Housekeeping
from streams.inwork import InWork
from streams.line import Argument
from streams.pace import Pace
from streams.room import Room, places
from streams.tables import Group
from streams.topology import Topology
from streams.turns import Beaten, Gone, Grant, Taken, Turns
from streams.watch import Watch

READ_COUNT = 200
"""New entries one take reads at most; reading ahead lets a burst of one person gather into one turn."""

HEAD_START = 3
"""
Rounds of the loop that what was started has before we ask for more, where there may be none: a handler that waits for
nothing has its commit on the way by then, which costs who waits for it a tenth of a millisecond less.
"""


class _Stopped(Exception):
    """There is nothing more to take."""


class Worker:
    """
    One consumer of one group in one shard.

    Args:
        room: the places that it shares with the workers of the other shards; None: it has its own.
        zone: in which it is midnight where a day begins.
    """

    def __init__(
        self,
        store: Store,
        topology: Topology,
        group: Group,
        handler: Handler,
        resources: Any = None,
        room: Room | None = None,
        zone: tzinfo | None = UTC,
    ) -> None:
        self.group = group
        self._store = store
        self._resources = resources
        self._log = log.get(group.name)
        self._turns = Turns(store, topology, group, handler)
        self._pace = Pace()
        self._committer = Committer(self._turns, self._pace)
        self._bell = Bell(store, group, self._turns.consumer, lambda token: self._in_work.supersede(token))
        self._housekeeping = Housekeeping(store, self._turns, Watch(store, topology), resources)
        self._in_work = InWork(
            store.keys,
            group,
            handler,
            resources,
            self._committer,
            journaled=topology.journal.keep > 0,
            handled=lambda: self._room.back(1),
            ended=lambda grant: self._room.suspects.cleared(grant.token),
            due=self._due,
            calendar=Calendar(zone, topology.tallies),
        )
        self._waking: set[asyncio.Task[None]] = set()
        self._room = room or Room(places(group, resources))
        self._room.suspects.rings.append(self._bell.ring)
        self._last: Taken | None = None
        self._stopping = asyncio.Event()
        self.opened = asyncio.Event()
        """Set once the group exists and this consumer reads it."""

    def stop(self) -> None:
        """Read nothing more; `run` returns when what is in work has ended or was handed back."""
        self._stopping.set()
        self._hanging_up = asyncio.ensure_future(self._bell.hang_up())
        self._room.back(0)

    @property
    def alive(self) -> bool:
        """It reads its group, and its heartbeat went out lately."""
        return self.opened.is_set() and self._housekeeping.fresh

    @property
    def ready(self) -> bool:
        """Alive, and its resources (the model) can serve."""
        check = getattr(self._resources, "ready", None)
        return self.alive and (check is None or bool(check()))

    async def run(self, grace: float) -> None:
        """
        Serve until `stop`.

        Args:
            grace: seconds that turns in work have to end; the rest is handed back and counts no attempt.

        Raises:
            whatever the resources' `failed()` does, where they have one: they can serve nobody any more.
        """
        background = [
            asyncio.create_task(self._committer.run()),
            asyncio.create_task(self._housekeeping.run(self._in_work.tokens, self._beaten)),
        ]
        failing = getattr(self._resources, "failed", None)
        failed = [asyncio.create_task(failing())] if failing is not None else []
        serving = asyncio.create_task(self._serve())
        try:
            done, _ = await asyncio.wait([serving, *background, *failed], return_when=asyncio.FIRST_COMPLETED)
            if not done.isdisjoint(failed):
                self.stop()
                # Others may take at once what is in work, of which some may be to blame where it was a crash.
                await self._drain(0, crashed=isinstance(failed[0].exception(), Crash))
            for task in done:
                task.result()  # a loop that ends by itself has failed; so does the worker
            await self._drain(grace)
        finally:
            self._in_work.cancel()
            for task in [serving, *background, *failed]:
                task.cancel()
            await asyncio.gather(serving, *background, *failed, return_exceptions=True)
            await self._bell.close()

    async def _serve(self) -> None:
        last: Taken | None = None  # the last take, where it got all there was
        while not self._stopping.is_set():
            if last is not None and self._room.shared:
                await self._bell.wait(last.cursor, last.now_ms)  # with no place kept, which another shard may need
                last = None
            room = self._room.some()
            if room == 0:
                await self._full()
                continue
            taken, patient = None, last is not None and not self._bell.rung
            try:
                taken = await self._taken(room, last if patient else None)
            finally:
                self._room.back(room - (len(taken.grants) if taken else 0))
            for grant in taken.grants if taken else ():
                self._start(grant)
            if taken and taken.grants and not taken.more:
                for _ in range(HEAD_START):
                    await asyncio.sleep(0)
            all_of_it = taken and not taken.more and len(taken.grants) < room
            last = taken if all_of_it and not (patient and taken and taken.held) else None

    async def _full(self) -> None:
        """
        Until a place is free.

        Where turns may be superseded we read on meanwhile: nobody else may, and what came could be for one of ours.
        But not where we are far behind, for what comes now is then read in its turn.
        """
        last = self._last
        if self.group.on_new_message == "finish" or last is None or last.more:
            await self._room.wait()
            return
        with self._room.ringing(self._bell.ring):
            await self._bell.wait(last.cursor, last.now_ms)
        if self._room.full and not self._stopping.is_set():
            await self._taken(0, None)

    async def _taken(self, room: int, last: Taken | None) -> Taken | None:
        """What Redis gives us; None where it cannot now. With `last`, when there may be more than was left by then."""
        try:
            try:
                taken = await (self._take(room) if last is None else self._take_when_rung(room, last))
            except Gone:
                # What lies in a stream that Redis has lost is what came since, so a group `from = "now"` reads it all.
                made, pending = await self._turns.open(anew=self.opened.is_set())
                if made and self.opened.is_set():
                    self._log.warning("group.recreated", pending=pending, hint="Redis had lost it")
                return None
        except Unavailable as error:
            level = self._log.debug if error.told else self._log.warning
            level("take.waiting", why=str(error))
            await asyncio.sleep(0.5)
            return None
        if taken is None:
            return None
        self._last = taken
        self._bell.ring_in(taken.next_due_ms)
        if not self.opened.is_set():
            self.opened.set()
            where = {"shard": self._store.keys.shard} if self._store.keys.shards > 1 else {}
            self._log.info("worker.reading", stream=self.group.reads, consumer=self._turns.consumer, **where)
        return taken

    async def _take(self, room: int) -> Taken:
        self._bell.hush()
        with self._room.suspects.ask(self._bell.ring) as suspects:
            began = self._pace.begins()
            taken = await self._turns.take(room, self._pace.at_once(READ_COUNT), suspects)
            await self._pace.read(taken.read, taken.cursor, taken.now_ms, self._turns.furthest_ms)
            await self._pace.rest(began)
            return taken

    async def _take_when_rung(self, room: int, last: Taken) -> Taken | None:
        async def later(call: Sequence[Argument]) -> Any:
            reply = await self._bell.wait(last.cursor, last.now_ms, call)
            if reply is None and self._stopping.is_set():
                raise _Stopped  # what it may have got is handed back as we leave
            return reply

        try:
            # No suspects: to ask for one is to keep others from asking, and this may take long.
            return await self._turns.take(room, READ_COUNT, 0, later)
        except _Stopped:
            return None

    def _start(self, grant: Grant) -> None:
        if grant.suspect:
            self._room.suspects.add(grant.token)
        if not grant.turn.replayed:
            grant.turn.ahead = partial(self._ahead, grant)
        self._in_work.start(grant)

    async def _ahead(self, grant: Grant, output: Output) -> None:
        try:
            async with asyncio.timeout(0.5):
                await self._turns.ahead(grant, output)
        except (Unavailable, TimeoutError) as error:  # what is worth nothing later is not waited for
            self._log.debug("ahead.lost", turn=grant.turn.id, why=str(error))

    def _beaten(self, beaten: Beaten) -> None:
        for token in beaten.lost:
            self._in_work.lose(token)
        for token in beaten.newer:
            self._in_work.supersede(token)
        self._bell.ring_in(beaten.next_due_ms)

    def _due(self, ms: int) -> None:
        if not self._stopping.is_set():
            self._bell.ring_in(ms)
            return
        waking = asyncio.create_task(self._wake_others())
        self._waking.add(waking)
        waking.add_done_callback(self._waking.discard)

    async def _wake_others(self) -> None:
        """What is due, now or later, is theirs to take; they would notice with their next beat."""
        with contextlib.suppress(Unavailable):
            await self._turns.wake()

    async def _drain(self, grace: float, *, crashed: bool = False) -> None:
        await self._wake_others()
        if self._in_work:
            self._log.info("worker.draining", turns=len(self._in_work), grace_s=grace)
            await self._in_work.idle(grace)
        await self._in_work.abandon()
        await asyncio.gather(*self._waking)
        try:
            # What was cancelled is handed back here: it becomes due for the others at once.
            await self._turns.leave(crashed=crashed)
        except Unavailable as error:
            self._log.warning("worker.left_silently", why=str(error))
