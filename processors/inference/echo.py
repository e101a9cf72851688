"""
The engine without weights: it says the person's own words back.

For tests, and for trying the path on a machine that has no model.  `MODEL=echo`, or `MODEL=echo?latency=0.05` for one
that takes that many seconds, which gives a test the time to kill what waits for it.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from processors.inference.generation import Generated, Refused, Request
from streams.errors import ConfigurationError

_NAME = re.compile(r"echo(?:\?latency=(\d+(?:\.\d+)?))?")


def is_echo(model: str) -> bool:
    return model == "echo" or model.startswith("echo?")


class Echo:
    """See `generation.Engine`."""

    def __init__(self, latency_seconds: float = 0.0) -> None:
        self.latency_seconds = latency_seconds

    @classmethod
    def named(cls, model: str) -> Echo:
        """Raises ConfigurationError: what follows `echo?` is not understood."""
        match = _NAME.fullmatch(model)
        if match is None:
            raise ConfigurationError(
                f"environment: MODEL = {model!r} is not understood; write echo, or echo?latency=0.05 (seconds)"
            )
        return cls(float(match[1] or 0))

    async def generate(self, request: Request) -> Generated:
        if not request.lines:
            raise Refused("there is nothing to answer")
        if self.latency_seconds:
            await asyncio.sleep(self.latency_seconds)
        words = request.lines[-1].content
        return Generated(text=words, tokens=len(words.split()), ms=self.latency_seconds * 1000)

    def describe(self) -> dict[str, Any]:
        return {
            "name": "echo", "engine": "echo", "dtype": None, "device": None, "parameters": 0, "context_length": None,
        }  # fmt: skip

    def ready(self) -> bool:
        return True

    def forget(self) -> None:
        """It keeps nothing."""

    async def failed(self) -> None:
        await asyncio.Event().wait()

    async def close(self) -> None:
        return None
