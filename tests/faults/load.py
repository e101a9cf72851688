"""
People who write in bursts, through the public HTTP contract, and remember what they were told.

An open loop: bursts begin when their time has come, however slow the answers are.  A person's messages are said one
after the other, each repeated with the same message_id until it has a 2xx, as docs/http.md tells a client to; some are
said once more, beside the first or later.  Everything random comes from the seed.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import aiohttp

from tests.faults.checker import Message

WORDS = ("hola", "gracias", "ñandú 👍", "tres tristes tigres", "¿cómo así?", "ok", "buenas tardes")
"""None of which any action's pattern names."""


class Load:
    """
    Args:
        also: other ingresses, to turn to when one refuses.
        rate: messages in a second, all people together, duplicates not counted.
        duplicates: the share of messages that are said once more.
        at_once: the share of those that do not wait for the first answer.
    """

    def __init__(
        self, url: str, *, people: int, messages: int, rate: float, seed: int,
        token: str, duplicates: float = 0.2, at_once: float = 0.3, also: Sequence[str] = (),
    ) -> None:  # fmt: skip
        self.said: list[Message] = []
        self.answers: Counter[str] = Counter()
        self.done = 0
        """Messages that have their 2xx."""
        self._heard_of = asyncio.Event()
        self._urls = deque(f"{each}/chat" for each in (url, *also))
        self._messages, self._rate = messages, rate
        self._duplicates, self._at_once = duplicates, at_once
        self._headers = {"Authorization": f"Bearer {token}"}
        self._stopped = False
        self._random = random.Random(seed)  # noqa: S311 - seeded randomness is the point
        self._people = [f"+591{70000000 + number}" for number in range(people)]
        self._speaking = {person: asyncio.Lock() for person in self._people}
        self._counts: Counter[str] = Counter()
        self._failed: list[BaseException] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._session: aiohttp.ClientSession

    async def run(self) -> None:
        """Until every message has been said and taken, or `stop`."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5, sock_read=10)
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=timeout, headers=self._headers
        ) as self._session:
            loop = asyncio.get_running_loop()
            start, planned = loop.time(), 0
            while planned < self._messages and not self._stopped:
                await asyncio.sleep(start + planned / self._rate - loop.time())
                size = min(self._random.choice((1, 1, 2, 3, 4, 6)), self._messages - planned)
                planned += size
                self._spawn(self._burst(self._random.choice(self._people), size))
            while self._tasks:
                await asyncio.wait(self._tasks)
        for error in self._failed:
            raise error

    async def taken(self, more: int, within: float = 60) -> None:
        """Until so many messages more have been taken.  Raises TimeoutError."""
        await self._until(lambda: self.done, self.done + more, within)

    async def answered(self, more: int, within: float = 60) -> None:
        """Until clients have had so many answers more, whatever they were.  Raises TimeoutError."""
        await self._until(self.answers.total, self.answers.total() + more, within)

    async def _until(self, count: Callable[[], int], enough: int, within: float) -> None:
        async with asyncio.timeout(within):
            while count() < enough:
                self._heard_of.clear()
                await self._heard_of.wait()

    def stop(self) -> None:
        """Begin no more bursts; `run` ends when what has begun has been taken."""
        self._stopped = True

    def _spawn(self, saying: Any) -> None:
        task = asyncio.create_task(saying)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed.append(error)

    async def _burst(self, person: str, size: int) -> None:
        async with self._speaking[person]:
            for _ in range(size):
                await self._say(self._new(person))

    def _new(self, person: str) -> Message:
        self._counts[person] += 1
        number = self._counts[person]
        text = f"{self._random.choice(WORDS)}, {number} de {person[-4:]}"
        message = Message(person, f"m{number}", text, at=time.time())
        self.said.append(message)
        return message

    async def _say(self, message: Message) -> None:
        again = self._random.random() < self._duplicates
        later = None if self._random.random() < self._at_once else self._random.uniform(0, 3)
        if again and later is None:
            self._spawn(self._post(message))
        pause = 0.1
        while not await self._post(message):
            await asyncio.sleep(pause * self._random.uniform(0.5, 1))
            pause = min(pause * 2, 1.0)
        self.done += 1
        self._heard_of.set()
        if again and later is not None:
            self._spawn(self._repeat(message, later))

    async def _repeat(self, message: Message, after: float) -> None:
        await asyncio.sleep(after)
        await self._post(message)

    async def _post(self, message: Message) -> bool:
        """Say it once; whether it was taken."""
        body = {"user_id": message.person, "message": message.text, "message_id": message.id}
        url = self._urls[0]
        try:
            async with self._session.post(url, json=body) as response:
                answer = await response.json()
        except (aiohttp.ClientConnectorError, aiohttp.ClientError, OSError, TimeoutError) as error:
            # Whoever was not even connected to has nothing of it.
            message.refused += isinstance(error, aiohttp.ClientConnectorError)
            message.unknown += not isinstance(error, aiohttp.ClientConnectorError)
            self.answers[type(error).__name__] += 1
            self._heard_of.set()
            if url == self._urls[0]:  # and nobody has turned already
                self._urls.rotate(-1)
            return False
        return self._heard(message, response.status, answer)

    def _heard(self, message: Message, status: int, answer: dict[str, Any]) -> bool:
        self.answers[f"{status} {answer.get('error', answer.get('status'))}"] += 1
        self._heard_of.set()
        if status == 202:
            message.entries.append(answer["entry_id"])
            message.firsts += not answer["duplicate"]
            return True
        if status != 503:
            message.strange.append(f"{status} {answer}")
            message.unknown += 1
        elif "same message_id" in answer["detail"]:
            message.unknown += 1
        else:
            message.refused += 1
        return False
