"""
The webhook's receiver, a process of its own: says 200 at once and remembers when each message's reply came.

    python -m bench.sink --port 9000

A message is known by the number in its id, `wamid.17`, wherever in the body it stands.  `GET /wait/20000` answers once
so many messages have come, `GET /arrivals` with what has come, `POST /reset` forgets it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import struct
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop

from bench import wire

_NUMBER = re.compile(rb"wamid\.(\d+)")
_OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"
ARRIVAL = struct.Struct("<Id")
"""A message's number, and the monotonic clock when its reply was here; all processes of a machine share that clock."""


class Arrivals:
    """What has come."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.times: list[float] = []
        self.posts = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def note(self, body: bytes | bytearray) -> None:
        now = time.monotonic()
        self.posts += 1
        for number in _NUMBER.findall(body):
            self.numbers.append(int(number))
            self.times.append(now)
        if self._waiting and len(self.numbers) >= self._waiting[0][0]:
            self._tell()

    def _tell(self) -> None:
        ready = [each for each in self._waiting if each[0] <= len(self.numbers)]
        self._waiting = [each for each in self._waiting if each[0] > len(self.numbers)]
        for _, future in ready:
            if not future.done():
                future.set_result(None)

    async def until(self, count: int) -> None:
        """Returns once so many messages have come."""
        if len(self.numbers) < count:
            future = asyncio.get_running_loop().create_future()
            self._waiting = sorted([*self._waiting, (count, future)], key=lambda each: each[0])
            await future

    def packed(self) -> bytes:
        return b"".join(map(ARRIVAL.pack, self.numbers, self.times))

    def reset(self) -> None:
        self.numbers.clear()
        self.times.clear()
        self.posts = 0


class Receiver(asyncio.Protocol):
    """One connection."""

    def __init__(self, arrivals: Arrivals) -> None:
        self._arrivals = arrivals
        self._buffer = bytearray()
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while size := wire.whole(self._buffer):
            message = bytes(self._buffer[:size])
            del self._buffer[:size]
            if message.startswith(b"GET ") or message.startswith(b"POST /reset"):
                task = asyncio.ensure_future(self._told(message.split(b" ", 2)[1].decode()))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            else:
                self._arrivals.note(message)
                self._transport.write(_OK)

    async def _told(self, path: str) -> None:
        body = b"{}"
        parts = urlsplit(path).path.strip("/").split("/")
        if parts[0] == "wait":
            await self._arrivals.until(int(parts[1]))
        elif parts[0] == "arrivals":
            body = self._arrivals.packed()
        elif parts[0] == "posts":
            body = str(self._arrivals.posts).encode()
        elif parts[0] == "reset":
            self._arrivals.reset()
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


async def serve(port: int) -> None:
    arrivals = Arrivals()
    server = await asyncio.get_running_loop().create_server(lambda: Receiver(arrivals), "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvloop.run(serve(parser.parse_args().port))
