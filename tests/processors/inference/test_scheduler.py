"""Who runs in which row."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from processors.inference.scheduler import APART, Scheduler, Sequence, runs


def sequence(number: int, tokens: int = 3) -> Sequence:
    return Sequence(number=number, prompt=[1], max_tokens=tokens, stops=frozenset({0}), generated=[])


def test_they_are_admitted_in_order_while_a_slot_is_free() -> None:
    scheduler = Scheduler(2)
    for number in (1, 2, 3):
        scheduler.add(sequence(number))
    for number in (1, 2):
        # One prompt at a time is read, for as many rounds as it takes
        assert [one.number for one in (scheduler.admit(), scheduler.admit()) if one] == [number, number]
        scheduler.begin()
    assert scheduler.admit() is None
    assert [one.number for one in scheduler.running] == [1, 2]


def test_a_stop_ends_a_reply_and_is_not_part_of_it() -> None:
    scheduler, one = Scheduler(1), sequence(1)
    assert [scheduler.accept(one, token) for token in (5, 0)] == [None, "stop"]
    assert one.generated == [5]


def test_the_last_allowed_token_ends_a_reply() -> None:
    scheduler, one = Scheduler(1), sequence(1, tokens=2)
    assert [scheduler.accept(one, token) for token in (5, 6)] == [None, "length"]


@given(
    st.lists(st.one_of(st.sampled_from(["add", "admit", "begin"]), st.integers(0, 9)), max_size=60), st.integers(1, 5)
)
def test_whatever_happens_the_rows_have_no_hole_and_moves_carry_everybody(happens: list[str | int], slots: int) -> None:
    scheduler = Scheduler(slots)
    everyone: list[Sequence] = []
    rows: dict[int, Sequence] = {}  # what a model would hold
    for event in happens:
        if event == "add":
            everyone.append(sequence(len(everyone)))
            scheduler.add(everyone[-1])
        elif event == "admit":
            if (new := scheduler.admit()) is not None:
                rows[len(scheduler.running)] = new
        elif event == "begin" and scheduler.reading is not None:
            scheduler.begin()
        elif isinstance(event, int) and event < len(everyone):
            for move in scheduler.leave(everyone[event]):
                rows[move.target] = rows[move.source]
            assert scheduler.row(everyone[event]) is None
        held = [*scheduler.running, *([scheduler.reading] if scheduler.reading else [])]
        assert [rows[row] for row in range(len(held))] == held
        assert [scheduler.row(each) for each in held] == list(range(len(held)))
        assert len(held) <= slots


def test_a_long_row_does_not_tax_the_short_ones() -> None:
    # Neighbours of like lengths are computed together, and nobody as if they were as long as the one who is far longer
    assert runs([]) == []
    assert runs([300]) == [(0, 1)]
    assert runs([300, 310, 290, 305]) == [(0, 4)]
    assert runs([300, 310, 4000, 290, 305]) == [(0, 2), (2, 3), (3, 5)]
    assert runs([4000, 4000, 10]) == [(0, 2), (2, 3)]


@given(st.lists(st.integers(1, 4096), max_size=8))
def test_rows_are_cut_into_runs_as_cheaply_as_can_be(lengths: list[int]) -> None:
    def cost(cuts: list[tuple[int, int]]) -> int:
        return sum(max(lengths[first:last]) * (last - first) + APART for first, last in cuts)

    found = runs(lengths)
    assert [row for first, last in found for row in range(first, last)] == list(range(len(lengths)))
    inner = range(1, len(lengths))
    for chosen in itertools.chain.from_iterable(itertools.combinations(inner, count) for count in range(len(lengths))):
        ends = [0, *chosen, len(lengths)]
        assert cost(found) <= cost(list(itertools.pairwise(ends)))
