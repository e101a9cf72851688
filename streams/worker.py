"""
The loop of one consumer: read → take → handle → commit; and how it stops.

It decides nothing and knows no script: what becomes of a turn is decided in fate.py, Redis's verbs are in turns.py.
It polls nothing: a blocking read rings when something is appended, a timer when a key's time comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from typing import Any

from streams import fate, log, metrics
from streams.bell import Bell
from streams.committer import Committer, Result
from streams.connection import Store
from streams.effects import Effects, Handler, Turn
from streams.endings import Ending, ending
from streams.errors import Unavailable
from streams.housekeeping import Housekeeping
from streams.room import Room
from streams.tables import Group
from streams.topology import Topology
from streams.turns import Changed, Gone, Grant, Taken, Turns
from streams.watch import Watch

READ_COUNT = 200
"""New entries one take reads at most; reading ahead lets a burst of one person gather into one turn."""

CANCEL_GRACE = 5.0
"""Seconds that a cancelled handler has to end before it is left behind."""


class Worker:
    """
    One consumer of one group in one shard.

    Args:
        room: the places that it shares with the workers of the other shards; None: it has `concurrency` of its own.
    """

    def __init__(
        self,
        store: Store,
        topology: Topology,
        group: Group,
        handler: Handler,
        resources: Any = None,
        room: Room | None = None,
    ) -> None:
        self.group = group
        self._store = store
        self._handler = handler
        self._resources = resources
        self._log = log.get(group.name)
        self._turns = Turns(store, topology, group, handler)
        self._committer = Committer(self._turns)
        self._bell = Bell(store, group)
        self._housekeeping = Housekeeping(store, self._turns, Watch(store, topology), resources)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._lost: set[str] = set()
        self._committing: set[str] = set()
        """Tokens of turns whose commit is under way: what it brings says whether they were still ours."""
        self._room = room or Room(group.concurrency)
        self._room.suspects.rings.append(self._bell.ring)
        self._stopping = asyncio.Event()
        self.opened = asyncio.Event()
        """Set once the group exists and this consumer reads it."""

    def stop(self) -> None:
        """Read nothing more; `run` returns when what is in work has ended or was handed back."""
        self._stopping.set()
        self._bell.ring()
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
        """
        background = [
            asyncio.create_task(self._committer.run()),
            asyncio.create_task(self._bell.run()),
            asyncio.create_task(self._housekeeping.run(self._held, self._lose, self._bell.ring_in)),
        ]
        serving = asyncio.create_task(self._serve())
        try:
            done, _ = await asyncio.wait([serving, *background], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # a loop that ends by itself has failed; so does the worker
            await self._drain(grace)
        finally:
            for task in [serving, *background, *self._running.values()]:
                task.cancel()
            await asyncio.gather(serving, *background, return_exceptions=True)
            await self._bell.close()

    async def _serve(self) -> None:
        while not self._stopping.is_set():
            room = self._room.some()
            if room == 0:
                await self._room.wait()
                continue
            self._bell.hush()
            taken = None
            try:
                taken = await self._take(room)
            finally:
                self._room.back(room - (len(taken.grants) if taken else 0))
            if taken is None:
                continue
            for grant in taken.grants:
                self._start(grant)
            if taken.read < READ_COUNT and len(taken.grants) < room:
                await self._bell.wait(taken.cursor, taken.next_due_ms, taken.now_ms)

    async def _take(self, room: int) -> Taken | None:
        try:
            try:
                with self._room.suspects.ask(self._bell.ring) as suspects:
                    taken = await self._turns.take(room, READ_COUNT, suspects)
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
        if not self.opened.is_set():
            self.opened.set()
            where = {"shard": self._store.keys.shard} if self._store.keys.shards > 1 else {}
            self._log.info("worker.reading", stream=self.group.reads, consumer=self._turns.consumer, **where)
        return taken

    def _start(self, grant: Grant) -> None:
        if grant.suspect:
            self._room.suspects.add(grant.token)
        task = asyncio.create_task(self._turn(grant))
        self._running[grant.token] = task
        task.add_done_callback(lambda ended: self._ended(grant.token, ended))

    def _ended(self, token: str, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            # A bug of ours: the lease is named no longer, so the next beat gives the turn back.
            self._log.error("turn.failed", token=token, why=f"{type(error).__name__}: {error}")
        self._running.pop(token, None)
        self._lost.discard(token)
        self._committing.discard(token)
        self._room.suspects.cleared(token)
        self._room.back(1)

    async def _turn(self, grant: Grant) -> None:
        turn = grant.turn
        turn.resources = self._resources
        with metrics.turn(self.group.name) as outcome:
            burial = fate.before(grant.starts, self.group.attempts)
            if burial:
                word, end = "buried", self._buried(grant, burial)
            else:
                word, end = self._end(grant, *await self._handle(turn))
            outcome(word if await self._commit(grant, end) else "refused")

    async def _handle(self, turn: Turn) -> tuple[Effects | None, BaseException | None]:
        """The handler's effects, or what went wrong."""
        handling: asyncio.Task[Effects | None] = asyncio.ensure_future(self._handler.handle(turn))
        try:
            await asyncio.wait({handling}, timeout=self.group.deadline)
        except asyncio.CancelledError:
            handling.cancel()
            await asyncio.wait({handling}, timeout=CANCEL_GRACE)
            raise
        if not handling.done():
            handling.cancel()
            await asyncio.wait({handling}, timeout=CANCEL_GRACE)
            return None, TimeoutError(f"deadline of {self.group.deadline:g} s passed")
        if handling.cancelled():
            return None, TimeoutError("the handler cancelled itself")
        error = handling.exception()
        return (None, error) if error else (handling.result(), None)

    def _end(self, grant: Grant, effects: Effects | None, error: BaseException | None) -> tuple[str, Ending]:
        """What becomes of the turn, in a word and for Redis."""
        turn = grant.turn
        if error is None:
            try:
                return "settled", self._ending(grant, [message.id for message in turn.messages], effects=effects)
            except Exception as wrong:  # whatever a handler's effects can be wrong about is the turn's failure
                error = wrong
        verdict = fate.after(
            error,
            attempt=turn.attempt,
            attempts=self.group.attempts,
            backoff=self.group.backoff,
            luck=random.random(),  # noqa: S311 - jitter, not a secret
        )
        if isinstance(verdict, fate.Burial):
            return "buried", self._buried(grant, verdict)
        assert isinstance(verdict, fate.Park)  # noqa: S101 - an error never settles
        level = self._log.warning if verdict.counted else self._log.debug
        level("turn.parked", turn=turn.id, attempt=turn.attempt, wait_s=verdict.delay_ms / 1000, why=verdict.why)
        return "parked", self._ending(grant, [], park=verdict)

    def _buried(self, grant: Grant, burial: fate.Burial) -> Ending:
        turn, unrun = grant.turn, int(burial.unrun)
        guilty = [
            message
            for message, starts in zip(turn.messages, grant.starts, strict=True)
            if (not burial.exhausted_only or starts - unrun >= self.group.attempts)
            and burial.only in (None, message.id)
        ]
        ids, how = [message.id for message in guilty], {"bury": burial.why, "uncounted": burial.unrun}
        self._log.error("turn.buried", turn=turn.id, messages=len(ids), attempt=turn.attempt - unrun, why=burial.why)
        if self._handler.buried:
            last = Turn(**{field: getattr(turn, field) for field in turn.__struct_fields__})
            last.messages = guilty
            try:
                return self._ending(grant, ids, effects=self._handler.buried(last, burial.why), **how)
            except Exception as error:  # an apology that fails must not keep the dead alive
                self._log.exception("apology.failed", turn=turn.id, why=type(error).__name__)
        return self._ending(grant, ids, **how)

    def _ending(self, grant: Grant, ids: list[str], **how: Any) -> Ending:
        return ending(self._store.keys, self.group, grant.turn, grant.token, ids, **how)

    async def _commit(self, grant: Grant, end: Ending) -> bool:
        self._committing.add(grant.token)
        try:
            done, due_ms = await self._settled(end)
        except Exception as error:
            # Redis refuses these effects, or they cannot be made; without them the turn can still be parked or buried.
            done, due_ms = await self._settled(self._end(grant, None, error)[1])
        if not done:
            self._log.warning("turn.refused", turn=grant.turn.id, why="its lease is another's by now")
        if due_ms >= 0 and self._stopping.is_set():
            await self._wake_others()
        elif due_ms >= 0:
            self._bell.ring_in(due_ms)
        return done

    async def _settled(self, end: Ending) -> Result:
        try:
            return await self._committer.commit(end)
        except Changed:
            assert end.instead is not None  # noqa: S101 - else nothing could have changed
            return await self._committer.commit(end.instead())

    async def _wake_others(self) -> None:
        """What is due, now or later, is theirs to take; they would notice with their next beat."""
        with contextlib.suppress(Unavailable):
            await self._turns.wake()

    def _held(self) -> list[str]:
        return [token for token in self._running if token not in self._lost]

    def _lose(self, token: str) -> None:
        """Our lease is gone, and not by our own commit: what we do about this turn no longer counts."""
        task = self._running.get(token)
        if task is None or token in self._committing:
            return
        self._log.warning("lease.lost", token=token)
        self._lost.add(token)
        task.cancel()

    async def _drain(self, grace: float) -> None:
        await self._wake_others()
        if self._running:
            self._log.info("worker.draining", turns=len(self._running), grace_s=grace)
            await asyncio.wait(list(self._running.values()), timeout=grace)
        left = list(self._running.values())
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left, timeout=CANCEL_GRACE)
        try:
            # What was cancelled is handed back here: it becomes due for the others at once.
            await self._turns.leave()
        except Unavailable as error:
            self._log.warning("worker.left_silently", why=str(error))
