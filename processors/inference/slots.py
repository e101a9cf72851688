"""
What fills an action's slot: words brought to the value that the webhook carries.

Knows the kinds of slots and folded text.  Whose words they are, a person's (actions.py) or a model's (tools.py), it
does not know; a day is told from the day on which it was said, which the caller gives.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import date, datetime, tzinfo
from typing import Any, NamedTuple

import regex  # type: ignore[import-untyped] # it ships no types; unlike re it can be stopped

from processors.inference.spanish_dates import find_date, find_time, fold, number
from streams.tables import Slot

Synonyms = Sequence[tuple[str, "regex.Pattern[str]"]]
"""Of a slot of kind `values`: canonical value and a pattern of its synonyms."""

MAX_CHARS = 4096

_MOST_WHOLE = 2**53
"""From here on the numbers of JSON, and of n8n, are not exact."""


class Words(NamedTuple):
    """What one message says, and when it was said (Unix seconds)."""

    text: str
    said_at: float


class Line(NamedTuple):
    """One message within the text of a turn."""

    start: int
    folded: str
    said_on: date


class Heard(NamedTuple):
    """All that a person wrote in one turn, of which the first 4,096 characters count."""

    text: str
    folded: str
    """A place in it is a place in the text."""
    lines: list[Line]

    @classmethod
    def of(cls, said: Sequence[Words], zone: tzinfo | None) -> Heard:
        """
        Args:
            said: the person's messages in their order.
            zone: the clinic's; None is this machine's.
        """
        # Composed first, so that folding keeps every character in its place.
        composed = [unicodedata.normalize("NFC", words.text) for words in said]
        text = "\n".join(composed)[:MAX_CHARS]
        folded, lines, start = fold(text), list[Line](), 0
        for words, one in zip(composed, said, strict=True):
            said_on = datetime.fromtimestamp(one.said_at, zone).date()
            lines.append(Line(start, folded[start : start + len(words)], said_on))
            start += len(words) + 1
        return cls(text, folded, lines)


def synonyms(slot: Slot) -> Synonyms:
    return [
        (value, regex.compile(rf"\b(?:{'|'.join(regex.escape(fold(word)) for word in [value, *others])})\b"))
        for value, others in slot.values.items()
    ]


def read(slot: Slot, plain: str, values: Synonyms, said_on: date) -> Any:
    """A slot's value out of folded words; None where there is none."""
    if slot.kind == "date":
        found = find_date(plain, said_on)
        return found.value if found else None
    if slot.kind == "time":
        day = find_date(plain, said_on)
        # "el 15 a las 4": the day's number is no hour.
        rest = plain[: day.span[0]] + " " * (day.span[1] - day.span[0]) + plain[day.span[1] :] if day else plain
        found = find_time(rest)
        return found.value if found else None
    if slot.kind == "values":
        first = min(((hit.start(), value) for value, pattern in values if (hit := pattern.search(plain))), default=None)
        return first[1] if first else None
    return _number(plain) if slot.kind == "number" else None


def found(slot: Slot, values: Synonyms, lines: Sequence[Line]) -> Any:
    """The first day, time or value in all the words; None where there is none, and for a text or a number."""
    if slot.kind in ("text", "number"):
        return None
    each = (read(slot, line.folded, values, line.said_on) for line in lines)
    return next((value for value in each if value is not None), None)


def exact(number: int | float) -> int | float | None:
    """A number that JSON carries as it is, whole where it can be; None for any other."""
    if isinstance(number, float) and not math.isfinite(number):
        return None
    whole = int(number)
    return (whole if number == whole else number) if abs(whole) <= _MOST_WHOLE else None


def _number(plain: str) -> int | float | None:
    if (whole := number(plain)) is not None:
        return exact(whole)
    try:
        return exact(float(plain.replace(",", ".")))
    except ValueError:
        return None
