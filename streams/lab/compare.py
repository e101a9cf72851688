"""
What a turn said then beside what it says now: is it the same, and which words are not.

Pure.  A reply is its words, its action and its slots; what differs by nature (ids, times) does not count.  Of an output
that is no reply all of its body counts.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import msgspec

from streams.lab.replayed import Appended, Output, Verdict

VERDICTS: dict[Verdict, str] = {
    "same": "the same as then",
    "changed": "said something else",
    "mended": "could not be handled then, and can now",
    "failed": "could not be handled",
    "new": "said something where nothing was said",
    "missing": "said nothing where something was said",
}

_WORD = re.compile(r"\s+|\w+|[^\w\s]")


class Said(NamedTuple):
    """One output, as far as it counts."""

    stream: str
    type: str
    text: str
    action: str | None = None
    slots: dict[str, Any] = {}  # noqa: RUF012 - never changed


def said_then(output: Output) -> Said:
    return _said(output.stream, output.type, output.body)


def said_now(output: Appended) -> Said:
    return _said(output.stream, output.type, bytes(output.body))


def _said(stream: str, type: str, body: bytes) -> Said:
    try:
        plain = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Said(stream, type, body.decode(errors="replace"))
    if not (isinstance(plain, dict) and isinstance(plain.get("message"), str)):
        return Said(stream, type, msgspec.json.encode(plain, order="sorted").decode())
    action, slots = plain.get("action"), plain.get("slots")
    return Said(
        stream, str(plain.get("type", type)), plain["message"], action if isinstance(action, str) else None,
        slots if isinstance(slots, dict) else {},
    )  # fmt: skip


def verdict(then: Sequence[Said], now: Sequence[Said], error: str = "", *, buried: bool = False) -> Verdict:
    """
    Args:
        error: why it could not be handled; empty where it could.
        buried: then it could not be.
    """
    if error or buried:
        return "failed" if error else "mended"
    if list(then) == list(now):
        return "same"
    return "new" if not then else "missing" if not now else "changed"


class Piece(NamedTuple):
    """A stretch of words."""

    kind: Literal["same", "gone", "come"]
    text: str


def words(then: str, now: str) -> list[Piece]:
    """One text beside another, word by word."""
    before, after = _WORD.findall(then), _WORD.findall(now)
    pieces: list[Piece] = []
    for tag, i1, i2, j1, j2 in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            pieces.append(Piece("same", "".join(before[i1:i2])))
            continue
        if i1 < i2:
            pieces.append(Piece("gone", "".join(before[i1:i2])))
        if j1 < j2:
            pieces.append(Piece("come", "".join(after[j1:j2])))
    return pieces


_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")


def printable(text: str) -> str:
    """Without what would move a terminal's cursor."""
    return _CONTROL.sub(" ", text)


def words_of(body: bytes) -> str:
    """What a message says; of anything else its JSON."""
    try:
        plain = msgspec.json.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return body.decode(errors="replace")
    for name in ("text", "message"):
        if isinstance(plain, dict) and isinstance(plain.get(name), str) and plain[name]:
            return str(plain[name])
    kind = plain.get("kind") if isinstance(plain, dict) else None
    return f"[{kind}]" if isinstance(kind, str) else body.decode(errors="replace")
