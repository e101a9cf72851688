"""
Whether a regular expression can take for ever: there is a text over which the ways to match it double with each letter.

The pattern becomes its position automaton (Glushkov, "The abstract theory of automata", 1961).  It is exponentially
ambiguous exactly where one state can be left and reached again by two different ways with the same letters (Weber and
Seidl, "On the degree of ambiguity of finite automata", 1991; Weideman et al. apply it to backtracking matchers).  Two
approximations, both towards calling a pattern harmful: a repeat of ten or more is one without end, and what looks
around or back is not what ends a way.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from re import _constants as op  # type: ignore[attr-defined] # the parser that re itself uses
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

MANY = 10
"""Repeats from which a bounded one counts as unbounded."""

_LETTERS = sorted({*string.printable.lower(), "á", "ñ", "ü", "…", "👍"})
_ALL = (1 << len(_LETTERS)) - 1


@lru_cache(1024)  # the same actions are read again with each reload, and it takes some milliseconds
def endless(pattern: str) -> bool:
    """Whether matching it can take a time that doubles with each letter; False where `re` cannot read it."""
    try:
        return _Automaton(pattern).ambiguous()
    except (RecursionError, OverflowError, parser.error):
        return False


@dataclass
class _Part:
    """A piece of a pattern: whether it matches nothing, and the positions that it may begin and end with."""

    empty: bool = True
    first: frozenset[int] = frozenset()
    last: frozenset[int] = frozenset()


@dataclass
class _Automaton:
    pattern: str
    letters: list[int] = field(default_factory=list)
    """Of each position, the letters that it takes, as bits of `_LETTERS`."""
    follow: list[dict[int, int]] = field(default_factory=list)
    """Of each position, who may come next, and in how many ways."""

    def __post_init__(self) -> None:
        self._sequence(parser.parse(self.pattern, op.SRE_FLAG_IGNORECASE))

    # The pattern as positions

    def _position(self, letters: int) -> _Part:
        self.letters.append(letters)
        self.follow.append({})
        here = frozenset({len(self.letters) - 1})
        return _Part(empty=False, first=here, last=here)

    def _join(self, last: Iterable[int], first: Iterable[int]) -> None:
        for one in last:
            for other in first:
                self.follow[one][other] = self.follow[one].get(other, 0) + 1

    def _sequence(self, items: Iterable[tuple[Any, Any]]) -> _Part:
        whole = _Part()
        for kind, value in items:
            part = self._item(kind, value)
            self._join(whole.last, part.first)
            whole = _Part(
                empty=whole.empty and part.empty,
                first=whole.first | part.first if whole.empty else whole.first,
                last=part.last | whole.last if part.empty else part.last,
            )
        return whole

    def _item(self, kind: Any, value: Any) -> _Part:
        if kind in (op.MAX_REPEAT, op.MIN_REPEAT):
            return self._repeat(*value)
        if kind is op.BRANCH:
            parts = [self._sequence(branch) for branch in value[1]]
            return _Part(
                empty=any(part.empty for part in parts),
                first=frozenset().union(*(part.first for part in parts)),
                last=frozenset().union(*(part.last for part in parts)),
            )
        if kind is op.SUBPATTERN:
            return self._sequence(value[-1])
        if kind in (op.LITERAL, op.NOT_LITERAL, op.ANY, op.IN):
            return self._position(_taken(kind, value))
        return _Part()  # an anchor, a look around, a reference; what is possessive or atomic gives nothing back

    def _repeat(self, least: int, most: Any, items: Any) -> _Part:
        part = self._sequence(items)
        if most == op.MAXREPEAT or most >= MANY:
            self._join(part.last, part.first)
        return _Part(part.empty or least == 0, part.first, part.last)

    # Its ambiguity

    def ambiguous(self) -> bool:
        """Two ways from a state to itself with the same letters: a circle of pairs through that state's with itself."""
        return any(self._splits(circle) for circle in _Circles(self._next_pairs).from_states(len(self.letters)))

    def _next_pairs(self, pair: tuple[int, int]) -> Iterator[tuple[int, int]]:
        for one in self.follow[pair[0]]:
            for other in self.follow[pair[1]]:
                if self.letters[one] & self.letters[other]:
                    yield one, other

    def _splits(self, circle: set[tuple[int, int]]) -> bool:
        same = {one for one, other in circle if one == other}
        if not same:
            return False
        if len(same) < len(circle):
            return True
        # Each with itself only: still two ways, where a step among them can be made in two.
        return any(ways > 1 and other in same for one in same for other, ways in self.follow[one].items())


