"""
What the person asks for: `[[actions]]` of streams.toml, found in their words.

Accents and case are ignored in patterns and values alike.  Knows no model and no Redis; a day is told from the
timestamp of the very message that names it, so that a replay finds the same.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date, datetime, tzinfo
from typing import Any, NamedTuple

import msgspec
import regex  # type: ignore[import-untyped] # it ships no types; unlike re it can be stopped

from processors.inference.backtracking import endless
from processors.inference.spanish_dates import find_date, find_time, fold, number
from streams.errors import ConfigurationError
from streams.tables import Action, Slot

MAX_CHARS = 4096
TIME_BOUND_SECONDS = 0.25
"""For all patterns over one text: a pattern that runs away must not hold the event loop."""


class Detected(msgspec.Struct, frozen=True):
    """An action and its slots: what the webhook carries."""

    name: str
    slots: dict[str, Any] = {}


class _Compiled(NamedTuple):
    action: Action
    patterns: list[regex.Pattern[str]]
    values: dict[str, list[tuple[str, regex.Pattern[str]]]]
    """For each slot of kind `values`: canonical value and a pattern of its synonyms."""


class Words(NamedTuple):
    """What one message says, and when it was said (Unix seconds)."""

    text: str
    said_at: float


class _Line(NamedTuple):
    """One message within the text that patterns are searched in."""

    start: int
    folded: str
    said_on: date


class Detector:
    """Finds the first action, in the order of the file, that one of its patterns names."""

    def __init__(self, compiled: list[_Compiled]) -> None:
        self._compiled = compiled

    @classmethod
    def of(cls, actions: Iterable[Action]) -> Detector:
        """Raises ConfigurationError: a pattern is no regular expression."""
        return cls([_compile(action) for action in actions])

    def detect(self, said: Sequence[Words], *, zone: tzinfo | None) -> Detected | None:
        """
        Args:
            said: the person's messages in their order, of which the first 4,096 characters count.
            zone: the clinic's; None is this machine's.
        """
        if not self._compiled:
            return None
        # Composed first, so that folding keeps every character in its place.
        composed = [unicodedata.normalize("NFC", words.text) for words in said]
        text = "\n".join(composed)[:MAX_CHARS]
        folded = fold(text)
        ends = time.monotonic() + TIME_BOUND_SECONDS
        for compiled in self._compiled:
            for pattern in compiled.patterns:
                if (match := _search(pattern, folded, ends)) is not None:
                    lines = _lines(composed, folded, [datetime.fromtimestamp(one.said_at, zone).date() for one in said])
                    return Detected(compiled.action.name, _slots(compiled, match, text, lines))
        return None


def _lines(composed: list[str], folded: str, days: list[date]) -> list[_Line]:
    lines, start = [], 0
    for text, said_on in zip(composed, days, strict=True):
        lines.append(_Line(start, folded[start : start + len(text)], said_on))
        start += len(text) + 1
    return lines


def _compile(action: Action) -> _Compiled:
    return _Compiled(
        action,
        [_pattern(action, pattern) for pattern in action.patterns],
        {name: _synonyms(slot) for name, slot in action.slots.items() if slot.kind == "values"},
    )


def _pattern(action: Action, pattern: str) -> regex.Pattern[str]:
    for text in (_without_accents(pattern), pattern):  # without accents, a range such as [à-ü] may be none
        try:
            compiled = regex.compile(text, regex.IGNORECASE)
        except regex.error as error:
            why = error
            continue
        if endless(text):
            raise ConfigurationError(
                f"streams.toml: actions.{action.name}.patterns = {pattern!r} can take for ever over a text that almost "
                "matches: a repeat within a repeat takes the same letters; write it without one of the two"
            )
        return compiled
    raise ConfigurationError(
        f"streams.toml: actions.{action.name}.patterns = {pattern!r} is no regular expression: {why}"
    )


def _synonyms(slot: Slot) -> list[tuple[str, regex.Pattern[str]]]:
    return [
        (value, regex.compile(rf"\b(?:{'|'.join(regex.escape(fold(word)) for word in [value, *synonyms])})\b"))
        for value, synonyms in slot.values.items()
    ]


def _without_accents(pattern: str) -> str:
    """Only accents: lower-casing a pattern would make `\\W` of `\\w`."""
    return "".join(unicodedata.normalize("NFD", character)[0] for character in unicodedata.normalize("NFC", pattern))


def _search(pattern: regex.Pattern[str], text: str, ends: float) -> regex.Match[str] | None:
    left = ends - time.monotonic()
    if left <= 0:
        return None
    try:
        return pattern.search(text, timeout=left)
    except TimeoutError:
        return None


def _slots(compiled: _Compiled, match: regex.Match[str], text: str, lines: list[_Line]) -> dict[str, Any]:
    """
    What fills each slot: the pattern's group of its name, else for days, times and values the first in the words.

    Slots that nothing fills are left out.
    """
    slots: dict[str, Any] = {}
    spans = match.groupdict().keys()
    for name, slot in compiled.action.slots.items():
        values = compiled.values.get(name, [])
        start, end = match.span(name) if name in spans else (-1, -1)
        if start >= 0 and (said := text[start:end].strip()):
            line = [line for line in lines if line.start <= start][-1]
            value = _read(slot, fold(said), values, line.said_on)
            slots[name] = said if value is None else value
        elif slot.kind not in ("text", "number"):
            found = (_read(slot, line.folded, values, line.said_on) for line in lines)
            if (value := next((each for each in found if each is not None), None)) is not None:
                slots[name] = value
    for name in spans - slots.keys():  # a group for which no slot is declared is plain text
        if name not in compiled.action.slots and match[name]:
            start, end = match.span(name)
            slots[name] = text[start:end].strip()
    return slots


def _read(slot: Slot, plain: str, values: list[tuple[str, regex.Pattern[str]]], said_on: date) -> Any:
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


def _number(plain: str) -> int | float | None:
    if (whole := number(plain)) is not None:
        return whole
    try:
        return float(plain.replace(",", "."))
    except ValueError:
        return None
