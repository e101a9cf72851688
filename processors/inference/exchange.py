"""
What the engine on OpenVINO and the process of its pipeline say to each other, and the engine's end of it.

Knows neither OpenVINO nor a request's text.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from processors.inference.generation import Drawing
from streams.errors import CauceError
from streams.tables import Inference

_LAST_SECONDS = 5.0
"""For the process to end by itself."""


class Open(msgspec.Struct, frozen=True):
    """The first that is said to the process."""

    folder: str
    inference: Inference
    context_length: int


class Opened(msgspec.Struct, frozen=True, tag=True):
    """The first that it says."""

    device: str
    dtype: str
    parameters: int
    vocabulary: int


class Unopened(msgspec.Struct, frozen=True, tag=True):
    """Or else, and then it ends."""

    why: str
    ours: bool
    """Said by us, with a remedy; not by a library."""


class Put(msgspec.Struct, frozen=True):
    """A request is to be taken in."""

    number: int
    prompt: list[int]
    max_tokens: int
    drawing: Drawing
    stops: frozenset[int]


class Turn(msgspec.Struct, frozen=True):
    """Take these out, take those in, and step."""

    out: list[int] = []
    put: list[Put] = []
    anew: bool = False
    """First open the pipeline anew, which is how it forgets."""


class News(msgspec.Struct, frozen=True, array_like=True):
    """What a step has brought one request."""

    number: int
    tokens: list[int]
    state: Literal["running", "stop", "length", "crowded", "failed"]
    """`crowded`: there was no room for its keys and values.  `failed`: it was never taken in."""


class Stepped(msgspec.Struct, frozen=True, tag=True):
    news: list[News]


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The step failed, for all who were in it."""

    why: str


Answer = TypeVar("Answer")

_OPENED = msgspec.msgpack.Decoder(Opened | Unopened)
_STEPPED = msgspec.msgpack.Decoder(Stepped | Failed)


class Gone(CauceError):
    """The process has ended, and nobody had told it to."""


class Process:
    """
    The pipeline's process, from here.  One thread speaks to it.

    Raises:
        Gone: it ended before it could say anything.
    """

    def __init__(self, asked: Open) -> None:
        self._connection, theirs = Pipe()
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-P", "-m", "processors.inference.pipeline", str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                command, pass_fds=[theirs.fileno()], env=os.environ | {"PYTHONPATH": path}, stdin=subprocess.DEVNULL
            )
        try:
            self.told: Opened | Unopened = self._ask(asked, _OPENED)
        except BaseException:
            self.close()
            raise

    def step(self, turn: Turn) -> Stepped | Failed:
        stepped: Stepped | Failed = self._ask(turn, _STEPPED)
        return stepped

    def _ask(self, said: Open | Turn, answers: msgspec.msgpack.Decoder[Answer]) -> Answer:
        try:
            self._connection.send_bytes(msgspec.msgpack.encode(said))
            return answers.decode(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            raise Gone(f"OpenVINO's process has ended ({self._process.wait()})") from error

    def close(self) -> None:
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_LAST_SECONDS)
            return
        self._process.kill()
        self._process.wait()
