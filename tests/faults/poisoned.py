"""
The shipped handler of replies, which the word «veneno» kills in the way that POISON says, until it is mended.

Lies beside the streams.toml of test_poison.py.  All hold until CROWD turns are in work, so that poison strikes while
its neighbours are; where it kills the process it does so to all of them twice, and from then on to itself alone.
`asks` is one that asks a server (MODEL_AT) first, and blames nobody where that is away.
"""

from __future__ import annotations

import asyncio
import os
import urllib.request
from pathlib import Path

import msgspec

from processors.inference.handler import reply as shipped
from streams import watchdog
from streams.effects import Effects, Turn
from streams.errors import Retry

MENDED = "mended"
KIND = os.environ.get("POISON", "")
CROWD = int(os.environ.get("CROWD", "1"))
STRIKES_ALL = 2 if KIND in ("exits", "eats", "blocks") else 1
"""Starts at which everybody is in work when poison strikes."""

watchdog.EVERY = 1.0  # four seconds of patience instead of twenty
MOST_EATEN = 4 << 30
"""Bytes.  Whoever has eaten so much is not going to be killed."""

_crowd = asyncio.Event()
_here = 0

if joined := os.environ.get("CGROUP"):
    Path(joined, "cgroup.procs").write_text(str(os.getpid()))


async def handle(turn: Turn) -> Effects | None:
    global _here
    if not os.path.exists(MENDED):  # noqa: ASYNC240 - a handler for tests
        if turn.attempt <= STRIKES_ALL:
            _here += 1
            if _here == CROWD:
                _crowd.set()
            await _crowd.wait()
        if any(b"veneno" in message.body for message in turn.messages):
            await strike()
    return await shipped.handle(turn)


async def strike() -> None:
    if KIND == "hangs":
        await asyncio.Event().wait()
    if KIND == "blocks":
        while True:
            pass
    if KIND == "exits":
        os._exit(3)
    if KIND == "eats":
        eaten = []
        while sum(map(len, eaten)) < MOST_EATEN:
            eaten.append(b"\x01" * (16 << 20))
    raise ValueError("veneno")


async def ask(turn: Turn) -> Effects | None:
    try:
        await asyncio.to_thread(urllib.request.urlopen, os.environ["MODEL_AT"], timeout=5)
    except OSError as error:
        raise Retry(f"model server: {error}", after=0.1, counted=False) from error
    return await shipped.handle(turn)


asks = msgspec.structs.replace(shipped, handle=ask)
reply = msgspec.structs.replace(shipped, handle=handle)
