"""
How fast counters grow, and a picture of how fast they did.

Pure: whoever reads a counter says when.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

KEPT = 60
"""Rates of a counter that are remembered."""

_BARS = " ▁▂▃▄▅▆▇█"


class Meter:
    """Rates of counters, each by its name."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[float, float]] = {}
        self._past: dict[str, deque[float]] = {}

    def read(self, name: str, value: float | None, at: float) -> float | None:
        """
        Take down what a counter shows.

        Args:
            value: None where it cannot be read; it goes on from where it was then.
            at: seconds, on any clock that only goes forward.

        Returns:
            its growth a second since it was last read; None where it never was.  One that fell was begun anew, or
            somebody deleted what it counts: 0.
        """
        if value is None:
            return None
        before, self._last[name] = self._last.get(name), (value, at)
        if before is None or at <= before[1]:
            return None
        rate = max(0.0, value - before[0]) / (at - before[1])
        self._past.setdefault(name, deque(maxlen=KEPT)).append(rate)
        return rate

    def past(self, name: str) -> list[float]:
        """Its rates so far, the oldest first."""
        return list(self._past.get(name, ()))


def sparkline(values: Sequence[float], width: int) -> str:
    """Bars from nothing to the highest; where there are more values than places, each place is the highest of some."""
    share = max(1, -(-len(values) // width))
    shown = [max(values[at : at + share]) for at in range(0, len(values), share)]
    highest = max(shown, default=0)
    # Whatever is more than nothing is seen.
    return "".join(_BARS[math.ceil(value * (len(_BARS) - 1) / highest)] if value > 0 else " " for value in shown)
