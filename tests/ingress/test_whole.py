"""A response goes out as one thing, and nothing that should go out stays."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ingress.whole import Whole

HEAD = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n"


class Wire(asyncio.Transport):
    """Remembers what it was told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def write(self, data: Any) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("closed")

    def is_closing(self) -> bool:
        return "closed" in self.told

    def pause_reading(self) -> None:
        self.told.append("paused")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ([HEAD, b"{}"], [HEAD + b"{}"]),
        ([HEAD, b"{}", HEAD, b"[]"], [HEAD + b"{}", HEAD + b"[]"]),
        ([HEAD, b"2\r\n{}\r\n", b"0\r\n\r\n"], [HEAD + b"2\r\n{}\r\n", b"0\r\n\r\n"]),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", HEAD, b"{}"], [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD + b"{}"]),
    ],
    ids=["one", "two", "in chunks", "after a note"],
)
def test_a_head_goes_with_what_follows_it(said, told) -> None:
    wire = Wire()
    whole = Whole(wire)
    for data in said:
        whole.write(data)
    assert wire.told == told


@pytest.mark.parametrize("end", ["flush", "close"])
def test_a_head_that_nothing_follows_goes_alone(end) -> None:
    wire = Wire()
    whole = Whole(wire)
    whole.write(HEAD)
    assert wire.told == []
    getattr(whole, end)()
    whole.flush()
    assert wire.told == [HEAD, "closed"] if end == "close" else [HEAD]
    assert whole.is_closing() == (end == "close")


def test_all_else_is_its_transports() -> None:
    wire = Wire()
    Whole(wire).pause_reading()
    assert wire.told == ["paused"]
