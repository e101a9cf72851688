"""
A model's calls in what it wrote: the marks of each family of models, and the words around them.

Pure, and made for text that follows no rule: whatever stands there, words and calls come out, and a call that cannot be
read says so.  Whether anybody may be called so, and with what, is tools.py's.

    Hermes, Qwen    <tool_call>{"name": "book", "arguments": {…}}</tool_call>
    Qwen 3.5        <tool_call><function=book><parameter=date>martes</parameter></function></tool_call>
    Llama 3         {"name": "book", "parameters": {…}}, alone or after <|python_tag|>; <function=book>{…}</function>
    Mistral         [TOOL_CALLS][{"name": "book", "arguments": {…}}], [TOOL_CALLS]book[ARGS]{…}
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple, NoReturn

import msgspec

from processors.inference.generation import Call
from processors.inference.texts import aloud

MARKS = (
    "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<|python_tag|>", "[TOOL_CALLS]",
    "[/TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "<function=", "</function>", "<parameter=", "</parameter>",
)  # fmt: skip
"""Also where a tokenizer calls them special they are part of what was said."""

MOST_CHARS = 16_384
"""Of one call."""

MOST_CALLS = 8
"""In one reply; what comes after them is not read."""

_OPENS = re.compile(r"<tool_call>|<\|python_tag\|>|\[TOOL_CALLS\]|<function=|<tool_response>")
_CLOSES = {
    "<tool_call>": "</tool_call>", "<function=": "</function>", "[TOOL_CALLS]": "[/TOOL_CALLS]",
    "<tool_response>": "</tool_response>",
}  # fmt: skip
_STRAY = re.compile(r"</tool_call>|</tool_response>|\[/TOOL_CALLS\]|</function>")
_BARE = re.compile(r'\s*\[?\s*\{\s*"(?:name|type|function|arguments|parameters)"\s*:')
_NAMED = re.compile(r"\s*([\w.-]{1,64})\s*(?:\[CALL_ID\]\s*[\w-]{1,64}\s*)?(?:\[ARGS\])?\s*(?=\{)")
_FUNCTION = re.compile(r"\s*(?:<function=)?([^<>\s]{1,64})>")
_PARAMETER = re.compile(r"\s*<parameter=([^<>\s]{1,64})>(.*?)</parameter>", re.DOTALL)
_BETWEEN = re.compile(r"[\s;,]*")


class Heard(NamedTuple):
    """What a model wrote."""

    words: str
    calls: tuple[Call, ...] = ()


class _Written(msgspec.Struct):
    """A call in JSON, in the words of one family or another."""

    name: str
    arguments: Any = None
    parameters: Any = None


class _Unreadable(Exception):
    """It is none."""


def hear(text: str) -> Heard:
    """The words and the calls of a reply; what a reasoning model says to itself is neither."""
    text = aloud(text)
    words, calls, at = list[str](), list[Call](), 0
    if _BARE.match(text):  # JSON from its first letter on
        try:
            calls, at = _jsons(text, 0)
        except _Unreadable:
            return Heard("", (unreadable(),))
    while (opens := _OPENS.search(text, at)) is not None:
        words.append(text[at : opens.start()])
        if len(calls) >= MOST_CALLS:
            return Heard(_joined(words), (*calls[:MOST_CALLS], unreadable("there are too many")))
        found, at = _read(text, opens)
        calls += found
    if not at:
        return Heard(text)
    return Heard(_joined([*words, text[at:]]), tuple(calls))


def parsed(message: Any) -> Heard:
    """
    What transformers' `parse_response` makes of a reply.

    Raises:
        KeyError, TypeError: it is no message.
    """
    found = [each["function"] for each in message.get("tool_calls") or []]
    each = tuple(given(one["name"], one["arguments"], json.dumps(one, ensure_ascii=False)) for one in found)
    return Heard(aloud(message.get("content") or "").strip(), each[:MOST_CALLS])


def given(name: str, arguments: object, raw: str = "") -> Call:
    """
    A call as a server hands it over.

    Args:
        arguments: an object, or JSON of one; empty is none.
    """
    try:
        return _call({"name": name, "arguments": arguments}, raw)
    except _Unreadable:
        return unreadable()


def unreadable(why: str = "it is malformed") -> Call:
    """A call of which nothing else is known; why is logged, so it holds nothing that was written."""
    return Call(flaw=why)


def _joined(words: list[str]) -> str:
    return _STRAY.sub("", "".join(words)).strip()


def _read(text: str, opens: re.Match[str]) -> tuple[list[Call], int]:
    """The calls behind one mark, and where they end."""
    mark, inside = opens[0], opens.end()
    closes = _CLOSES.get(mark, "")
    try:
        if mark == "<tool_response>":  # what it imagines to be told
            raise _Unreadable
        if mark == "<function=" or _FUNCTION.match(text, inside):
            calls, end = _function(text, inside)
        elif mark == "[TOOL_CALLS]" and (named := _NAMED.match(text, inside)):
            value, end = _json(text, named.end())
            calls = [_call({"name": named[1], "arguments": value}, text[named.end() : end])]
        else:
            calls, end = _jsons(text, inside)
    except _Unreadable:
        at = text.find(closes, inside) if closes else -1
        return [] if mark == "<tool_response>" else [unreadable()], len(text) if at < 0 else at + len(closes)
    at, following = text.find(closes, end) if closes else -1, _OPENS.search(text, end)
    if at < 0 or (following is not None and following.start() < at):
        return calls, end
    return calls, at + len(closes)


def _function(text: str, at: int) -> tuple[list[Call], int]:
    """`book>{…}` or `book><parameter=date>…</parameter>`, up to its closing mark."""
    if (named := _FUNCTION.match(text, at)) is None:
        _fail()
    end = text.find("</function>", named.end())
    end = len(text) if end < 0 else end
    body = text[named.end() : min(end, named.end() + MOST_CHARS)]
    if body.lstrip().startswith("{"):
        value, end = _json(text, named.end())
    else:
        value, at = {}, 0
        while (parameter := _PARAMETER.match(body, at)) is not None:
            value[parameter[1]], at = parameter[2].strip(), parameter.end()
        if body[at:].strip():
            _fail()
    call = _call({"name": named[1], "arguments": value}, body)
    return [call], end + len("</function>") if text.startswith("</function>", end) else end


def _jsons(text: str, at: int) -> tuple[list[Call], int]:
    """One call, a list of them, or one after the other."""
    calls = list[Call]()
    while True:
        value, end = _json(text, at)
        raw = text[at:end]
        calls += [_call(each, raw) for each in (value if isinstance(value, list) else [value])]
        between = _BETWEEN.match(text, end)
        at = between.end() if between else end
        if not text.startswith("{", at) or len(calls) >= MOST_CALLS:
            return calls, end


def _json(text: str, at: int) -> tuple[Any, int]:
    """The JSON value that begins here, and where it ends."""
    while at < len(text) and text[at].isspace():
        at += 1
    try:
        value, length = _DECODER.raw_decode(text[at : at + MOST_CHARS])
    except (ValueError, RecursionError):  # a number of thousands of digits is the former
        raise _Unreadable from None
    return value, at + length


def _call(value: Any, raw: str) -> Call:
    if isinstance(value, dict) and isinstance(value.get("function"), dict):
        value = value["function"]
    try:
        written = msgspec.convert(value, _Written)
    except msgspec.ValidationError:
        raise _Unreadable from None
    arguments = written.arguments if written.arguments is not None else written.parameters
    if isinstance(arguments, str):  # JSON within JSON
        arguments = _json(arguments, 0)[0] if arguments.strip() else None
    if arguments is not None and not isinstance(arguments, dict):
        _fail()
    return Call(name=written.name, arguments=arguments or {}, raw=raw)


def _fail(*_: object) -> NoReturn:
    raise _Unreadable


_DECODER = json.JSONDecoder(strict=False, parse_constant=_fail)
