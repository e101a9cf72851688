"""
Group commit: endings that come while one settle is under way share the next.

An idle worker's ending goes out at once; a busy one's wait for at most one round trip.  Nothing is dropped while Redis
is away: the lease says whose turn it is when it comes back.
"""

from __future__ import annotations

import asyncio
from collections import deque

from redis.exceptions import ResponseError

from streams import log
from streams.endings import Ending
from streams.errors import Unavailable
from streams.turns import MAX_BYTES, MAX_IDS, MAX_TURNS, Turns

Result = tuple[bool, int]
"""Whether the turn was still ours to end, and the milliseconds until its key is due again (-1: it is not)."""


class Committer:
    """Sends endings to Redis in batches."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._waiting: deque[tuple[Ending, asyncio.Future[Result]]] = deque()
        self._something = asyncio.Event()
        self._log = log.get(turns.group.name)

    async def commit(self, ending: Ending) -> Result:
        """
        End a turn.

        Raises:
            Impossible, redis.ResponseError: Redis refuses these effects (a key of another type); nothing was committed.
            Changed: the key of `unless` is there; nothing was committed.
        """
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((ending, future))
        self._something.set()
        return await future

    async def run(self) -> None:
        """Serve until cancelled."""
        while True:
            await self._something.wait()
            batch = self._batch()
            if not batch:
                self._something.clear()
                continue
            await self._send(batch)

    def _batch(self) -> list[tuple[Ending, asyncio.Future[Result]]]:
        batch: list[tuple[Ending, asyncio.Future[Result]]] = []
        ids = size = 0
        while self._waiting and len(batch) < MAX_TURNS:
            ending, future = self._waiting[0]
            ids, size = ids + ending.ids, size + ending.size
            if batch and (ids > MAX_IDS or size > MAX_BYTES):
                break
            self._waiting.popleft()
            if not future.cancelled():
                batch.append((ending, future))
        return batch

    async def _send(self, batch: list[tuple[Ending, asyncio.Future[Result]]]) -> None:
        while True:
            try:
                results = await self._turns.settle([ending for ending, _ in batch])
                break
            except Unavailable as error:
                level = self._log.debug if error.told else self._log.warning
                level("commit.waiting", turns=len(batch), why=str(error))
                await asyncio.sleep(0.5)
            except ResponseError as error:
                if len(batch) == 1:
                    _resolve(batch[0][1], error)
                    return
                # One of them is to blame; each alone harms only itself.
                for one in batch:
                    await self._send([one])
                return
        for (_, future), result in zip(batch, results, strict=True):
            _resolve(future, result)


def _resolve(future: asyncio.Future[Result], result: Result | Exception) -> None:
    if future.cancelled():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
