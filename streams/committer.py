"""
Group commit: endings that come while one settle is under way share the next.

An idle worker's ending goes out at once; a busy one's wait for at most one round trip.  Nothing is dropped while Redis
is away: the lease says whose turn it is when it comes back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from redis.exceptions import ResponseError

from streams import log
from streams.endings import Ending
from streams.errors import Unavailable
from streams.pace import Pace
from streams.turns import MAX_BYTES, MAX_IDS, MAX_TURNS, Turns

Result = tuple[bool, int]
"""Whether the turn was still ours to end, and the milliseconds until its key is due again (-1: it is not)."""


Then = Callable[[Result | Exception], None]


class Committer:
    """Sends endings to Redis in batches."""

    def __init__(self, turns: Turns, pace: Pace) -> None:
        self._turns, self._pace = turns, pace
        self._waiting: deque[tuple[Ending, Then]] = deque()
        self._something = asyncio.Event()
        self._log = log.get(turns.group.name)

    def commit(self, ending: Ending, then: Then) -> None:
        """
        End a turn.

        Args:
            then: told what came of it: the result, or why nothing was committed. Impossible or redis.ResponseError:
                Redis refuses these effects (a key of another type); Changed: the key of `unless` is there.
        """
        self._waiting.append((ending, then))
        self._something.set()

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._something.wait()
            batch = self._batch()
            if not batch:
                self._something.clear()
                continue
            await self._send(batch)

    def _batch(self) -> list[tuple[Ending, Then]]:
        batch: list[tuple[Ending, Then]] = []
        ids = size = 0
        most = self._pace.at_once(MAX_IDS)
        while self._waiting and len(batch) < MAX_TURNS:
            ending, _ = self._waiting[0]
            ids, size = ids + ending.counts[0], size + ending.size
            if batch and (ids > most or size > MAX_BYTES):
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _send(self, batch: list[tuple[Ending, Then]]) -> None:
        while True:
            try:
                began = self._pace.begins()
                results = await self._turns.settle([ending for ending, _ in batch])
                await self._pace.rest(began)
                break
            except Unavailable as error:
                level = self._log.debug if error.told else self._log.warning
                level("commit.waiting", turns=len(batch), why=str(error))
                await asyncio.sleep(0.5)
            except ResponseError as error:
                if len(batch) == 1:
                    batch[0][1](error)
                    return
                # One of them is to blame; each alone harms only itself.
                for one in batch:
                    await self._send([one])
                return
        for (_, then), result in zip(batch, results, strict=True):
            then(result)
