"""
A bad network: a TCP proxy that cuts, stalls, slows and forgets connections, between any process and what it talks to.

In a test:  `async with Proxy(socket) as wire: … wire.stall() … wire.heal()`.  Knows bytes and connections, and no
protocol; a reply is whatever comes from the other side in one piece.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from pathlib import Path

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Target = Path | tuple[str, int]
PIECE = 64 * 1024


class _Connection:
    """One client's, and ours to the target."""

    def __init__(self, client: Streams, server: Streams) -> None:
        self.client, self.server = client, server
        self.asked = b""
        """The last piece that the client sent."""
        self.lost = False
        """Whatever is sent, nothing more comes through."""
        self.mute = False
        """The client has been told that nothing more will come."""

    def close(self) -> None:
        for _, writer in (self.client, self.server):
            writer.transport.abort()

    def reset(self) -> None:
        """With a RST, as whoever has forgotten a connection answers what comes over it."""
        for _, writer in (self.client, self.server):
            if not writer.transport.is_closing():
                _no_goodbye(writer)
        self.close()


class Proxy:
    """
    Listens on a free port of this machine and passes everything on, until told otherwise.

    Args:
        target: a unix socket, or host and port.
    """

    def __init__(self, target: Target) -> None:
        self.port = 0
        self.hits = 0
        """How many connections, or attempts to make one, have met a fault.  One that met nobody has shown nothing."""
        self._target = target
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._passing = asyncio.Event()
        self._passing.set()
        self._pace: tuple[float, float] | None = None
        self._hold: tuple[int, asyncio.Event] | None = None
        self._spoil: Callable[[_Connection, bytes], int | None] = _nothing

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    # What can happen.

    def reset(self) -> None:
        """Every connection is reset; new ones pass."""
        for connection in list(self._connections):
            self.hits += 1
            connection.reset()

    def cut(self) -> None:
        """Every connection is reset, and so is each new one."""
        self._refusing = True
        self.reset()

    def stall(self) -> None:
        """Connections are taken and nothing comes through, either way, until `heal`: then all of it."""
        self.hits += len(self._connections)
        self._passing.clear()

    def lose(self) -> None:
        """Connections stay silent for ever, as behind a firewall that has forgotten them; new ones pass."""
        for connection in self._connections:
            self.hits += 1
            connection.lost = True

    def slow(self, bytes_per_second: float, latency: float) -> None:
        """Both ways, each connection by itself."""
        self.hits += len(self._connections)
        self._pace = bytes_per_second, latency

    def half_close(self) -> None:
        """The other side has stopped speaking (FIN), and still listens."""
        for connection in self._connections:
            self.hits += 1
            connection.mute = True
            connection.client[1].write_eof()

    def spoil(self, times: int, *, after: int = 0, of: str = "") -> asyncio.Event:
        """
        The next replies are cut off: what was asked has been done, and the connection is closed.

        Args:
            after: so many bytes of each come through.
            of: only those to a request in which this text stands.

        Returns:
            set when so many have been.
        """
        left, done = times, asyncio.Event()

        def spoil(connection: _Connection, _reply: bytes) -> int | None:
            nonlocal left
            if left == 0 or of.encode() not in connection.asked:
                return None
            left -= 1
            if left == 0:
                done.set()
            return after

        self._spoil = spoil
        return done

    def hold(self, after: int) -> asyncio.Event:
        """The next reply stops after so many bytes, which sets the event returned; the rest comes with `heal`."""
        self._hold = after, asyncio.Event()
        return self._hold[1]

    def lead_to(self, target: Target) -> None:
        """Where new connections go from now on; those that are there stay where they are."""
        self._target = target

    def heal(self) -> None:
        """From now on all is well; what `lose` lost stays lost."""
        self._refusing, self._pace, self._spoil = False, None, _nothing
        self._passing.set()

    # How it is done.

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in list(self._connections):
            connection.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            if self._refusing:
                self.hits += 1
                _no_goodbye(writer)
                return
            await self._serve((reader, writer))
        except (OSError, asyncio.CancelledError):
            pass  # the target is away, or the test is over
        finally:
            writer.transport.abort()

    async def _serve(self, client: Streams) -> None:
        path = self._target
        server = await (
            asyncio.open_unix_connection(path) if isinstance(path, Path) else asyncio.open_connection(*path)
        )
        connection = _Connection(client, server)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(self._up(connection))
                pumps.create_task(self._down(connection))
        except* OSError:
            pass
        finally:
            self._connections.discard(connection)
            connection.close()

    async def _up(self, connection: _Connection) -> None:
        reader, writer = connection.client[0], connection.server[1]
        while piece := await reader.read(PIECE):
            connection.asked = piece
            await self._delay(connection, piece)
            writer.write(piece)
            await writer.drain()
        if not writer.transport.is_closing():
            writer.write_eof()

    async def _down(self, connection: _Connection) -> None:
        reader, writer = connection.server[0], connection.client[1]
        while piece := await reader.read(PIECE):
            await self._delay(connection, piece)
            if connection.mute:
                continue
            if self._hold is not None:
                piece = await self._held(writer, piece, *self._hold)
            cut = self._spoil(connection, piece)
            if cut is not None:
                self.hits += 1
                writer.write(piece[:cut])
                await writer.drain()
                break
            writer.write(piece)
            await writer.drain()
        connection.close()

    async def _held(self, writer: asyncio.StreamWriter, piece: bytes, after: int, stopped: asyncio.Event) -> bytes:
        """Pass the beginning of a reply; the rest, once it may go on."""
        self._hold = None
        self.hits += 1
        self._passing.clear()
        writer.write(piece[:after])
        await writer.drain()
        stopped.set()
        await self._passing.wait()
        return piece[after:]

    async def _delay(self, connection: _Connection, piece: bytes) -> None:
        await self._passing.wait()
        if self._pace is not None:
            bytes_per_second, latency = self._pace
            await asyncio.sleep(latency + len(piece) / bytes_per_second)
        if connection.lost:
            await asyncio.Event().wait()


def _no_goodbye(writer: asyncio.StreamWriter) -> None:
    """Closed, it will be reset."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _nothing(_connection: _Connection, _reply: bytes) -> int | None:
    return None
