"""
Durations and points in time, as people write them: "1.5s", "2h", "2025-10-05", "2025-10-05T14:00".

Pure: whoever asks brings the clock and the time zone.
"""

from __future__ import annotations

import re
from datetime import datetime, tzinfo

from streams.errors import ConfigurationError
from streams.tables import Seconds

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 365 * 86400}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w|y)")
_ENTRY = re.compile(r"0|\d{13}|\d{1,15}-\d{1,20}")
"""An entry's id, or the milliseconds of one."""

_DATE = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d.*)?")
"""Not all that `fromisoformat` takes: 20251005 is more likely a slip."""


def seconds(value: object) -> Seconds:
    """
    A duration as seconds: 2, 0.5, "1.5s", "10m", "7d".

    Raises:
        ValueError: it is none; the text says what is accepted.
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value < float("inf"):
        return Seconds(float(value))
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return Seconds(float(match[1]) * _UNITS[match[2]])
    raise ValueError('is no duration; write seconds (2, 0.5) or "500ms", "10s", "5m", "2h", "7d", "2y"')


def date(text: str, zone: tzinfo | None) -> float:
    """
    A date, or a date and time, as Unix seconds.

    Args:
        zone: in which it is meant, where it names none itself; None: this machine's.

    Raises:
        ValueError: it is none.
    """
    if not _DATE.fullmatch(text):
        raise ValueError("is no date; write 2025-10-05 or 2025-10-05T14:00")
    told = datetime.fromisoformat(text)
    try:
        return (told if told.tzinfo else told.replace(tzinfo=zone)).timestamp()
    except (OverflowError, OSError) as error:
        raise ValueError("is no date that there has been") from error


def moment(text: str, now: float, zone: tzinfo | None = None) -> float:
    """
    "2h" (ago), or a date, as Unix seconds.

    Raises:
        ValueError: it is neither.
    """
    try:
        return now - seconds(text)
    except ValueError:
        return date(text, zone)


def fixed(text: str) -> bool:
    """Whether it is the same time whenever it is said: a date or an entry's id, and not "2h" (ago) or `now`."""
    return text != "now" and not _DURATION.fullmatch(text.strip())


def local(ms: float, zone: tzinfo | None) -> datetime:
    """
    When milliseconds of Redis were, by the clock by which `date` means what is typed.

    Args:
        zone: as `date` has it.
    """
    return datetime.fromtimestamp(ms / 1000, zone)


def edge(option: str, text: str, now: float, zone: tzinfo | None) -> str:
    """
    Where a range of entries begins or ends: "2h" (ago), a date, `now` and `start` as milliseconds; an entry's id as it
    is.

    Args:
        option: of the command line, for the error.
        now: Redis's clock, Unix seconds.
        zone: as `date` has it.

    Raises:
        ConfigurationError: it is none of these.
    """
    if _ENTRY.fullmatch(text):
        return text
    if text in ("now", "start"):
        return str(int(now * 1000) if text == "now" else 0)
    try:
        at = moment(text, now, zone)
    except ValueError:
        raise ConfigurationError(
            f"{option} {text!r} is no time: write 2h, 7d, 2025-10-05T14:00, now, start, or an entry's id"
        ) from None
    return str(max(0, int(at * 1000)))


def span(ms: float) -> str:
    """How long something took: "31 ms", "2.74 s", "12.5 min"."""
    if abs(ms) < 1000:
        return f"{ms:.0f} ms"
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000)):
        if abs(ms) >= 2 * size:
            return f"{ms / size:.1f} {unit}"
    return f"{ms / 1000:.2f} s"
