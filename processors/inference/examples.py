"""
What a person asks for, guessed from sentences that others have said: where no pattern knows their words.

Multinomial logistic regression over words, pairs of words and pieces of words, by stochastic gradient descent
(C. Bishop, "Pattern Recognition and Machine Learning", 4.3.4 and 5.2.4).  It is learnt anew at each start, in a second
for two thousand sentences and the same each time, so that whoever adds an action adds what people say for it.  Pure
but for reading the file.
"""

from __future__ import annotations

import functools
import math
import random
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from processors.inference.spanish_dates import DAYS, fold
from streams.errors import ConfigurationError
from streams.topology import Topology

SHIPPED = {"spanish": Path(__file__).with_name("examples_es.toml")}
"""By the name that `[inference] examples` has for them; they may name actions that are not there."""

NOTHING = "none"
"""The name of those that ask for nothing."""

CERTAIN = 0.7
"""How probable the likeliest has to be; a wrong action is worse than none, for the reply goes out all the same."""

_LEAST, _MOST = 3, 200
"""Words that are looked at: of one or two nothing can be told that a pattern does not tell better."""

_KNOWN = 2 / 3
"""Of the words, as many as somebody has to have said before; of another language there are fewer."""

_EPOCHS, _RATE = 8, 3.0
_SURE = 0.02
"""A sentence about which no more than this is amiss teaches nothing more in that round."""

_WORD = re.compile(r"[^\W\d_]+|0|\?")
_NUMBER = re.compile(r"\d+")
_DRAWN_OUT = re.compile(r"(.)\1{2,}")
_PIECE = 4

Weights = dict[str, list[float]]
"""Of each feature, for each name."""


class _File(NamedTuple):
    named: str
    """As `[inference] examples` has it."""
    path: Path
    text: str


class _Asked(NamedTuple):
    """One sentence, and what for."""

    name: str
    text: str
    named: str
    """Of the file, as `[inference] examples` has it."""


class Examples:
    """Learnt."""

    def __init__(self, names: Sequence[str], weights: Weights) -> None:
        self._names, self._weights = names, weights

    @classmethod
    def learn(cls, told: Mapping[str, Iterable[str]]) -> Examples:
        """
        Args:
            told: sentences by what they ask for; NOTHING's among them.
        """
        names = sorted(told)
        rows = [(_features(_words(text)), names.index(name)) for name in names for text in told[name]]
        weights: Weights = {feature: [0.0] * len(names) for features, _ in rows for feature in features}
        draw = random.Random(1)  # noqa: S311 - an order, no secret
        for epoch in range(_EPOCHS):
            draw.shuffle(rows)
            for features, right in rows:
                _step(weights, features, right, _RATE / (1 + epoch / 2))
        return cls(names, weights)

    def guess(self, text: str) -> str | None:
        """The name of what is asked for; None where that is nothing, or not certain."""
        words = _words(text)
        named = [word for word in words if word.isalpha()]
        if len(words) < _LEAST or sum(word in self._weights for word in named) < max(1, _KNOWN * len(named)):
            return None
        odds = _probabilities([found for each in _features(words) if (found := self._weights.get(each)) is not None])
        best = max(range(len(odds)), key=odds.__getitem__)
        return self._names[best] if odds[best] >= CERTAIN and self._names[best] != NOTHING else None


def _step(weights: Weights, features: Sequence[str], right: int, rate: float) -> None:
    rows = [weights[feature] for feature in features]
    odds = _probabilities(rows)
    if 1 - odds[right] < _SURE:
        return
    pace = rate / math.sqrt(len(rows))
    steps = [pace * (probability - (name == right)) for name, probability in enumerate(odds)]
    for row in rows:
        for name, step in enumerate(steps):
            row[name] -= step


def _probabilities(rows: Sequence[Sequence[float]]) -> list[float]:
    """Of each name, from the weights of what is there (softmax); a long text counts no more than a short one."""
    scale = math.sqrt(len(rows))
    scores = [sum(column) / scale for column in zip(*rows, strict=True)]
    highest = max(scores)
    powers = [math.exp(score - highest) for score in scores]
    whole = sum(powers)
    return [power / whole for power in powers]


