"""Just enough HTTP/1.1 for a load generator and a sink that cost less than what they measure."""

from __future__ import annotations

import re

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


def post(path: str, host: str, body: bytes) -> bytes:
    """A request as an HTTP client sends it over a connection that stays open."""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def whole(buffer: bytes | bytearray) -> int:
    """
    How many bytes of the buffer are its first message; 0 while it is not all here.

    Raises:
        ValueError: it has no Content-Length, and is no GET.
    """
    end = buffer.find(b"\r\n\r\n")
    if end < 0:
        return 0
    found = _LENGTH.search(buffer, 0, end + 2)
    if found is None:
        if buffer.startswith(b"GET "):
            return end + 4
        raise ValueError(f"no content-length in {bytes(buffer[:end])!r}")
    size = end + 4 + int(found[1])
    return size if len(buffer) >= size else 0
