"""What a counter says, with what it has not been told yet."""

from __future__ import annotations

from prometheus_client import Counter

from streams import counted


def count(counter: Counter) -> float:
    counted.hand_over()
    return counter._value.get()
