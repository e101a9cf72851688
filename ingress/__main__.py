"""
`python -m ingress`, and what `cauce ingress` runs: uvicorn around the application.

Knows sockets, signals and what may come over a connection before it is a request.  The first signal stops listening,
lets whoever waits for a reply go and finishes the rest; the second one stops at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Iterator

import httptools
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ingress.app import create_app
from ingress.refusal import Refused
from streams import log as logs
from streams import memory, welcome, wire
from streams.connection import Store
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.topology import Topology

MOST_HEADERS = 64 * 1024
"""Bytes of a request's first line and headers; the parser itself knows no limit."""

PART_COST = 32
"""Bytes that each of them counts for besides its own: many small ones cost as well."""

KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than the reverse proxies in front (60 s) keep theirs."""

_log = logs.get("ingress")


async def serve(topology: Topology, settings: Settings, url: str) -> None:
    """
    Serve until a signal.

    Args:
        url: where Redis is.

    Raises:
        ConfigurationError: it would be open to strangers, the address is taken, or Redis throws messages away.
        Unavailable: Redis cannot be reached at the start.
    """
    store = Store.open(url, namespace=settings.namespace)
    try:
        app = create_app(topology, settings, store)
        sockets = _listen(settings)
        await store.ping()
        _log.info("redis.connected", url=url)
        await memory.refuse_eviction(store, production=settings.production)
        server = _Server(config(app, settings), welcome.address(settings, sockets[0].getsockname()[1]))
        await server.serve(sockets=sockets)
    finally:
        await store.close()
    _log.info("redis.disconnected")


def config(app: Starlette, settings: Settings) -> uvicorn.Config:
    """How uvicorn is to serve: our log, our headers, no more than HTTP/1.1."""
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace)),
    )


def _listen(settings: Settings) -> list[socket.socket]:
    """Every address that INGRESS_HOST means; all get the same port."""
    host, port = settings.ingress_host.strip("[]"), settings.ingress_port
    sockets: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            opened = socket.socket(family, kind, protocol)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind((address[0], port, *address[2:]))
            port = opened.getsockname()[1]
    except OSError as error:
        for opened in sockets:
            opened.close()
        raise ConfigurationError(
            f"environment: nothing can listen on {host}:{port} ({error.strerror or error}); stop what uses it, or "
            "choose another INGRESS_PORT or INGRESS_HOST"
        ) from error
    return sockets


class _Server(uvicorn.Server):
    """uvicorn's, with our signals and without its ten wake-ups a second."""

    def __init__(self, config: uvicorn.Config, address: str) -> None:
        super().__init__(config)
        self._address = address
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        _log.info("ingress.listening", url=self._address)

    async def main_loop(self) -> None:
        # Once a second is for the Date header.
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), 1)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal anew when all is done, and so end with it instead of 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self.should_exit:
            _log.warning("ingress.stopped_at_once")
            os._exit(1)
        _log.info("ingress.draining", requests=len(self.server_state.tasks))
        self.should_exit = True
        self._ending.set()
        self.config.app.state.waiting.stop()  # type: ignore[union-attr]


class _Protocol(HttpToolsProtocol):
    """HTTP/1.1 with bounded headers, and our errors also for what is no request."""

    _received = 0

    def on_message_begin(self) -> None:
        self._received = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._bound(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._bound(name, value)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self._wants_another_protocol():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self._wants_another_protocol():
            super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """
        As uvicorn's, but who would rather speak another protocol (`Upgrade: h2c` of curl and Java) is answered in this
        one, as RFC 9110 (7.8) allows.  The parser stops behind such a head, and would take the body for the next
        request; so another one is given the head once more, without the wish.
        """
        self._unset_keepalive_if_required()
        while data:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as stopped:
                if not self._wants_another_protocol():
                    return
                data = self._head_without_upgrade() + data[stopped.args[0] :]
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn has it
            except httptools.HttpParserError:
                message = "Invalid HTTP request received."
                self.logger.warning(message)
                self.send_400_response(message)
                return

    def _wants_another_protocol(self) -> bool:
        # CONNECT stops the parser as well, with whatever head.
        return bool(self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT")

    def _head_without_upgrade(self) -> bytes:
        lines = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())]
        lines += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def _bound(self, *parts: bytes) -> None:
        self._received += sum(map(len, parts)) + len(parts) * PART_COST
        if self._received > MOST_HEADERS:
            raise httptools.HttpParserError("the headers are too long")

    def send_400_response(self, msg: str) -> None:
        refused = Refused(400, "malformed_http", f"this is no HTTP request we can read: {msg}")
        body = wire.encode(refused.body)
        head = (
            "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        self.transport.write(head.encode() + body)
        self.transport.close()


if __name__ == "__main__":
    from streams import cli

    sys.argv.insert(1, "ingress")
    cli.main()
