"""Regular expressions over which a text can keep the matcher for ever."""

from __future__ import annotations

import pytest

from processors.inference.backtracking import endless
from processors.inference.vocabulary import Vocabulary
from streams import topology

HARMFUL = [
    r"(a+)+$", r"(a*)*b", r"(a|aa)+$", r"(\w+\s?)*!", r"^(\d+|\w+)*$", r"(a?b?)*c", r"([a-z]+)*\d",
    r"(.*a){12}", r"(cita|ci|ta)+x", r"((para|por)?\s*)*cita", r"(?:x(?:a+)+y)", r"(\w{1,60}\s?){1,60}x",
]  # fmt: skip
HARMLESS = [
    r"hola", r"\bcita\b", r"(cita|turno)\s+con\s+\w+", r"\b(quiero|necesito)\b.{0,30}\bcita\b", r"((para|en)\s+)*cita",
    r"a+b+c+", r"(ab)+", r"([ab]c)*d", r"(\w+\s)+x", r"a{3}", r"(a|b)*c", r"^\W*(hola|buenas)\W*$", r"\w+@\w+\.\w+",
    r"(?=a)b*",
]  # fmt: skip


@pytest.mark.parametrize("pattern", HARMFUL)
def test_a_repeat_within_a_repeat_of_the_same_letters_is_found(pattern: str) -> None:
    assert endless(pattern)


@pytest.mark.parametrize("pattern", HARMLESS)
def test_what_can_be_read_in_one_way_only_is_let_through(pattern: str) -> None:
    assert not endless(pattern)


def test_what_ships_is_let_through() -> None:
    shipped = topology.load("streams.toml")
    vocabulary = Vocabulary(shipped.vocabulary)
    whole = [vocabulary.expand(pattern, "") for action in shipped.actions for pattern in action.patterns]
    assert len(max(whole, key=len)) > 500  # words and all
    assert [pattern for pattern in whole if endless(pattern)] == []


def test_what_re_cannot_read_is_left_to_the_bound_of_time() -> None:
    assert not endless(r"\p{L}+")
    assert not endless("(")
