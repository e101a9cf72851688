"""
What the person asks for: `[[actions]]` of streams.toml, found in their words by patterns, or else by examples.

Accents and case are ignored in patterns and values alike.  Knows no model and no Redis; a day is told from the
timestamp of the very message that names it, so that a replay finds the same.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from datetime import tzinfo
from typing import Any, NamedTuple

import msgspec
import regex  # type: ignore[import-untyped] # it ships no types; unlike re it can be stopped

from processors.inference import slots
from processors.inference.backtracking import endless
from processors.inference.examples import Examples
from processors.inference.slots import Heard, Words
from processors.inference.spanish_dates import fold
from processors.inference.vocabulary import Vocabulary
from streams.errors import ConfigurationError
from streams.tables import Action

TIME_BOUND_SECONDS = 0.25
"""For all patterns over one text: a pattern that runs away must not hold the event loop."""


class Detected(msgspec.Struct, frozen=True):
    """An action and its slots: what the webhook carries."""

    name: str
    slots: dict[str, Any] = {}
    guessed: bool = False
    """No pattern names it: the words are like those of others who asked for it."""


class _Compiled(NamedTuple):
    action: Action
    patterns: list[regex.Pattern[str]]
    values: dict[str, slots.Synonyms]


class Detector:
    """Finds the first action, in the order of the file, that one of its patterns names; else the one guessed."""

    def __init__(self, compiled: list[_Compiled], examples: Examples | None) -> None:
        self._compiled, self._examples = compiled, examples

    @classmethod
    def of(
        cls, actions: Iterable[Action], words: Mapping[str, str] | None = None, examples: Examples | None = None
    ) -> Detector:
        """
        Args:
            words: `[vocabulary]`.
            examples: asked where no pattern finds anything.

        Raises:
            ConfigurationError: a pattern or a word is no regular expression, or names a word that there is none of.
        """
        words = words or {}
        vocabulary = Vocabulary(words)
        for name, word in words.items():  # also those that no pattern names yet
            where = f"vocabulary.{name}"
            _regex(vocabulary.expand(word, where, within=(name,)), f"{where} = {word!r}")
        return cls([_compile(action, vocabulary) for action in actions], examples)

    def detect(self, said: Sequence[Words], *, zone: tzinfo | None) -> Detected | None:
        """See `Heard.of`."""
        if not self._compiled:
            return None
        heard, ends = Heard.of(said, zone), time.monotonic() + TIME_BOUND_SECONDS
        for compiled in self._compiled:
            for pattern in compiled.patterns:
                if (match := _search(pattern, heard.folded, ends)) is not None:
                    return Detected(compiled.action.name, _slots(compiled, match, heard))
        name = self._examples.guess(heard.text) if self._examples else None
        for compiled in self._compiled:
            if compiled.action.name == name:
                return Detected(name, _slots(compiled, None, heard), guessed=True)
        return None


def _compile(action: Action, vocabulary: Vocabulary) -> _Compiled:
    return _Compiled(
        action,
        [_pattern(action, pattern, vocabulary) for pattern in action.patterns],
        {name: slots.synonyms(slot) for name, slot in action.slots.items() if slot.kind == "values"},
    )


def _pattern(action: Action, pattern: str, vocabulary: Vocabulary) -> regex.Pattern[str]:
    where = f"actions.{action.name}.patterns"
    compiled = _regex(vocabulary.expand(pattern, where), f"{where} = {pattern!r}")
    if endless(compiled.pattern):
        raise ConfigurationError(
            f"streams.toml: {where} = {pattern!r} can take for ever over a text that almost "
            "matches: a repeat within a repeat takes the same letters; write it without one of the two"
        )
    return compiled


def _regex(text: str, told: str) -> regex.Pattern[str]:
    for each in (_without_accents(text), text):  # without accents, a range such as [à-ü] may be none
        try:
            return regex.compile(each, regex.IGNORECASE)
        except regex.error as error:
            why = error
    raise ConfigurationError(f"streams.toml: {told} is no regular expression: {why}")


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


def _slots(compiled: _Compiled, match: regex.Match[str] | None, said: Heard) -> dict[str, Any]:
    """
    What fills each slot: the pattern's group of its name, else for days, times and values the first in the words.

    Slots that nothing fills are left out.
    """
    filled: dict[str, Any] = {}
    spans = match.groupdict().keys() if match else ()
    for name, slot in compiled.action.slots.items():
        values = compiled.values.get(name, [])
        start, end = match.span(name) if match and name in spans else (-1, -1)
        if start >= 0 and (told := said.text[start:end].strip()):
            line = [line for line in said.lines if line.start <= start][-1]
            value = slots.read(slot, fold(told), values, line.said_at)
            filled[name] = told if value is None else value
        elif (value := slots.found(slot, values, said.lines)) is not None:
            filled[name] = value
    for name in spans:  # a group for which no slot is declared is plain text
        if match and name not in filled and name not in compiled.action.slots and match[name]:
            start, end = match.span(name)
            filled[name] = said.text[start:end].strip()
    return filled
