"""Who runs in which row."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from processors.inference.scheduler import Scheduler, Sequence


def sequence(number: int, tokens: int = 3) -> Sequence:
    return Sequence(number=number, prompt=[1], max_tokens=tokens, stops=frozenset({0}), generated=[])


def test_they_are_admitted_in_order_while_a_slot_is_free() -> None:
    scheduler = Scheduler(2)
    for number in (1, 2, 3):
        scheduler.add(sequence(number))
    assert [one.number for one in (scheduler.admit(), scheduler.admit()) if one] == [1, 2]
    assert scheduler.admit() is None


def test_a_stop_ends_a_reply_and_is_not_part_of_it() -> None:
    scheduler, one = Scheduler(1), sequence(1)
    assert [scheduler.accept(one, token) for token in (5, 0)] == [None, "stop"]
    assert one.generated == [5]


def test_the_last_allowed_token_ends_a_reply() -> None:
    scheduler, one = Scheduler(1), sequence(1, tokens=2)
    assert [scheduler.accept(one, token) for token in (5, 6)] == [None, "length"]


@given(st.lists(st.one_of(st.just("add"), st.just("admit"), st.integers(0, 9)), max_size=60), st.integers(1, 5))
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
                rows[len(scheduler.running) - 1] = new
        elif isinstance(event, int) and event < len(everyone):
            gone = everyone[event]
            was_running = gone in scheduler.running
            if (move := scheduler.leave(gone)) is not None:
                rows[move.target] = rows[move.source]
            if was_running:
                del rows[len(scheduler.running)]
        assert [rows[row] for row in range(len(rows))] == scheduler.running
        assert len(scheduler.running) <= slots
