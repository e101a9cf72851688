"""
A connection to Redis that redis-py has made, and over which we speak ourselves.

How one gets in (TLS, users, databases, sentinels' checks) is redis-py's.  Its streams, parser and writer are three
layers of coroutines for each reply, which on a quiet pipeline cost more than the server's work; here it is one
protocol around hiredis.  One exchange at a time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import InvalidResponse, RedisError

Argument = bytes | str | int | float


class Line(asyncio.Protocol):
    """
    What is said over one connection.

    Args:
        connection: connected, and nothing under way on it.
    """

    def __init__(self, connection: AbstractConnection) -> None:
        # Nothing public leads to these; tests/streams/test_line.py says so where redis-py should change them.
        reader, writer, parser = connection._reader, connection._writer, connection._parser
        connection._reader = connection._writer = None  # as if it had none: what it made is ours to close
        self._streams = reader, writer  # would close the transport as they go
        self._transport = cast(asyncio.Transport, cast(asyncio.StreamWriter, writer).transport)
        self._before = cast(asyncio.Protocol, self._transport.get_protocol())
        self._hiredis = hiredis.Reader(protocolError=InvalidResponse, replyError=parser.parse_error)
        self._loop = asyncio.get_running_loop()
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiting: asyncio.Future[None] | None = None
        self._lost: Exception | None = None
        self._transport.set_protocol(self)

    @property
    def open(self) -> bool:
        """Neither side has closed it."""
        return self._lost is None and not self._transport.is_closing()

    async def ask(self, commands: Sequence[Sequence[Argument]], until: float) -> list[Any]:
        """
        Say these, and return their replies, in which errors stand as redis.ResponseError.

        Whoever gives up waiting has to close the line: the replies are still under way.

        Args:
            until: on the loop's clock; without an answer by then the line counts as lost.

        Raises:
            redis.ConnectionError: it is lost, or the server does not serve yet (it is loading), or does not know us.
            redis.InvalidResponse: what comes is no reply.
            TimeoutError: nothing came.
        """
        if not self.open:
            raise self._lost or LostConnection("the connection is closed")
        # Packed in C: redis-py's own way, in Python, costs as much as all the rest of a call.
        self._transport.write(b"".join([hiredis.pack_command(tuple(command)) for command in commands]))  # type: ignore[arg-type]  # its stub
        self._wanted = len(commands)
        self._waiting = self._loop.create_future()
        # Not asyncio.timeout, which costs three times as much, in every call.
        alarm = self._loop.call_at(until, self._silent)
        try:
            await self._waiting
        finally:
            self._waiting = None
            alarm.cancel()
        replies, self._replies = self._replies, []
        for reply in replies:
            if isinstance(reply, LostConnection):
                raise reply
        return replies

    def close(self) -> None:
        self._end(LostConnection("the connection was closed"))
        self._transport.abort()

    def _silent(self) -> None:
        self._end(TimeoutError("no answer"))
        self._transport.abort()

    def _end(self, why: Exception) -> None:
        self._lost = self._lost or why
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(self._lost)

    # asyncio's side

    def data_received(self, data: bytes) -> None:
        try:
            self._hiredis.feed(data)
            while (reply := self._hiredis.gets()) is not False:
                self._replies.append(reply)
        except RedisError as error:
            self._end(error)
            self._transport.abort()
            return
        if self._waiting is None:
            self._end(LostConnection("the server speaks unasked"))
            self._transport.abort()
        elif len(self._replies) >= self._wanted and not self._waiting.done():
            self._waiting.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(LostConnection(str(exc) if exc else "the server closed the connection"))
        self._before.connection_lost(exc)  # redis-py's streams, which nobody reads, hear that they are closed
