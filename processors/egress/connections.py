"""
POSTs to one address over connections that are kept: HTTP/1.1 as https://www.rfc-editor.org/rfc/rfc9112 has it.

Small, for every reply goes this way: one method, one address, no redirects, cookies or proxies (why not a client that
knows them all: docs/decisions/webhook-client.md).  Answers are parsed by httptools, which is Node's llhttp; names, TLS
and the race between IPv6 and IPv4 are asyncio's and aiohappyeyeballs'.  Knows nothing of replies, or of what an answer
means.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from base64 import b64encode
from collections import deque
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from typing import cast

import aiohappyeyeballs
import httptools
from yarl import URL

from processors.egress.answers import Answer, Closed, Unintelligible, Unreached

ANSWER_BYTES = 64 * 1024
"""Of a body, as much as may matter; whoever says more is heard no further."""

_HEAD_BYTES = 64 * 1024
_SECOND_ADDRESS = 0.25
"""Seconds after which the next address is tried beside one that does not answer (RFC 8305, section 5)."""


class Connections:
    """All that lead to one address."""

    def __init__(
        self,
        url: URL,
        headers: Mapping[str, str],
        *,
        timeout: float,
        connect_timeout: float,
        idle: float,
        clock: Callable[[], float] | None = None,
    ) -> None:
        """
        Args:
            headers: those of every request.
            timeout: seconds for a whole exchange, a new connection included.
            idle: seconds after which an unused connection is closed.
            clock: seconds that only go forward; None is the event loop's.

        Raises:
            ValueError: a header cannot be written.
        """
        self._url = url
        self._timeout, self._connect_timeout, self._idle = timeout, min(connect_timeout, timeout), idle
        self._clock = clock
        self._head = f"POST {url.raw_path_qs} HTTP/1.1\r\nhost: {url.host_port_subcomponent}\r\n".encode("ascii")
        self._head += _lines(_authorized(url) | dict(headers))
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._pool: deque[tuple[_Connection, float]] = deque()
        """Unused ones, and since when; the last one used is the last."""
        self._sweep: asyncio.TimerHandle | None = None

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()  # asked for once: it is a system call each time, until Python 3.12

    @cached_property
    def _now(self) -> Callable[[], float]:
        return self._clock or self._loop.time

    async def post(self, body: bytes, headers: Mapping[str, str], *, anew: bool = False) -> Answer:
        """
        One exchange.

        Args:
            anew: over a new connection, whatever lies in the pool.

        Raises:
            Unreached: there was no connection to send it over.
            Closed, Unintelligible: it was sent, and no answer came.
            TimeoutError: the same, in time.
            ValueError: a header cannot be written; nothing was sent.
        """
        head = b"%b%bcontent-length: %d\r\n\r\n" % (self._head, _lines(headers), len(body))
        until = self._loop.time() + self._timeout
        connection = (None if anew else self._pooled()) or await self._connected()
        alarm = self._loop.call_at(until, connection.expire)
        try:
            answer = await connection.exchange(head + body)
        finally:
            alarm.cancel()
            if connection.reusable:
                self._keep(connection)
            else:
                connection.abort()
        return answer

    def close(self) -> None:
        """Those that are unused; whoever is in the middle of an exchange closes its own."""
        if self._sweep is not None:
            self._sweep.cancel()
        while self._pool:
            self._pool.pop()[0].abort()

    def _pooled(self) -> _Connection | None:
        while self._pool:
            connection, since = self._pool.pop()
            if connection.reusable and self._now() - since < self._idle:
                return connection
            connection.abort()
        return None

    def _keep(self, connection: _Connection) -> None:
        self._pool.append((connection, self._now()))
        if self._sweep is None:
            self._sweep = self._loop.call_later(self._idle, self._drop_idle)

    def _drop_idle(self) -> None:
        self._sweep = None
        while self._pool and self._now() - self._pool[0][1] >= self._idle:
            self._pool.popleft()[0].abort()
        if self._pool:
            wait = self._pool[0][1] + self._idle - self._now()
            self._sweep = self._loop.call_later(wait, self._drop_idle)

    async def _connected(self) -> _Connection:
        loop = self._loop
        try:
            async with asyncio.timeout(self._connect_timeout):
                found = await loop.getaddrinfo(self._url.raw_host, self._url.port, type=socket.SOCK_STREAM)
                sock = await aiohappyeyeballs.start_connection(found, happy_eyeballs_delay=_SECOND_ADDRESS)
                name = self._url.raw_host if self._tls else None
                new = partial(_Connection, loop)
                made = await loop.create_connection(new, sock=sock, ssl=self._tls, server_hostname=name)
        except (OSError, UnicodeError, RuntimeError) as error:  # uvloop raises a RuntimeError for a socket it lost
            raise Unreached from error
        return made[1]


class _Connection(asyncio.Protocol):
    """One connection, and at most one exchange over it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport
        self._waiting: asyncio.Future[Answer] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._open = False
        self._clear()

    def _clear(self) -> None:
        self._status = 0
        self._retry_after: str | None = None
        self._body = bytearray()
        self._head_bytes = 0

    @property
    def reusable(self) -> bool:
        return self._open and self._waiting is None and not self._transport.is_closing()

    async def exchange(self, request: bytes) -> Answer:
        """Send these bytes and wait for the answer.  Raises as `Connections.post`."""
        waiting: asyncio.Future[Answer] = self._loop.create_future()
        self._waiting = waiting
        self._transport.write(request)
        try:
            return await waiting
        except asyncio.CancelledError:
            self.abort()
            raise

    def expire(self) -> None:
        """It has taken too long; where the status has come it is the verdict all the same."""
        self._end(TimeoutError())

    def abort(self) -> None:
        self._open = False
        self._transport.abort()

    # asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._open = True

    def data_received(self, data: bytes) -> None:
        if self._waiting is None:
            self.abort()  # nobody has asked
            return
        try:
            self._parser.feed_data(data)
            self._head_bytes += 0 if self._status else len(data)
            if self._head_bytes > _HEAD_BYTES:
                raise httptools.HttpParserError("its headers have no end")
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._end(Unintelligible(str(error)))

    def connection_lost(self, exc: Exception | None) -> None:
        self._open = False
        self._end(Closed())

    def _end(self, trouble: Exception) -> None:
        """No more will come: what has come is the answer, if it has a status."""
        self._open = False
        if self._waiting is None or self._waiting.done():
            return
        if self._status:
            self._answered()
        else:
            self._waiting.set_exception(trouble)

    def _answered(self) -> None:
        waiting, self._waiting = self._waiting, None
        answer = Answer(self._status, self._retry_after, bytes(self._body))
        self._clear()
        if waiting is not None and not waiting.done():
            waiting.set_result(answer)

    # httptools' side

    def on_message_begin(self) -> None:
        if self._waiting is None:
            self._open = False  # it says more than was asked

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"retry-after":
            self._retry_after = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        self._status = status if status >= 200 else 0  # 1xx announce that an answer will come

    def on_body(self, body: bytes) -> None:
        self._body += body[: ANSWER_BYTES - len(self._body)]
        if len(self._body) == ANSWER_BYTES:
            self._open = False
            self._answered()

    def on_message_complete(self) -> None:
        if self._status:
            self._open = self._open and self._parser.should_keep_alive()
            self._answered()


def _lines(headers: Mapping[str, str]) -> bytes:
    text = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    if text.count("\n") != len(headers) or text.count("\r") != len(headers) or "\0" in text:
        raise ValueError("a header holds a line break")
    return text.encode()


def _authorized(url: URL) -> dict[str, str]:
    """User and password of the address as a header (RFC 7617)."""
    if url.user is None:
        return {}
    return {"authorization": "Basic " + b64encode(f"{url.user}:{url.password or ''}".encode()).decode()}
