"""
How long things took, as counts of few buckets: a high dynamic range histogram.

Buckets grow with what they hold, sixteen to each doubling, so that none is wider than a sixteenth of it: those of
HdrHistogram at one significant digit (http://hdrhistogram.org, G. Tene), to the number; a test holds them against that
library.  It is not used itself: it has no build for Linux on ARM, and these are its two lines.  Pure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BITS = 5
"""Leading bits of a value that are kept."""

LONGEST_MS = 86_400_000
"""Whatever took longer took a day."""


def bucket(ms: int) -> int:
    """The least value of the bucket that this falls into."""
    ms = min(max(ms, 0), LONGEST_MS)
    rest = max(0, ms.bit_length() - BITS)
    return ms >> rest << rest


def greatest(least: int) -> int:
    """The greatest value of the bucket whose least this is."""
    return least + (1 << max(0, least.bit_length() - BITS)) - 1


def percentiles(counts: Mapping[int, int], wanted: Sequence[float]) -> list[int]:
    """
    Values that so many percent are not over: never too low, at most a sixteenth too high.

    Args:
        counts: bucket → how many; not empty.
    """
    total, found = sum(counts.values()), []
    for percent in wanted:
        left = total * percent / 100
        for least in sorted(counts):
            left -= counts[least]
            if left <= 0:
                break
        found.append(greatest(least))
    return found
