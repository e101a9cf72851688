"""
What has arrived in a turn: its entries decoded, put in order, and said in words.

Knows WhatsApp's kinds of message and what can be read of each.  Knows nothing of limits, of models, or of what is
answered.
"""

from __future__ import annotations

from typing import Any

import msgspec

from streams.effects import Turn
from streams.errors import Malformed
from streams.wire import Inbound

STAFF = "staff"
"""The entry type of what n8n or staff said to the person."""

SILENT = ("reaction", "unsupported", "unknown", "system", "ephemeral", "errors", "request_welcome")
"""Kinds that say nothing: they start no reply and enter no history."""

_NAMES = {
    "audio": "audio", "voice": "audio", "image": "imagen", "video": "video", "sticker": "sticker",
    "document": "documento", "location": "ubicación", "contacts": "contacto", "order": "pedido",
}  # fmt: skip
_PLAIN = ("text", "button", "interactive")
"""Kinds whose text stands for itself: what was written, or the title of what was pressed."""

_READ_WITHOUT_WORDS = ("location", "contacts")
"""Kinds whose description tells the model enough to answer."""


class Arrival(msgspec.Struct, frozen=True, kw_only=True):
    """One message of a turn."""

    entry: str
    inbound: Inbound
    said_at: float
    """The sender's clock, or Redis's where the sender gave no usable time; Unix seconds."""
    count: int | None = None
    """The how-many-th of its person's rate window; None where it was not counted."""

    @property
    def from_person(self) -> bool:
        return self.inbound.role == "user"

    @property
    def words(self) -> str:
        """What the model and the history get to read."""
        return describe(self.inbound)

    @property
    def readable(self) -> bool:
        """False for a voice message, a sticker, a picture without a caption: nothing to answer to."""
        return bool(self.inbound.text.strip()) or self.inbound.kind in _READ_WITHOUT_WORDS


def read(turn: Turn, *, legible_only: bool = False) -> list[Arrival]:
    """
    The turn's messages that say something, in the order in which they were sent.

    The sender's timestamps decide where every message has one, else the entries' ids; of two messages of one second
    the earlier entry comes first.

    Raises:
        Malformed: an entry's body is not one of ours; with `legible_only` it is passed over.
    """
    arrived = []
    for message in turn.messages:
        try:
            inbound = message.decode(Inbound)
        except Malformed:
            if not legible_only:
                raise
            continue
        said_at = _seconds(inbound.sent_at, message.at_ms)
        arrived.append(Arrival(entry=message.id, inbound=inbound, said_at=said_at, count=message.count))
    if all(arrival.inbound.sent_at is not None for arrival in arrived):
        arrived.sort(key=lambda arrival: arrival.said_at)
    return [arrival for arrival in arrived if arrival.inbound.kind not in SILENT]


def describe(inbound: Inbound) -> str:
    """A message as text: its words, or for anything else a short description such as `[imagen: pie]`."""
    words = inbound.text.strip()
    if inbound.kind in _PLAIN:
        return words or f"[{inbound.kind}]"
    name = _NAMES.get(inbound.kind, inbound.kind)
    detail = words or _detail(inbound.kind, inbound.content or {})
    return f"[{name}: {detail}]" if detail else f"[{name}]"


def _detail(kind: str, content: Any) -> str:
    """The most telling field of Meta's content; whatever shape it really has, text comes out."""
    if isinstance(content, dict) and isinstance(content.get(kind), (dict, list)):
        content = content[kind]
    if kind == "contacts":
        cards = content.get("contacts", []) if isinstance(content, dict) else content
        return ", ".join(name for card in cards[:5] if (name := _contact(card))) if isinstance(cards, list) else ""
    if not isinstance(content, dict):
        return ""
    if kind == "location":
        place = content.get("name") or content.get("address")
        if not place and {"latitude", "longitude"} <= content.keys():
            place = f"{content['latitude']}, {content['longitude']}"
        return _line(place)
    return _line(content.get("filename"))


def _contact(card: Any) -> str:
    name = card.get("name") if isinstance(card, dict) else None
    return _line(name.get("formatted_name")) if isinstance(name, dict) else ""


def _line(value: Any) -> str:
    return " ".join(str(value).split())[:200] if value else ""


def _seconds(sent_at: float | None, entry_ms: int) -> float:
    """A sender's clock may hold anything; a year that no calendar has must not stop a reply."""
    return sent_at if sent_at is not None and 0 <= sent_at < 4e9 else entry_ms / 1000
