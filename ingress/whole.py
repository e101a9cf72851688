"""
A transport for one connection of uvicorn's, which writes a response's head and its body as two things.

Each write is a call of the system and most often a packet; here a head waits for what follows it.
"""

from __future__ import annotations

import asyncio
from typing import Any

_HEAD, _NOTE = b"HTTP/1.1 ", b"HTTP/1.1 1"
"""`100 Continue` is a note: nothing follows it until the client has sent more."""


class Whole:
    """Does what its transport does, but for the head of a response: `flush` says that nothing follows it."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head = b""
        self.is_closing = transport.is_closing

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEAD) and not data.startswith(_NOTE):
            self._head = data
            return
        self._transport.write(data)

    def flush(self) -> None:
        if self._head:
            data, self._head = self._head, b""
            self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()
