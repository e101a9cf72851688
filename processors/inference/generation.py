"""
What is asked of an engine, and what it gives: the one shape of echo, torch, OpenVINO and whatever comes next.

Knows no tensor and no Redis.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

import msgspec

from streams.errors import CauceError, ConfigurationError
from streams.settings import Settings
from streams.tables import Inference

Role = Literal["system", "user", "assistant"]


class Line(msgspec.Struct, frozen=True):
    """One line of a prompt."""

    role: Role
    content: str


class Drawing(msgspec.Struct, frozen=True, kw_only=True):
    """How the next token is chosen.  Without arguments it is greedy."""

    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    repetition_penalty: float = 1.0
    seed: int = 0
    """The same request with the same seed gives the same tokens, whoever else is in the batch."""


class Sampling(msgspec.Struct, frozen=True, kw_only=True):
    """A wish: what is None is as the model's author says in its generation_config, or as is usual for a chat."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    repetition_penalty: float | None = None
    seed: int = 0

    def over(self, own: Drawing) -> Drawing:
        """The model's own, where nothing else is wished."""
        wished = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(own, **wished)


class Tool(msgspec.Struct, frozen=True, kw_only=True):
    """What a model may ask for, as JSON schema has it."""

    name: str
    description: str
    parameters: dict[str, Any]

    def schema(self) -> dict[str, Any]:
        """As templates and OpenAI's API take it."""
        return {"type": "function", "function": msgspec.structs.asdict(self)}


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """What a model asks for; nobody has looked yet whether there is such a thing."""

    name: str = ""
    arguments: dict[str, Any] = {}
    raw: str = ""
    """As it was written."""
    flaw: str = ""
    """Why it cannot be read, in fixed words; then the rest is empty."""


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One reply to be generated."""

    lines: list[Line]
    """Oldest first; the last is what the person says now, and is kept whatever must be dropped."""
    max_tokens: int = 200
    stop: tuple[str, ...] = ()
    """Texts before which the reply ends."""
    sampling: Sampling = Sampling()
    tools: tuple[Tool, ...] = ()
    """Offered where the model's template, or its server, has tools."""


class Generated(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a request."""

    text: str
    """The words; where tools were offered, those around the calls."""
    tokens: int
    prompt_tokens: int = 0
    recalled_tokens: int = 0
    """Of the prompt's, what was known from another request and not computed again."""
    ms: float = 0.0
    finish: Literal["stop", "length"] = "stop"
    """`length`: it was cut at `max_tokens` or at the end of the context."""
    calls: tuple[Call, ...] = ()


def until(text: str, stop: tuple[str, ...]) -> str:
    """What stands before the first of these texts; all of it where none is there."""
    ends = [at for each in stop if (at := text.find(each)) >= 0]
    return text[: min(ends)] if ends else text


class Refused(CauceError):
    """The engine will never take this request (empty, too long, a token that the model has not); others go on."""


class StepFailed(CauceError):
    """The model failed in a step of this request; a repeat may succeed."""


class Engine(Protocol):
    """Anything that answers a prompt.  Lives on the event loop's side and never holds the loop."""

    async def generate(self, request: Request) -> Generated:
        """
        One reply.  Cancelling the call frees what it holds.

        Raises:
            Refused: this request cannot be answered, ever.
            StepFailed: it failed this time.
            Retry: the engine is gone; not the request's fault.
        """
        ...

    def describe(self) -> dict[str, Any]:
        """
        What `GET /model/info` shows: name, dtype, device, parameters, context_length, engine.

        Of an engine that serves several at once also `running` and `waiting`: requests in work, and before it.
        """
        ...

    def ready(self) -> bool: ...

    def forget(self) -> None:
        """Drop what is kept of conversations, and keep nothing of those that are being answered now."""
        ...

    async def failed(self) -> None:
        """Wait until it can answer nobody any more, and raise why; an engine that recovers by itself waits for ever."""
        ...

    async def close(self) -> None: ...


def open_engine(settings: Settings, inference: Inference) -> Engine:
    """
    The engine that MODEL names, loaded.  Blocks for as long as loading takes: call it off the event loop.

    Raises:
        ConfigurationError: there is no such model, or what it needs is not installed.
    """
    from processors.inference import echo, remote, weights

    if settings.model_url:
        return remote.open_engine(settings, inference)
    if echo.is_echo(settings.model):
        return echo.Echo.named(settings.model)
    exported = weights.is_exported(settings.model)
    try:
        if exported:
            from processors.inference import openvino

            return openvino.load(settings, inference)
        from processors.inference.model import load
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"environment: MODEL = {settings.model!r} needs the package {error.name!r}: "
            f"pip install 'cauce[{'openvino' if exported else 'inference'}]', or write MODEL=echo"
        ) from error
    from processors.inference.engine import Threaded

    return Threaded(load(settings, inference), slots=inference.slots)
