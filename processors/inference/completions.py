"""
Chat completions as OpenAI's API has them: what is asked, and an answer as it comes in, piece by piece.

Pure.  Streamed answers are server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), each a
`data:` line with JSON, the last one `[DONE]`.
"""

from __future__ import annotations

import re
from collections.abc import Container
from typing import Any

import msgspec

from processors.inference import calls
from processors.inference.calls import Heard
from processors.inference.encoding import broken
from processors.inference.generation import Call, Generated, Line, Request, until
from processors.inference.prompt import alternate

_LENGTH = ("context_length", "context length", "context size", "context window", "too long")
_LIMIT = ("exceed", "maximum", "longer than", "must have less than")


OPTIONAL = ("repetition_penalty", "top_k", "seed", "stop", "stream_options", "tools")
"""What only some servers know, and others refuse a request for."""

_TOOLS = re.compile(r"\btools?\b", re.IGNORECASE)
"""vLLM without its flags speaks of «"auto" tool choice»."""


class Unreadable(Exception):
    """What a server sent is no chat completion."""


class _Words(msgspec.Struct):
    content: str | None = None
    tool_calls: Any = None
    """Looked at by itself, so that one that is no call does not spoil the words."""


class _Function(msgspec.Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None
    """JSON, in pieces where it is streamed; some servers hand over an object."""


class _Piece(msgspec.Struct):
    function: _Function
    index: int | None = None


class _Choice(msgspec.Struct):
    delta: _Words | None = None
    message: _Words | None = None
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


class _Named(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Named] = []


_chunk, _models = msgspec.json.Decoder(_Chunk), msgspec.json.Decoder(_Models)


def models(body: bytes) -> list[str]:
    """The names in an answer to `GET /v1/models`; an empty list where it is none."""
    try:
        return [each.id for each in _models.decode(body).data]
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return []


def messages(lines: list[Line]) -> list[dict[str, str]]:
    """
    The lines as a chat, beginning with a person's words.

    A server puts them into its template as they are, so marks in what a person wrote are broken here: `<|im_end|>`
    stays text.
    """
    harmless = [line if line.role == "system" else Line(line.role, broken(line.content)) for line in lines]
    talk = alternate(harmless, opening=False)
    return [{"role": line.role, "content": line.content} for line in talk]


def wished(request: Request) -> dict[str, Any]:
    """What of the request is more than its lines; what nobody wishes is left to the server."""
    how = request.sampling
    said = {
        "temperature": how.temperature,
        "top_p": how.top_p,
        "top_k": how.top_k,
        "repetition_penalty": how.repetition_penalty,
    }
    return {
        "max_tokens": request.max_tokens,
        "seed": how.seed & 0x7FFF_FFFF,  # some read it as a signed number of 32 bits
        "stream": True,
        "stream_options": {"include_usage": True},
        **({"stop": list(request.stop)} if request.stop else {}),
        **({"tools": [tool.schema() for tool in request.tools]} if request.tools else {}),
        **{name: value for name, value in said.items() if value is not None},
    }


def unknown(told: str, sent: Container[str]) -> str | None:
    """The field that a refusal names, of those that were sent and that we can do without."""
    for name in OPTIONAL:
        named = _TOOLS if name == "tools" else re.compile(rf"\b{name}\b")
        if name in sent and named.search(told):
            return name
    return None


def too_long(told: str) -> bool:
    """Whether an answer of 400 complains of the prompt's length; each server has its own words for that."""
    words = told.lower()
    return any(each in words for each in _LENGTH) or ("token" in words and any(each in words for each in _LIMIT))


def shorter(lines: list[Line]) -> list[Line]:
    """
    The newer half of what was said before, by characters and in whole turns, under the same system prompt.

    Returns:
        nothing, where the last line stands alone already.
    """
    head, body = [line for line in lines if line.role == "system"], [line for line in lines if line.role != "system"]
    starts = [index for index, line in enumerate(body) if line.role == "user"]
    if len(starts) < 2:
        return []
    half = sum(len(line.content) for line in body) / 2
    kept = next((start for start in starts if sum(len(line.content) for line in body[start:]) <= half), starts[-1])
    return [*head, *body[max(kept, starts[1]) :]]


class _Calls:
    """The calls of one answer on their way: a name, and its arguments piece by piece."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._arguments: dict[int, list[str]] = {}
        self._length = 0
        self._flawed = False

    def hear(self, pieces: object) -> None:
        """Whatever shape they have."""
        try:
            for piece in msgspec.convert(pieces, list[_Piece]):
                self._hear(piece)
        except msgspec.ValidationError:
            self._flawed = True

    def _hear(self, piece: _Piece) -> None:
        told, index = piece.function, piece.index
        if index is None:  # a server that hands calls over whole, or goes on with the newest
            index = len(self._names) - (not told.name)
        arguments = told.arguments if isinstance(told.arguments, str) else _json(told.arguments)
        self._length += len(arguments) + len(told.name or "")
        if self._length > calls.MOST_CHARS or len(self._names) > calls.MOST_CALLS:
            self._flawed = True  # and what follows is not kept
            return
        self._names[index] = told.name or self._names.get(index, "")
        if arguments:
            self._arguments.setdefault(index, []).append(arguments)

    def all(self) -> tuple[Call, ...]:
        written = [(name, "".join(self._arguments.get(index, []))) for index, name in self._names.items()]
        given = [calls.given(name, arguments, arguments) for name, arguments in written]
        return (*given, *([calls.unreadable()] if self._flawed else []))


def _json(arguments: dict[str, Any] | None) -> str:
    return msgspec.json.encode(arguments).decode() if arguments else ""


class Answer:
    """One answer on its way."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._calls = _Calls()
        self.finish: str | None = None
        """Why it ended, in the server's word."""
        self._usage = _Usage()
        self.complete = False
        """It came to its end."""

    def hear(self, line: bytes) -> None:
        """
        One line of a stream.

        Raises:
            Unreadable: it is no piece of an answer, or the server says that it failed.
        """
        if not line.startswith(b"data:"):
            return  # a comment, an event's name, or the empty line between two
        data = line[5:].strip()
        if data == b"[DONE]":
            self.complete = True
        elif data:
            self.read(data)

    def read(self, data: bytes) -> None:
        """A piece of a streamed answer, or a whole one that was not streamed.  Raises Unreadable."""
        try:
            chunk = _chunk.decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unreadable(f"it is no chat completion ({type(error).__name__})") from error
        if chunk.error is not None:
            raise Unreadable(f"it says {str(chunk.error)[:200]}")
        self._usage = chunk.usage or self._usage
        for choice in chunk.choices[:1]:
            words = choice.delta or choice.message
            if words is not None and words.content:
                self._pieces.append(words.content)
            if words is not None and words.tool_calls:
                self._calls.hear(words.tool_calls)
            if choice.finish_reason or choice.message is not None:
                self.finish, self.complete = choice.finish_reason, True  # a message comes whole

    def generated(self, ms: float, stop: tuple[str, ...] = (), *, tools: bool = False) -> Generated:
        """
        Args:
            tools: they were offered; a server that does not read its model's calls leaves them in the words.
        """
        text = "".join(self._pieces)
        heard = calls.hear(text) if tools else Heard(text)
        return Generated(
            text=until(heard.words, stop),  # a server that does not know `stop` goes on
            tokens=self._usage.completion_tokens or len(self._pieces),
            prompt_tokens=self._usage.prompt_tokens,
            ms=ms,
            finish="length" if self.finish == "length" else "stop",
            calls=self._calls.all() + heard.calls if tools else (),
        )
