"""
What fills an action's slot: words brought to the value that the webhook carries.

Knows the kinds of slots and folded text.  Whose words they are, a person's (actions.py) or a model's (tools.py), it
does not know; a day is told from the moment at which it was said, which the caller gives.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import Any, NamedTuple

import regex  # type: ignore[import-untyped] # it ships no types; unlike re it can be stopped

from processors.inference.spanish_dates import find_date, fold, number
from processors.inference.spanish_times import find_time, later
from streams.tables import Slot, Which

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
    said_at: datetime
    """By the clock of the clinic."""


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
            said_at = datetime.fromtimestamp(one.said_at, zone)
            lines.append(Line(start, folded[start : start + len(words)], said_at))
            start += len(words) + 1
        return cls(text, folded, lines)


def synonyms(slot: Slot) -> Synonyms:
    return [
        (value, regex.compile(rf"\b(?:{'|'.join(regex.escape(fold(word)) for word in [value, *others])})\b"))
        for value, others in slot.values.items()
    ]


def read(slot: Slot, plain: str, values: Synonyms, said_at: datetime) -> Any:
    """A slot's value out of folded words; None where there is none."""
    if slot.kind == "date":
        return _date(plain, said_at, slot.which)
    if slot.kind == "time":
        return _time(plain, said_at, slot.which)
    if slot.kind == "values":
        first = min(((hit.start(), value) for value, pattern in values if (hit := pattern.search(plain))), default=None)
        return first[1] if first else None
    return _number(plain) if slot.kind == "number" else None


def _date(plain: str, said_at: datetime, which: Which) -> str | None:
    if day := find_date(plain, said_at.date(), which):
        return day.value
    moment = later(plain, said_at)
    return moment.date().isoformat() if moment else None


def _time(plain: str, said_at: datetime, which: Which) -> str | None:
    day = find_date(plain, said_at.date())
    # "el 15 a las 4": the day's number is no hour.
    rest = plain[: day.span[0]] + " " * (day.span[1] - day.span[0]) + plain[day.span[1] :] if day else plain
    if clock := find_time(rest, which):
        return clock.value
    moment = later(plain, said_at)
    return f"{moment:%H:%M}" if moment else None


def found(slot: Slot, values: Synonyms, lines: Sequence[Line]) -> Any:
    """The first day, time or value in all the words; None where there is none, and for a text or a number."""
    if slot.kind in ("text", "number"):
        return None
    each = (read(slot, line.folded, values, line.said_at) for line in lines)
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
