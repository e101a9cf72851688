"""
Appointments: what became of what people asked for, from all that happened, in whatever order it was archived.

Two kinds of events.  A person *asks* (an action of the bot's reply: to book, to move, to cancel), which settles
nothing; n8n or staff *tells* (`metadata.appointment` of a message to the person: confirmed, moved, cancelled, …), which
does.  Pure: a person's appointments are always made anew from all of that person's events, oldest first, so it does not
matter which of them came first into the archive.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from streams import appointments
from streams.appointments import TOLD
from streams.tables import Archive

ASKED = ("book", "move", "cancel")
OVER = ("cancelled", "attended", "missed")


class Event(msgspec.Struct, kw_only=True):
    """Something that happened to an appointment."""

    stream: str
    shard: int
    entry: str
    at: Any
    """As the database has it; passed on, and never looked into."""
    user_id: str
    event: str
    """One of ASKED or TOLD."""
    ref: str | None = None
    """The appointment's id where it is kept: in a calendar, say."""
    slots: dict[str, Any] = {}
    conversation_id: str | None = None
    message_id: str | None = None
    """The message that caused it."""
    appointment: str | None = None
    """The one that it is part of; what `fold` finds out."""


class Appointment(msgspec.Struct, kw_only=True):
    """One row of `appointments`."""

    id: str
    user_id: str
    ref: str | None = None
    status: str = "requested"
    """What is settled: one of TOLD."""
    asked: str | None = None
    """What the person asked for that nobody has answered yet: one of ASKED."""
    asked_at: Any = None
    asked_by: str | None = None
    asked_slots: dict[str, Any] = {}
    slots: dict[str, Any] = {}
    conversation_id: str | None = None
    requested_at: Any = None
    requested_by: str | None = None
    confirmed_at: Any = None
    confirmed_by: str | None = None
    moved_at: Any = None
    moved_by: str | None = None
    cancelled_at: Any = None
    cancelled_by: str | None = None
    ended_at: Any = None
    ended_by: str | None = None
    """Attended, or missed."""
    updated_at: Any = None

    @property
    def day(self) -> str | None:
        """The slot `date`, where it is one."""
        return appointments.day(self.slots.get("date"))

    @property
    def hour(self) -> str | None:
        """The slot `time` as HH:MM, where it is one."""
        return appointments.hour(self.slots.get("time"))

    @property
    def speciality(self) -> str | None:
        found = self.slots.get("speciality")
        return found if isinstance(found, str) else None


def asked(action: str | None, names: Archive) -> str | None:
    """Which of ASKED an action of streams.toml is, by `[archive]`."""
    of = {"book": names.book, "move": names.move, "cancel": names.cancel}
    return next((kind for kind, actions in of.items() if action in actions), None)


def fold(events: Iterable[Event]) -> list[Appointment]:
    """
    One person's appointments from all of that person's events, whose `appointment` is set.

    Args:
        events: oldest first.
    """
    found: list[Appointment] = []
    for event in events:
        current = _meant(found, event)
        if current is None:
            current = Appointment(id=_name(event), user_id=event.user_id)
            found.append(current)
        if event.event in ASKED:
            _ask(current, event)
        else:
            _tell(current, event)
        current.updated_at = event.at
        event.appointment = current.id
    return found


def _meant(found: Sequence[Appointment], event: Event) -> Appointment | None:
    """Which appointment an event is about; None where it begins a new one."""
    if event.ref is not None:
        named = [each for each in found if each.ref == event.ref]
        if named:
            return named[-1]
    live = [each for each in found if each.status not in OVER]
    if event.event == "book":
        # What is said piece by piece in one conversation («una cita», «para el martes») is one request.
        same = [each for each in live if each.asked == "book" and each.conversation_id == event.conversation_id]
        return same[-1] if same else None
    if event.event == "requested":
        return None
    if event.ref is not None:
        live = [each for each in live if each.ref is None]
    that_day = [each for each in live if event.slots.get("date") and each.slots.get("date") == event.slots["date"]]
    unanswered = [each for each in live if event.event in TOLD and each.asked]
    return next((some[-1] for some in (that_day, unanswered, live) if some), None)


def _ask(current: Appointment, event: Event) -> None:
    if current.requested_at is None:
        current.requested_at, current.requested_by = event.at, event.message_id
        current.conversation_id = event.conversation_id
    if current.confirmed_at is None and current.moved_at is None and event.event == "cancel" and current.asked:
        # Nothing was booked yet, so there is nothing that anybody has to take back.
        current.status, current.asked, current.asked_slots = "cancelled", None, {}
        current.cancelled_at, current.cancelled_by = event.at, event.message_id
        return
    if current.asked == "book" and event.event == "move":
        current.slots |= event.slots  # not booked yet: it is the request that changes
        return
    current.asked, current.asked_at, current.asked_by = event.event, event.at, event.message_id
    current.asked_slots = event.slots
    if event.event == "book":
        current.slots |= event.slots
        current.asked_slots = dict(current.slots)


def _tell(current: Appointment, event: Event) -> None:
    current.status = event.event
    current.asked, current.asked_at, current.asked_by, current.asked_slots = None, None, None, {}
    current.slots |= event.slots
    current.ref = event.ref or current.ref
    which = "ended" if event.event in ("attended", "missed") else event.event
    setattr(current, f"{which}_at", event.at)
    setattr(current, f"{which}_by", event.message_id)
    if event.event == "requested":
        current.asked, current.asked_at, current.asked_by = "book", event.at, event.message_id


def _name(event: Event) -> str:
    """After the event that began it: `outbound/1728123456789-0`."""
    shard = f".s{event.shard}" if event.shard else ""
    return f"{event.stream}/{event.entry}{shard}"
