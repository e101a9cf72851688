"""
People who write in bursts, through the public HTTP contract, and remember what they were told.

An open loop: bursts begin when their time has come, however slow the answers are.  A person's messages are said one
after the other, or as one webhook of Meta's; each request is repeated, byte for byte, until it has a 2xx, as
docs/http.md tells a client to, and some are made once more, beside the first or later.  Everything random comes from
the seed.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from tests.faults.checker import Message, Told

WORDS = ("hola", "gracias", "ñandú 👍", "tres tristes tigres", "¿cómo así?", "ok", "buenas tardes")
"""None of which any action's pattern names."""

APP_SECRET = "the-secret-of-an-app-at-meta"
"""What Meta's webhooks are signed with: WHATSAPP_APP_SECRET."""

PATIENCE = 5
"""Seconds that a request waits for its reply: fewer than it takes to hand on what a dead worker held."""

RECORDED = json.loads((Path(__file__).parents[1] / "recordings" / "01_text.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Request:
    """What is said, and how; the same bytes whenever it is made again."""

    messages: Sequence[Message]
    path: str
    body: bytes
    headers: dict[str, str]
    taken: Sequence[str]
    """Status and word of the answers that say that Redis has it."""


def chat(message: Message, token: str, *, waits: bool) -> Request:
    """POST /chat, with or without `Prefer: wait`."""
    body = {"user_id": message.person, "message": message.text, "message_id": message.id}
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    taken = ["202 accepted"]
    if waits:
        headers["Prefer"] = f"wait={PATIENCE}"
        taken += ["200 replied", "200 merged", "200 delivered"]
    return Request([message], "/chat", json.dumps(body).encode(), headers, taken)


def webhook(messages: Sequence[Message]) -> Request:
    """POST /whatsapp with the messages of one person, as Meta sends and signs it."""
    whole = copy.deepcopy(RECORDED)
    value, number = whole["entry"][0]["changes"][0]["value"], messages[0].person.removeprefix("+")
    [recorded], [contact] = value["messages"], value["contacts"]
    contact["wa_id"] = number
    value["messages"] = [
        recorded | {"from": number, "id": each.id, "timestamp": f"{each.at:.0f}", "text": {"body": each.text}}
        for each in messages
    ]
    body = json.dumps(whole).encode()
    signature = hmac.new(APP_SECRET.encode(), body, hashlib.sha256).hexdigest()
    headers = {"X-Hub-Signature-256": f"sha256={signature}", "Content-Type": "application/json"}
    return Request(messages, "/whatsapp", body, headers, ["200 webhook"])


class Load:
    """
    Args:
        also: other ingresses, to turn to when one refuses.
        rate: messages in a second, all people together, duplicates not counted.
        duplicates: the share of requests that are made once more.
        at_once: the share of those that do not wait for the first answer.
        by_meta: the share of bursts that come as one webhook.
        waits: the share of the other messages whose requests wait for the reply.
    """

    def __init__(
        self, url: str, *, people: int, messages: int, rate: float, seed: int, token: str, also: Sequence[str] = (),
        duplicates: float = 0.2, at_once: float = 0.3, by_meta: float = 0.0, waits: float = 0.0,
    ) -> None:  # fmt: skip
        self.said: list[Message] = []
        self.answers: Counter[str] = Counter()
        self.done = 0
        """Messages that have their 2xx."""
        self._heard_of = asyncio.Event()
        self._urls = deque((url, *also))
        self._messages, self._rate, self._token = messages, rate, token
        self._duplicates, self._at_once = duplicates, at_once
        self._by_meta, self._waits = by_meta, waits
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
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as self._session:
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
            if self._random.random() < self._by_meta:
                await self._say(webhook([self._new(person, "wamid.m") for _ in range(size)]))
                return
            for _ in range(size):
                waits = self._random.random() < self._waits
                await self._say(chat(self._new(person, "m"), self._token, waits=waits))

    def _new(self, person: str, kind: str) -> Message:
        self._counts[person] += 1
        number = self._counts[person]
        text = f"{self._random.choice(WORDS)}, {number} de {person[-4:]}"
        message = Message(person, f"{kind}{number}", text, at=time.time())
        self.said.append(message)
        return message

    async def _say(self, request: Request) -> None:
        again = self._random.random() < self._duplicates
        later = None if self._random.random() < self._at_once else self._random.uniform(0, 3)
        if again and later is None:
            self._spawn(self._insist(request))
        await self._insist(request)
        self.done += len(request.messages)
        self._heard_of.set()
        if again and later is not None:
            self._spawn(self._insist(request, later))

    async def _insist(self, request: Request, after: float = 0.0) -> None:
        """Until it is answered: a client whose connection broke may have had a reply on the way."""
        await asyncio.sleep(after)
        pause = 0.1
        while not await self._post(request):
            await asyncio.sleep(pause * self._random.uniform(0.5, 1))
            pause = min(pause * 2, 1.0)

    async def _post(self, request: Request) -> bool:
        """Make it once; whether there was an answer that no repeat would change."""
        url = self._urls[0]
        try:
            async with self._session.post(url + request.path, data=request.body, headers=request.headers) as response:
                status, answer = response.status, await response.json()
        except (aiohttp.ClientConnectorError, aiohttp.ClientError, OSError, TimeoutError) as error:
            # Whoever was not even connected to has nothing of it.
            for message in request.messages:
                message.refused += isinstance(error, aiohttp.ClientConnectorError)
                message.unknown += not isinstance(error, aiohttp.ClientConnectorError)
            self._count(type(error).__name__)
            if url == self._urls[0]:  # and nobody has turned already
                self._urls.rotate(-1)
            return False
        told = f"{status} {answer.get('error') or answer.get('status', 'webhook')}"
        self._count(told + (", again" if answer.get("duplicate") or answer.get("duplicates") else ""))
        (_refused if status == 503 else _answered)(request, told, answer)
        return status != 503

    def _count(self, answer: str) -> None:
        self.answers[answer] += 1
        self._heard_of.set()


def _refused(request: Request, _told: str, answer: dict[str, Any]) -> None:
    maybe = "same message_id" in answer["detail"]
    for message in request.messages:
        message.unknown += maybe
        message.refused += not maybe


def _answered(request: Request, told: str, answer: dict[str, Any]) -> None:
    messages = request.messages
    entries = answer.get("entry_ids") or [answer.get("entry_id")]
    news = answer["accepted"] if "accepted" in answer else not answer.get("duplicate")
    # A webhook is new or known as a whole.
    if told not in request.taken or len(entries) != len(messages) or news not in (0, len(messages)):
        for message in messages:
            message.strange.append(f"{told} {answer}")
            message.unknown += 1
        return
    for message, entry in zip(messages, entries, strict=True):
        message.entries.append(entry)
        message.firsts += news > 0
    if told == "200 replied":
        messages[0].told.append(Told(answer["id"], answer["reply"], tuple(answer["in_reply_to"])))
