"""
A request that is answered past uvicorn's cycle, which is a task and ASGI; and what its connection needs of it.

Protocol.py makes one where `Short` says so, by the head; who answers it is quick.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from starlette.responses import Response
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Headers = list[tuple[bytes, bytes]]
"""Names are lower-case."""


class Answer(NamedTuple):
    """A response."""

    status: int
    headers: Headers
    """All but Content-Length, and what is in every answer of the server."""
    body: bytes

    @classmethod
    def of(cls, response: Response) -> Answer:
        headers = [(name, value) for name, value in response.raw_headers if name != b"content-length"]
        return cls(response.status_code, headers, bytes(response.body))

    def whole(self, more: Headers) -> bytes:
        """As it goes over the connection, with these headers first."""
        lines = [STATUS_LINE[self.status]]
        for name, value in (*more, *self.headers):
            lines += (name, b": ", value, b"\r\n")
        return b"".join((*lines, b"content-length: %d\r\n\r\n" % len(self.body), self.body))


Given = Mapping[bytes, bytes]
"""Headers by their names."""

Then = Callable[[Answer], None]


class Short(Protocol):
    """Who answers requests at once."""

    def heed(self, method: bytes, url: bytes, headers: Headers) -> Given | None:
        """What matters of the headers, where it is one for us by its head."""
        ...

    def take(self, given: Given, body: bytes, then: Then) -> bool:
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
        given: what matters of its headers.
        default_headers: of the server, as they are when the request comes; as it ends it closes with later ones only.
    """

    response_started = False
    message_event = _Nobody()

    def __init__(self, given: Given, default_headers: Headers, *, keep_alive: bool) -> None:
        self.given, self.default_headers = given, default_headers
        self.keep_alive = keep_alive
        self.body = bytearray()
        self.more_body = True
        self.response_complete = self.disconnected = False
