"""How fast counters grow."""

from __future__ import annotations

from streams.rates import KEPT, Meter, sparkline


def test_a_rate_is_the_growth_a_second_since_the_last_look() -> None:
    meter = Meter()
    assert meter.read("in", 100, at=10.0) is None
    assert meter.read("in", 150, at=12.0) == 25.0
    assert meter.read("out", 7, at=12.0) is None
    assert meter.read("in", 150, at=13.0) == 0.0
    assert meter.past("in") == [25.0, 0.0]


def test_a_counter_that_was_begun_anew_stands_still_for_one_look() -> None:
    meter = Meter()
    meter.read("in", 100, at=1.0)
    assert meter.read("in", 3, at=2.0) == 0.0
    assert meter.read("in", 5, at=3.0) == 2.0


def test_a_look_that_failed_is_made_up_for_by_the_next() -> None:
    meter = Meter()
    meter.read("in", 0, at=1.0)
    assert meter.read("in", None, at=2.0) is None
    assert meter.read("in", 30, at=4.0) == 10.0


def test_only_so_much_is_remembered() -> None:
    meter = Meter()
    for second in range(2 * KEPT):
        meter.read("in", second, at=float(second))
    assert len(meter.past("in")) == KEPT


def test_a_sparkline_is_as_high_as_its_largest_and_folds_what_is_too_long() -> None:
    assert sparkline([0, 1, 4, 8], 10) == " ▁▄█"
    assert sparkline([0, 0], 10) == "  "
    assert sparkline([1, 1000], 10) == "▁█"
    assert sparkline([9, 9, 0, 8], 2) == "██"
    assert sparkline([0.5, 0, 4.0], 3) == "▁ █"
    assert sparkline([], 3) == ""
    assert len(sparkline(list(range(3000)), 60)) == 60
    assert sparkline([5, *[0] * 100], 10)[0] == "█"
