"""
Where the ingress is reached: its sockets, bound once and handed to whoever accepts on them.

Processes that share the address have sockets of their own each (SO_REUSEPORT), among which Linux divides connections
evenly; of one socket that all share, whoever wakes first takes most.  Whoever supervises keeps all of them open, so
that nothing in the queue of a process that dies is reset: the others take it, or its successor.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from streams.errors import ConfigurationError
from streams.settings import Settings

VARIABLE = "CAUCE_SOCKETS"
"""How a process is told of what it was given: `of;held;own;others`, the last two as descriptors between commas."""

Sockets = list[socket.socket]
"""Of one process: one for every address that INGRESS_HOST means, all on the same port."""


PATIENCE = 0.05
"""Seconds that a connection waits for the process that it was meant for, before another takes it."""


_SO_ATTACH_FILTER = 26
"""Linux's, see socket(7); Python has no name for it."""

_NOT_SYN = bytearray(
    b"".join(
        struct.pack("HBBI", *instruction)
        for instruction in (
            (0x30, 0, 0, 13),  # the byte of the TCP header that holds its flags
            (0x54, 0, 0, 0x12),  # of them SYN and ACK
            (0x15, 0, 1, 0x02),  # SYN alone asks for a connection:
            (0x06, 0, 0, 0),  # drop it,
            (0x06, 0, 0, 0xFFFFFFFF),  # and take all else
        )
    )
)
"""In the bytes of a classic BPF program (Linux's Documentation/networking/filter.rst)."""


@dataclass(frozen=True)
class Listeners:
    """What one process accepts on."""

    own: Sockets
    others: Sockets = field(default_factory=list)
    """Those of the processes beside it, where it helps while they do not come to it."""
    of: int = 1
    """How many processes share the address."""
    held: bool = False
    """Whether who started this process has them as well, for a successor."""

    @property
    def port(self) -> int:
        return int(self.own[0].getsockname()[1])

    @property
    def descriptors(self) -> list[int]:
        return [each.fileno() for each in (*self.own, *self.others)]

    def told(self) -> str:
        """VARIABLE's value for a process that inherits these."""
        own, others = (",".join(str(each.fileno()) for each in sockets) for sockets in (self.own, self.others))
        return f"{self.of};{self.held:d};{own};{others}"

    def doubled(self) -> Listeners:
        """The same again, which listen on when these are closed."""
        return replace(self, own=[each.dup() for each in self.own], others=[each.dup() for each in self.others])

    def handed_on(self) -> dict[str, str]:
        """What a command that takes this process's place is to find in its environment, where it finds these."""
        for each in (*self.own, *self.others):
            each.set_inheritable(True)
        return {VARIABLE: self.told()}

    @classmethod
    def inherited(cls) -> Listeners | None:
        """What we were given; None where we are to bind for ourselves."""
        told = os.environ.pop(VARIABLE, None)
        if told is None:
            return None
        of, held, *lists = told.split(";")
        own, others = ([_adopted(int(each)) for each in numbers.split(",") if each] for numbers in lists)
        return cls(own, others, int(of), held == "1")


def _adopted(descriptor: int) -> socket.socket:
    adopted = socket.socket(fileno=descriptor)
    adopted.set_inheritable(False)
    return adopted


def bind(settings: Settings, processes: int = 1) -> list[Listeners]:
    """
    Sockets for so many processes.  None listens yet: until one does, connections are refused.

    Raises:
        ConfigurationError: the address is taken, or none of this machine's.
    """
    if processes == 1:
        return [Listeners(_bound(settings, settings.ingress_port))]
    # Alone first: a stranger that shares its address would go unnoticed, and take half of what comes.
    sockets = _bound(settings, settings.ingress_port)
    if not sys.platform.startswith("linux"):
        return [Listeners(sockets, of=processes)] * processes  # elsewhere connections are not divided
    port = sockets[0].getsockname()[1]
    close(sockets)
    each = [_bound(settings, port, shared=True) for _ in range(processes)]
    return [Listeners(own, [one for others in each if others is not own for one in others], processes) for own in each]


def shut(sockets: Sequence[socket.socket]) -> None:
    """
    Begin no connection any more; those begun go on.  For good: close the sockets soon.

    Closing alone resets who got through between the last look at the queue and the close.  Whoever knocks now is not
    answered, knocks again after a second, and is refused then, or let in by a successor.
    """
    if sys.platform.startswith("linux"):
        for each in sockets:
            with contextlib.suppress(OSError):  # a kernel that takes no filters: as before
                program = struct.pack("HL", len(_NOT_SYN) // 8, ctypes.addressof(ctypes.c_char.from_buffer(_NOT_SYN)))
                each.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def queued(listener: socket.socket) -> Iterator[socket.socket]:
    """The connections that nobody has accepted yet."""
    listener.setblocking(False)
    with contextlib.suppress(OSError):  # none is left, or no descriptor for one
        while True:
            accepted, _ = listener.accept()
            accepted.setblocking(False)
            yield accepted


async def adopt(accepted: socket.socket, protocol: Callable[[], asyncio.Protocol]) -> None:
    """Serve a connection that we have accepted ourselves."""
    with contextlib.suppress(OSError):  # it has gone
        await asyncio.get_running_loop().connect_accepted_socket(protocol, accepted)


class Help:
    """
    Takes what waits for processes beside us that do not come to it: dead, frozen, or too busy.

    Args:
        protocol: makes one for a connection.
    """

    def __init__(self, listeners: Sockets, protocol: Callable[[], asyncio.Protocol]) -> None:
        self._listeners = listeners
        self._protocol = protocol
        self._due: dict[socket.socket, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def begin(self) -> None:
        for listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener.fileno(), self._notice, listener)

    def end(self) -> None:
        """Look no more, and close what we were given."""
        for listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener.fileno())
        for timer in self._due.values():
            timer.cancel()
        close(self._listeners)

    def _notice(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        # It would ring until somebody has accepted; whose it is does so at once.
        loop.remove_reader(listener.fileno())
        self._due[listener] = loop.call_later(PATIENCE, self._look, listener)

    def _look(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        for accepted in queued(listener):
            task = loop.create_task(adopt(accepted, self._protocol))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        loop.add_reader(listener.fileno(), self._notice, listener)


def close(sockets: Sequence[socket.socket]) -> None:
    for each in sockets:
        each.close()


def _bound(settings: Settings, port: int, *, shared: bool = False) -> Sockets:
    host = settings.ingress_host.strip("[]")
    sockets: Sockets = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            opened = socket.socket(family, kind, protocol)
            sockets.append(opened)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            opened.bind((address[0], port, *address[2:]))
            port = opened.getsockname()[1]
    except OSError as error:
        close(sockets)
        raise ConfigurationError(
            f"environment: nothing can listen on {host}:{port} ({error.strerror or error}); stop what uses it, or "
            "choose another INGRESS_PORT or INGRESS_HOST"
        ) from error
    return sockets
