"""How a timeline is printed."""

from __future__ import annotations

from datetime import date, datetime

import pytest

from streams.commands import trace
from streams.commands.tail import Form
from streams.story.timeline import Step, Timeline


def test_a_step_says_its_day_where_that_is_another_than_the_one_before(capsys: pytest.CaptureFixture[str]) -> None:
    # Given a message that waited over a night, long ago
    at = [datetime(2025, 10, 5, 23, 59, 59, 880000), datetime(2025, 10, 6, 0, 0, 1), datetime(2025, 10, 6, 0, 0, 2)]
    steps = [Step(kind="taken", at_ms=round(each.timestamp() * 1000), stream="inbound") for each in at]
    told = Timeline(
        entry="1759700000000-0", stream="inbound", person="+591", message_id="m1", type="text", trace="",
        outcome="settled", took_ms=None, steps=steps,
    )  # fmt: skip
    trace._print(told, Form())
    # Then two of its steps say on which day they were
    times = [line.partition("taken")[0].strip() for line in capsys.readouterr().out.splitlines() if "taken" in line]
    assert times == ["05.10. 23:59:59.880", "06.10. 00:00:01.000", "00:00:02.000"]


def test_today_is_not_said() -> None:
    assert trace._clock(datetime(2025, 10, 5, 14, 30, 0, 7000), date(2025, 10, 5)) == "14:30:00.007"