def _taken(kind: Any, value: Any) -> int:
    if kind is op.ANY:
        return _ALL
    if kind is op.LITERAL:
        return _bits(letter for letter in _LETTERS if letter == chr(value).lower()) or 1 << len(_LETTERS) + value
    if kind is op.NOT_LITERAL:
        return _bits(letter for letter in _LETTERS if letter != chr(value).lower())
    taken, negated = 0, False
    for what, told in value:
        if what is op.NEGATE:
            negated = True
        elif what is op.RANGE:
            low, high = told
            taken |= _bits(letter for letter in _LETTERS if any(low <= ord(case) <= high for case in _cases(letter)))
        elif what is op.CATEGORY:
            belongs = _IN_CATEGORY[told]
            taken |= _bits(letter for letter in _LETTERS if belongs(letter))
        else:
            taken |= _taken(what, told)
    return _ALL & ~taken if negated else taken


def _cases(letter: str) -> tuple[str, str]:
    upper = letter.upper()
    return letter, upper if len(upper) == 1 else letter


def _bits(letters: Iterable[str]) -> int:
    return sum(1 << _LETTERS.index(letter) for letter in letters)


def _word(letter: str) -> bool:
    return letter.isalnum() or letter == "_"


_IN_CATEGORY: dict[Any, Callable[[str], bool]] = {
    op.CATEGORY_DIGIT: str.isdigit,
    op.CATEGORY_NOT_DIGIT: lambda letter: not letter.isdigit(),
    op.CATEGORY_SPACE: str.isspace,
    op.CATEGORY_NOT_SPACE: lambda letter: not letter.isspace(),
    op.CATEGORY_WORD: _word,
    op.CATEGORY_NOT_WORD: lambda letter: not _word(letter),
}


Pair = tuple[int, int]


class _Circles:
    """The strongly connected parts (Tarjan, 1972) of all pairs that can be reached from a state with itself."""

    def __init__(self, following: Callable[[Pair], Iterator[Pair]]) -> None:
        self._following = following
        self._index: dict[Pair, int] = {}
        self._low: dict[Pair, int] = {}
        self._stack: list[Pair] = []
        self._on_stack: set[Pair] = set()

    def from_states(self, count: int) -> Iterator[set[Pair]]:
        for state in range(count):
            if (state, state) not in self._index:
                yield from self._from((state, state))

    def _from(self, root: Pair) -> Iterator[set[Pair]]:
        work = [self._enter(root)]
        while work:
            pair, rest = work[-1]
            if (step := self._unseen(pair, rest)) is not None:
                work.append(self._enter(step))
                continue
            work.pop()
            if work:
                above = work[-1][0]
                self._low[above] = min(self._low[above], self._low[pair])
            if self._low[pair] == self._index[pair]:
                yield self._closed(pair)

    def _enter(self, pair: Pair) -> tuple[Pair, Iterator[Pair]]:
        self._index[pair] = self._low[pair] = len(self._index)
        self._stack.append(pair)
        self._on_stack.add(pair)
        return pair, self._following(pair)

    def _unseen(self, pair: Pair, rest: Iterator[Pair]) -> Pair | None:
        for step in rest:
            if step not in self._index:
                return step
            if step in self._on_stack:
                self._low[pair] = min(self._low[pair], self._index[step])
        return None

    def _closed(self, pair: Pair) -> set[Pair]:
        circle = {pair}
        while (popped := self._stack.pop()) != pair:
            circle.add(popped)
        self._on_stack -= circle
        return circle
