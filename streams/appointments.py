"""
What n8n and staff say of an appointment, in `metadata.appointment`: its shape, for the door and for the archive.

`{"status": "confirmed", "id": "cal-17", "date": "2025-10-07", "time": "15:00", …}`: without `status` it is confirmed;
slots stand beside them, or in `slots`.  Pure.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Any

TOLD = ("requested", "confirmed", "moved", "cancelled", "attended", "missed")
"""What may be said of one."""

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)(:[0-5]\d)?")


def day(value: object) -> str | None:
    """A slot `date` as YYYY-MM-DD, where it is one."""
    try:
        return date.fromisoformat(str(value)[:10]).isoformat()
    except ValueError:
        return None


def hour(value: object) -> str | None:
    """A slot `time` as HH:MM, where it is one."""
    found = _TIME.fullmatch(str(value))
    return f"{int(found[1]):02}:{found[2]}" if found else None


def wrong(given: object) -> str | None:
    """Which field of it the archive could not keep, and what it must be; None where it can keep it all."""
    if given is None:
        return None
    if not isinstance(given, dict):
        return "`metadata.appointment` must be an object"
    if given.get("status", "confirmed") not in TOLD:
        return f"`metadata.appointment.status` must be one of {', '.join(TOLD)}"
    slots = given.get("slots")
    if not isinstance(slots, (dict, type(None))):
        return "`metadata.appointment.slots` must be an object"
    for where, of in (("", given), ("slots.", slots or {})):
        if of.get("date") is not None and day(of["date"]) is None:
            return f"`metadata.appointment.{where}date` must be a day, 2025-10-07"
        if of.get("time") is not None and hour(of["time"]) is None:
            return f"`metadata.appointment.{where}time` must be a time of day, 15:00"
    return None


def told(metadata: dict[str, Any]) -> tuple[str, str | None, dict[str, Any]] | None:
    """The event, the calendar's id, and the slots; None where nothing is said of one."""
    given = metadata.get("appointment")
    if not isinstance(given, dict):
        return None
    status = given.get("status", "confirmed")
    if status not in TOLD:
        return None
    ref = given.get("id")
    slots = {name: value for name, value in given.items() if name not in ("status", "id", "slots")}
    if isinstance(given.get("slots"), dict):
        slots |= given["slots"]
    return status, None if ref in (None, "") else str(ref), slots
