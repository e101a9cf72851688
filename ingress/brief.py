"""
A request that is answered past uvicorn's cycle, which is a task and ASGI; and what its connection needs of it.

Protocol.py makes one where `Short` says so, by the head; who answers it is quick.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

Headers = list[tuple[bytes, bytes]]
"""Names are lower-case."""


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Headers
    """All but Content-Length, and what is in every answer of the server."""
    body: bytes


Then = Callable[[Answer], None]


class Short(Protocol):
    """Who answers requests at once."""

    def may(self, method: bytes, url: bytes, headers: Headers) -> bool:
        """Is it one for us, by its head?"""
        ...

    def take(self, headers: Headers, body: bytes, then: Then) -> bool:
        """Answer to `then`, later; False: nothing was done, and the application has to."""
        ...


class _Nobody:
    """An event for which nobody waits."""

    def set(self) -> None:
        pass


class Brief:
    """
    What uvicorn's connection looks for in the cycle of a request, and we in ours.

    Args:
        default_headers: of the server, as they are when the request comes; as it ends it closes with later ones only.
    """

    response_started = False
    message_event = _Nobody()

    def __init__(self, default_headers: Headers, *, keep_alive: bool) -> None:
        self.default_headers = default_headers
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.response_complete = self.disconnected = False
