"""Ports for servers that are started by their number; the tests take theirs from here."""

from __future__ import annotations

import contextlib
import random
import socket

BUS = 10_000
"""A cluster's bus has the port so far above its server's."""

_FROM, _UNTIL = 10_000, 32_768
"""Above come those that a connection takes for its own end, any moment, in whichever process."""

_any = random.SystemRandom()  # hypothesis seeds the other, in each process alike


def free_ports(count: int = 1, *, bus: bool = False) -> range:
    """So many in a row, and with `bus` those that a cluster's nodes take for it."""
    while True:
        first = _any.randrange(_FROM, _UNTIL - count - BUS)
        found = range(first, first + count)
        with contextlib.ExitStack() as probes, contextlib.suppress(OSError):
            for port in [*found, *(port + BUS for port in found if bus)]:
                probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return found


def free_port() -> int:
    return free_ports()[0]
