"""
`python -m ingress`, and what `cauce ingress` runs: uvicorn around the application.

Knows descriptors and signals; sockets stand in listening.py, and what may come over a connection in protocol.py.  The
first signal stops listening, lets whoever waits for a reply go and finishes the rest; the second one stops at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator, Sequence

import uvicorn
from starlette.applications import Starlette

from ingress.app import create_app
from ingress.listening import Help, Listeners, adopt, bind, close, queued, shut
from ingress.protocol import Protocol
from streams import anew, garbage, layout, memory, metrics
from streams import log as logs
from streams.commands import welcome
from streams.settings import PROBE_SOCKET, Settings
from streams.stores import Stores
from streams.topology import Topology

KEEP_ALIVE = 75
"""Seconds an idle connection is kept: longer than the reverse proxies in front (60 s) keep theirs."""

MOST_CONNECTIONS = 16_384
"""Of one process, where it may have as many descriptors."""

SPARE = 128
"""Descriptors that connections leave for Redis and the rest."""

LINGER = 1.0
"""Seconds after the signal in which a connection that is open may still bring a request."""

HANDSHAKE = 0.05
"""Seconds for connections that are half made when the door closes."""

_log = logs.get("ingress")


async def serve(topology: Topology, settings: Settings, url: str, arguments: Sequence[str] = ()) -> Listeners | None:
    """
    Serve until a signal.

    Args:
        url: where Redis is.
        arguments: options of the command line that come before the command.

    Returns:
        where it is to begin anew (SIGHUP had it stop, and it would start with its configuration as it is now), the
        sockets on which connections wait for it meanwhile.

    Raises:
        ConfigurationError: it would be open to strangers, the address is taken, Redis holds another layout,
                throws messages away, or cannot keep them as durably as is wanted.
        Unavailable: Redis cannot be reached at the start.
    """
    stores = Stores.open(url, namespace=settings.namespace, shards=topology.shards)
    try:
        app = create_app(topology, settings, stores)
        listeners = Listeners.inherited() or bind(settings)[0]
        await layout.agree(stores)
        await app.state.appenders.prepare()
        # Of several each would say the same; whoever supervises them says it once.
        level = _log.info if listeners.of == 1 else _log.debug
        level("redis.connected", url=url)
        await memory.refuse_eviction(stores, production=settings.production)
        server = _Server(config(app, settings), listeners, welcome.address(settings, listeners.port), arguments)
        async with asyncio.TaskGroup() as whole:
            watching = whole.create_task(layout.watch(stores))
            await server.serve(sockets=listeners.own)
            watching.cancel()
    finally:
        await stores.close()
    level("redis.disconnected")
    return server.handed_on


def config(app: Starlette, settings: Settings) -> uvicorn.Config:
    """
    How uvicorn is to serve: our log, our headers, no more than HTTP/1.1.

    No `limit_concurrency`: it counts idle connections too, so that whoever opens enough of them would lock out all.
    """
    protocol = functools.partial(
        Protocol, patience=settings.ingress_timeout, most=_most_connections(), short=app.state.short
    )
    return uvicorn.Config(
        app,
        http=protocol,  # type: ignore[arg-type]  # a class to uvicorn, which only calls it
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace)),
    )


def _most_connections() -> int:
    """As many as the descriptors allow: all that the system grants, not the 1,024 that many a shell begins with."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + SPARE
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MOST_CONNECTIONS if soft == resource.RLIM_INFINITY else max(1, min(MOST_CONNECTIONS, soft - SPARE))


class _Server(uvicorn.Server):
    """uvicorn's, with our signals and without its ten wake-ups a second."""

    def __init__(
        self, config: uvicorn.Config, listeners: Listeners, address: str, arguments: Sequence[str] = ()
    ) -> None:
        super().__init__(config)
        self.handed_on: Listeners | None = None
        """Once it is to begin anew: what waits on these is for whoever takes its place."""
        self._hangup = anew.Hangup([*arguments, "ingress"], self._step_aside)
        self._listeners = listeners
        self._help = Help(listeners.others, self._protocol)
        self._address = address
        self._ending = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        garbage.keep_what_is_loaded()
        self._help.begin()
        if path := os.environ.get(PROBE_SOCKET):
            loop = asyncio.get_running_loop()
            self.servers.append(await loop.create_unix_server(self._protocol, path))
        metrics.INGRESS_WORKERS.set(1)
        level = _log.info if self._listeners.of == 1 else _log.debug
        level("ingress.listening", url=self._address)

    async def main_loop(self) -> None:
        # Once a second is for the Date header.
        loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            due = loop.time() + 1
            try:
                await asyncio.wait_for(self._ending.wait(), 1)
            except TimeoutError:
                metrics.loop_lag("ingress", loop.time() - due)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """
        As uvicorn's, but whoever has got through to us is heard.

        It would close what has not brought a request yet, and with the listener all that the kernel has let in and
        nobody has accepted; their requests are on the way by then, and whoever sent one would see it reset.
        """
        self.server_state.default_headers.append((b"connection", b"close"))  # in every answer to what comes now
        for connection in self.server_state.connections:
            if (cycle := getattr(connection, "cycle", None)) is not None:  # and to what is in work
                cycle.keep_alive = False
        if self.handed_on is None:
            if not self._listeners.held:
                shut(self._listeners.own)
            await asyncio.sleep(HANDSHAKE)
        late = [accepted for each in (*self._listeners.own, *self._listeners.others) for accepted in queued(each)]
        for server in self.servers:
            server.close()
        self._help.end()
        loop = asyncio.get_running_loop()
        for accepted in late:
            await adopt(accepted, self._protocol)
        until = loop.time() + LINGER
        while self.server_state.connections and loop.time() < until:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def _protocol(self) -> asyncio.Protocol:
        """For one connection, as uvicorn makes it."""
        return self.config.http_protocol_class(  # type: ignore[call-arg]  # known to uvicorn as any protocol
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """uvicorn would raise the signal anew when all is done, and so end with it instead of 0."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._on_signal)
        self._hangup.listen()
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _on_signal(self) -> None:
        if self.should_exit and self.handed_on is None:
            _log.warning("ingress.stopped_at_once")
            os._exit(1)
        self._hangup.forget()
        if self.handed_on is not None:
            close(self.handed_on.own)
            self.handed_on = None
        self._end()

    def _step_aside(self) -> None:
        self.handed_on = self._listeners.doubled()
        self._end()

    def _end(self) -> None:
        connections = self.server_state.connections
        answering = (isinstance(each, Protocol) and each.answering for each in connections)
        _log.info("ingress.draining", requests=sum(answering))
        self.should_exit = True
        self._ending.set()
        for waiting in self.config.app.state.waiting:  # type: ignore[union-attr]
            waiting.stop()


if __name__ == "__main__":
    from streams import cli

    sys.argv.insert(1, "ingress")
    cli.main()
