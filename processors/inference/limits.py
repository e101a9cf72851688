"""
How many messages a minute are answered.

The runtime counts them in the act that grants the turn; here it is only decided what the counts mean.  Pure.
"""

from __future__ import annotations

import msgspec

from processors.inference.arrivals import SILENT, STAFF, Arrival
from streams.effects import Metering

METER = Metering(kind="rate_limit", window_seconds=60, skip_types=(STAFF, *SILENT), unless="paused")


class Verdict(msgspec.Struct, kw_only=True):
    """A turn's messages from the person, on the two sides of the limit."""

    within: list[Arrival]
    over: list[Arrival]
    told_now: bool
    """The first message over the limit is among them: once in each window the person is told."""
    count: int
    """The highest count of the turn; 0 where nothing was counted."""


def judge(arrived: list[Arrival], limit: int) -> Verdict:
    """Split what the person sent; a limit of 0 lets everything through."""
    person = [arrival for arrival in arrived if arrival.from_person]
    over = [arrival for arrival in person if limit and arrival.count is not None and arrival.count > limit]
    return Verdict(
        within=[arrival for arrival in person if arrival not in over],
        over=over,
        told_now=any(arrival.count == limit + 1 for arrival in over),
        count=max((arrival.count or 0 for arrival in person), default=0),
    )