def _words(text: str) -> list[str]:
    """Without accents; one number is like another, as is one day of the week, and «holaaaa» is «holaa»."""
    words = _WORD.findall(_DRAWN_OUT.sub(r"\1\1", _NUMBER.sub("0", fold(text))))[:_MOST]
    return ["lunes" if word in DAYS or word.removesuffix("s") in DAYS else word for word in words]


def _features(words: Sequence[str]) -> list[str]:
    # How it begins tells more than what comes in the middle.
    found = [*words, *(f"{first} {second}" for first, second in pairwise(["^", *words]))]
    found.append(" ".join(["^", *words[:2]]))
    for word in words:
        if len(word) >= _PIECE:
            framed = f"<{word}>"
            found += [framed[at : at + _PIECE] for at in range(len(framed) - _PIECE + 1)]
    return list(dict.fromkeys(found))


def of(topology: Topology) -> Examples | None:
    """
    What `[inference] examples` names, learnt; None where it names none, or there are no actions.

    Raises:
        ConfigurationError: see `told`.
    """
    given = _given(topology)
    return _learnt(*given) if given else None


def told(topology: Topology) -> dict[str, list[str]]:
    """
    All sentences by what they ask for; what asks for an action that is not there asks for nothing.

    Raises:
        ConfigurationError: there is no such file, it is not of that form, it names an action that there is none of, or
            one sentence asks for two things.
    """
    given = _given(topology)
    return _told(*given) if given else {}


def _given(topology: Topology) -> tuple[frozenset[str], tuple[_File, ...]] | None:
    """The actions' names, and what stands in the files; None where there are none."""
    actions = frozenset(action.name for action in topology.actions)
    if not (topology.inference.examples and actions):
        return None
    if NOTHING in actions:
        raise ConfigurationError(
            f"{topology.path.name}: an action {NOTHING!r} can have no examples: they ask for nothing"
        )
    return actions, tuple(_File(named, path, _text(path)) for named, path in files(topology).items())


@functools.lru_cache(maxsize=4)
def _learnt(actions: frozenset[str], given: tuple[_File, ...]) -> Examples:
    return Examples.learn(_told(actions, given))


def _told(actions: frozenset[str], given: tuple[_File, ...]) -> dict[str, list[str]]:
    asked = dict[str, _Asked]()
    for file in given:
        _join(asked, file, actions | {NOTHING})
    found: dict[str, list[str]] = {NOTHING: []}
    for each in asked.values():
        found.setdefault(each.name if each.name in actions else NOTHING, []).append(each.text)
    if not found[NOTHING]:
        raise ConfigurationError(
            f"{given[-1].path}: {NOTHING!r} is missing: sentences that ask for nothing, a third of all"
        )
    return found


def _join(asked: dict[str, _Asked], file: _File, names: frozenset[str]) -> None:
    """Add a file's sentences; one's own take the place of those that ship."""
    named, path = file.named, file.path
    own = named not in SHIPPED
    for name, sentences in _sentences(file).items():
        if own and name not in names:
            known = ", ".join(sorted(names - {NOTHING}))
            raise ConfigurationError(f"{path}: there is no action {name!r}; actions are {known}, and {NOTHING}")
        for text in sentences:
            same = " ".join(_words(text)) or text
            before = asked.get(same)
            if before is None or before.named in SHIPPED:
                asked[same] = _Asked(name, text, named)
            elif own and before.name != name:
                raise ConfigurationError(f"{path}: {text!r} stands under {before.name} and under {name}")


def files(topology: Topology) -> dict[str, Path]:
    """Those that `[inference] examples` names; the path of one's own begins in the folder of streams.toml."""
    folder = topology.path.parent
    return {named: SHIPPED.get(named) or folder / Path(named).expanduser() for named in topology.inference.examples}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError(
            f"inference.examples: {path} cannot be read: {error.strerror or error}; write {', '.join(SHIPPED)}, or the "
            "path of a file"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is no TOML: {error}") from error


def _sentences(file: _File) -> dict[str, list[str]]:
    try:
        found: dict[str, Any] = tomllib.loads(file.text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{file.path} is no TOML: {error}") from error
    for name, sentences in found.items():
        if not (isinstance(sentences, list) and all(isinstance(each, str) and each.strip() for each in sentences)):
            raise ConfigurationError(f"{file.path}: {name} should be a list of sentences")
    return found
