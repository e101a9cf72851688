"""What becomes of a turn; no Redis, no clock."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from streams import fate
from streams.errors import Bury, Malformed, Retry

BACKOFF = (1.0, 5.0, 30.0)


def raised(act: Callable[[], object]) -> Exception:
    try:
        act()
    except Exception as error:
        return error
    raise AssertionError("it raised nothing")


def after(error: BaseException | None, attempt: int = 1, luck: float = 0.5, **how: Any) -> fate.Fate:
    return fate.after(error, attempt=attempt, attempts=how.get("attempts", 5), backoff=BACKOFF, luck=luck)


def test_a_turn_whose_handler_returned_is_settled() -> None:
    assert after(None) == fate.Settle()


@pytest.mark.parametrize(("attempt", "wait_ms"), [(1, 1_000), (2, 5_000), (3, 30_000), (4, 30_000)])
def test_a_failure_waits_longer_each_time_and_the_last_wait_stands_for_the_rest(attempt: int, wait_ms: int) -> None:
    assert after(ValueError("x"), attempt) == fate.Park(delay_ms=wait_ms, why="ValueError: x", blame="ValueError")


def test_what_failed_together_does_not_return_together() -> None:
    first, last = after(ValueError(), luck=0.0), after(ValueError(), luck=1.0)
    assert (first.delay_ms, last.delay_ms) == (800, 1_200)


def test_the_last_attempt_that_fails_is_the_burial_of_those_that_had_them_all() -> None:
    buried = fate.Burial(why="ValueError: x", blame="ValueError", exhausted_only=True)
    assert after(ValueError("x"), attempt=5) == buried
    assert after(Retry("x", after=9), attempt=5) == fate.Burial(why="x", exhausted_only=True)


def test_a_failure_that_is_nobodys_fault_never_buries() -> None:
    fell = after(Retry("breaker", after=7, counted=False), attempt=99)
    assert fell == fate.Park(delay_ms=7_000, why="breaker", counted=False)


def test_a_handler_may_name_its_wait_and_its_progress() -> None:
    assert after(Retry("503", after=2, progress="3")) == fate.Park(delay_ms=2_000, why="503", progress="3")


def test_a_receiver_that_asks_for_time_gets_it_but_no_less_than_the_backoff() -> None:
    assert after(Retry("503", not_before=20), attempt=2) == fate.Park(delay_ms=20_000, why="503")
    assert after(Retry("503", not_before=1), attempt=3) == fate.Park(delay_ms=30_000, why="503")


@pytest.mark.parametrize("error", [Bury("no such number"), Malformed("no such number")])
def test_what_can_never_succeed_is_buried_at_once(error: Exception) -> None:
    assert after(error) == fate.Burial(why="no such number")


def test_a_deadline_says_so() -> None:
    assert after(TimeoutError("x")) == fate.Park(delay_ms=1_000, why="deadline passed")


def test_a_turn_that_killed_its_worker_too_often_is_not_run_again() -> None:
    assert fate.before([5, 1], attempts=5) is None
    burial = fate.before([6, 2], attempts=5)
    assert burial is not None
    assert burial.exhausted_only


def test_a_turn_makes_way_so_often_and_then_no_more() -> None:
    assert [fate.overtaken(times, 2, suspect=False) for times in range(4)] == [fate.Join(), fate.Join(), None, None]


def test_a_suspect_makes_way_for_nobody_for_nobody_may_join_it() -> None:
    assert fate.overtaken(0, 3, suspect=True) is None


def test_an_error_that_may_quote_somebody_is_told_by_its_kind_and_its_place() -> None:
    error = raised(lambda: int("tengo diabetes"))
    assert error.__traceback__ is not None
    line = error.__traceback__.tb_next.tb_lineno  # type: ignore[union-attr]
    assert fate.blame(error) == f"ValueError at {Path(__file__).name}:{line}"
    assert "diabetes" in fate.why(error)


def test_the_place_is_the_handlers_own_and_not_that_of_the_library_it_calls() -> None:
    error = raised(lambda: json.loads("tengo diabetes"))
    assert fate.blame(error).startswith(f"JSONDecodeError at {Path(__file__).name}:")


@pytest.mark.parametrize("error", [Retry("503"), Bury("no such number"), Malformed("no such"), TimeoutError("x")])
def test_our_own_errors_are_told_by_their_words(error: Exception) -> None:
    assert fate.blame(error) == ""


def test_a_burial_whose_reason_quotes_somebody_is_told_by_the_words_it_gives_instead() -> None:
    buried = fate.Burial(why="400: tengo diabetes", blame="400")
    assert after(Bury("400: tengo diabetes", blame="400")) == buried
