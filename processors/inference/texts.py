"""
Whether a model's output is fit to be sent, and tidied so that it is.

Knows nothing of how it came about, nor of what is said in its place: that is `[texts]` in streams.toml.
"""

from __future__ import annotations

import re

_LEAST_LOOP = 60
"""Characters of mere repetition from which an output counts as degenerate: "jajaja" is none."""

_THOUGHTS = re.compile(r"<think>.*?(?:</think>|$)", re.DOTALL)
"""What a reasoning model says to itself; cut off before its end, there is no reply yet."""

_SAYS = re.compile(r"[^\W_]|[^\x00-\u2190]")
"""A letter, a figure, or a sign such as 👍."""

_OWN_LABEL = re.compile(r"\A\s*(?:(?:assistant|asistente|bot)\s*:|<\|im_start\|>\s*assistant\b)\s*", re.IGNORECASE)
"""As a model begins that writes the whole talk like a play."""

_NEXT_TURN = re.compile(
    r"(?:\A|\n)\s*(?:User|Human)\s*:|\n\s*(?:Assistant|Asistente)\s*:"
    r"|<\|[a-z_]{2,20}\|>|</s>|\[/?INST\]|<(?:start|end)_of_turn>"
)
"""Where it goes on with somebody else's part, or a server has left its template's marks in the words.  Not «Usuario:»
or «Paciente:»: those stand in many a reply."""

_LOOP = re.compile(r"(.{1,80}?)\1{4,}", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?…](?=[\s\"»)]|$)")


def aloud(text: str) -> str:
    """Without what a reasoning model says to itself."""
    return _THOUGHTS.sub("", text)


def tidy(text: str, *, cut: bool) -> str:
    """
    The text as it is sent.

    Args:
        text: a model's output.
        cut: it was cut at the token limit: the half sentence at its end is dropped if whole ones make a third of it.
    """
    # A lone surrogate or U+FFFD is half a character that the last token did not finish.
    text = aloud(text).encode("utf-8", "ignore").decode().replace("\x00", "").rstrip("\ufffd")
    text = _OWN_LABEL.sub("", text)
    if (echo := _NEXT_TURN.search(text)) is not None:
        return text[: echo.start()].strip()
    text = text.strip()
    if cut and (ends := [match.end() for match in _SENTENCE_END.finditer(text)]) and ends[-1] * 3 >= len(text):
        return text[: ends[-1]]
    return text


def degenerate(text: str) -> bool:
    """Nothing is said, or one thing over and over."""
    if not _SAYS.search(text):
        return True
    return len(text) >= _LEAST_LOOP and any(len(loop[0]) >= _LEAST_LOOP for loop in _LOOP.finditer(text[:4096]))
