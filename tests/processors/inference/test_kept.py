"""What was computed for one reply and can serve the next."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from processors.inference.kept import BLOCK, Kept

TOKENS = st.lists(st.integers(0, 2), min_size=BLOCK, max_size=5 * BLOCK)


def common(one: list[int], other: list[int]) -> int:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return length


def test_the_longest_beginning_is_found_to_the_token() -> None:
    kept = Kept[str](100)
    talk = list(range(50))
    kept.keep(talk, "talk", 10)
    kept.keep([*range(20), *range(900, 930)], "other", 10)
    assert kept.best([*range(47), 7, 7]) == ("talk", 47)
    assert kept.best([*range(20), 900, 901, 5]) in (("talk", 20), ("other", 22))
    assert kept.best([5, *range(50)]) is None
    assert kept.best(list(range(BLOCK - 1))) is None


def test_a_conversation_that_went_on_takes_the_place_of_its_beginning() -> None:
    kept = Kept[int](100)
    for turns in range(1, 5):
        kept.keep(list(range(turns * 20)), turns, 10)
    assert (len(kept), kept.size) == (1, 10)
    assert kept.best(list(range(100))) == (4, 80)
    assert kept.has(list(range(40)))
    assert not kept.has(list(range(81)))


def test_the_least_recently_used_goes_first_and_too_large_a_value_is_not_kept() -> None:
    kept = Kept[str](30)
    for name in "abc":
        kept.keep([ord(name)] * 20, name, 10)
    assert kept.best([ord("a")] * 20)
    kept.keep([ord("d")] * 20, "d", 20)
    assert [name for name in "abcd" if kept.best([ord(name)] * 20)] == ["a", "d"]
    kept.keep([1] * 20, "large", 31)
    assert kept.best([1] * 20) is None
    assert kept.size == 30


@pytest.mark.slow
@given(st.lists(st.tuples(TOKENS, st.integers(1, 40)), max_size=12), TOKENS)
def test_whatever_is_kept_what_is_found_is_a_beginning_and_the_bound_holds(
    said: list[tuple[list[int], int]], asked: list[int]
) -> None:
    kept = Kept[list[int]](100)
    for tokens, size in said:
        kept.keep(tokens, tokens, size)
        assert kept.size <= kept.budget
        assert kept.best(tokens) is not None
    best = kept.best(asked)
    whole_blocks = max((common(entry.tokens, asked) // BLOCK for entry in kept._entries.values()), default=0)
    if best is None:
        assert whole_blocks == 0
    else:
        assert best[1] == common(best[0], asked)
        assert best[1] // BLOCK == whole_blocks
    assert kept.size == sum(entry.size for entry in kept._entries.values())
    assert {number for those in kept._blocks.values() for number in those} == set(kept._entries)


def test_all_of_it_is_forgotten_at_once_and_it_keeps_on_keeping() -> None:
    kept = Kept[str](30)
    kept.keep([1] * 20, "a", 10)
    kept.forget()
    assert (kept.best([1] * 20), kept.size, len(kept)) == (None, 0, 0)
    kept.keep([1] * 20, "b", 10)
    assert kept.best([1] * 20) == ("b", 20)
