"""
The load generator, a process of its own.

    python -m bench.load --url http://127.0.0.1:8000/chat --messages 20000 --users 1000
    python -m bench.load --url http://127.0.0.1:8000/chat --messages 3000 --users 200 --rate 200

Without `--rate` a closed loop: each connection sends its next message when it has the answer to the last.  With it an
open loop: a message is due at its time, however slow the answers are, and its latency counts from that time, also
where it had to wait for a free connection.  All messages of one user go over one connection, one after the other.
Writes one line: `{"seconds": …, "statuses": {…}, "sent": [...], "answered": [...]}`, the last two only with `--file`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import struct
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop

from bench import wire

TIMES = struct.Struct("<Idd")
"""A message's number, and the monotonic clock when it was due and when its answer was here."""


class Said:
    """What is to be said, by whom, and what became of it."""

    def __init__(self, options: argparse.Namespace) -> None:
        parts = urlsplit(options.url)
        self.host, self.port, self._path = parts.hostname or "", parts.port or 80, parts.path
        self._text = "x" * max(0, options.length - 8)
        self._users: int = options.users
        self._in_a_row: int = options.in_a_row
        self.due = [0.0] * options.messages
        self.answered = [0.0] * options.messages
        self.statuses: Counter[int] = Counter()
        self._first: int = options.first
        self._left: int = options.messages
        self.over = asyncio.Event()

    def user(self, index: int) -> int:
        return (self._first + index) // self._in_a_row % self._users

    def request(self, index: int) -> bytes:
        number, user = self._first + index, self.user(index)
        body = f'{{"user_id":"+5917{user:07d}","message":"hola {number} {self._text}","message_id":"wamid.{number}"}}'
        return wire.post(self._path, f"{self.host}:{self.port}", body.encode())

    def heard(self, index: int, status: int) -> None:
        self.answered[index] = time.monotonic()
        self.statuses[status] += 1
        self._left -= 1
        if not self._left:
            self.over.set()


class Speaker(asyncio.Protocol):
    """One connection, and what waits to go over it."""

    def __init__(self, said: Said) -> None:
        self._said = said
        self.waiting: deque[int] = deque()
        self._under_way: int | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._under_way is not None or self.waiting:
            raise SystemExit(f"the server closed a connection with a request under way: {exc}")

    def say(self, index: int) -> None:
        """This one next, or when those before it have been answered."""
        self.waiting.append(index)
        if self._under_way is None:
            self._next()

    def _next(self) -> None:
        self._under_way = index = self.waiting.popleft()
        self._said.due[index] = self._said.due[index] or time.monotonic()
        self._transport.write(self._said.request(index))

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        size = wire.whole(self._buffer)
        if not size or self._under_way is None:
            return
        index, self._under_way = self._under_way, None
        status = int(self._buffer[9:12])
        del self._buffer[:size]
        self._said.heard(index, status)
        if self.waiting:
            self._next()


async def run(options: argparse.Namespace) -> dict[str, Any]:
    said = Said(options)
    loop = asyncio.get_running_loop()
    speakers = [
        (await loop.create_connection(lambda: Speaker(said), said.host, said.port))[1]
        for _ in range(options.connections)
    ]

    def speaker(index: int) -> Speaker:
        return speakers[said.user(index) % len(speakers)]

    began = time.monotonic()
    if options.rate:
        for index in range(options.messages):
            said.due[index] = due = began + index / options.rate
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            speaker(index).say(index)
    else:
        for index in range(options.messages):
            speaker(index).waiting.append(index)
        for each in speakers:
            if each.waiting:
                each._next()
    await said.over.wait()
    ended = max(said.answered)
    if options.file:
        numbers = range(options.first, options.first + options.messages)
        options.file.write_bytes(b"".join(map(TIMES.pack, numbers, said.due, said.answered)))
    return {"began": began, "seconds": ended - began, "statuses": dict(said.statuses)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--users", type=int, default=1_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0, help="messages in a second; 0: a closed loop")
    parser.add_argument("--first", type=int, default=0, help="the first message's number")
    parser.add_argument("--in-a-row", type=int, default=1, help="messages that a user says before the next one speaks")
    parser.add_argument("--length", type=int, default=40, help="characters of a message, about")
    parser.add_argument("--file", type=Path, help="where to leave each message's times")
    print(json.dumps(uvloop.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
