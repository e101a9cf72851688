"""
Entries of the streams as rows of the archive: what of an entry is kept, and in which column.

Pure.  Knows the shapes of wire.py and what no database takes (a NUL, half an emoji, the year 60000); knows no SQL.
A row's identity is where its entry first came: stream, shard and id, so whatever is archived twice is one row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from streams.effects import Message, Turn
from streams.errors import Malformed
from streams.wire import Delivery, Inbound, Reply, Status

LATEST_MS = 4_102_444_800_000
"""The year 2100: an entry's id is a time by Redis's clock, unless somebody has made it up."""


class Row(msgspec.Struct, kw_only=True, frozen=True):
    """What every entry has."""

    at: str
    """By its id, when Redis first took it: UTC, ISO 8601."""
    stream: str
    shard: int
    entry: str
    user_id: str

    @property
    def identity(self) -> tuple[str, int, str]:
        return self.stream, self.shard, self.entry


class Said(Row, kw_only=True, frozen=True):
    """`messages`: what people wrote, and what n8n or staff said to them."""

    message_id: str
    role: str
    kind: str
    text: str
    sent_at: str | None
    name: str | None
    wa_id: str | None
    context: str | None
    content: str | None
    metadata: str | None


class Replied(Row, kw_only=True, frozen=True):
    """`replies`: what the bot said."""

    reply_id: str
    source: str
    message: str
    action: str | None
    slots: str | None
    conversation_id: str | None
    in_reply_to: str
    created_at: str
    wa_id: str | None
    metadata: str | None


class Reported(Row, kw_only=True, frozen=True):
    """`statuses`: what WhatsApp says became of a message."""

    message_id: str
    status: str
    sent_at: str | None
    content: str | None
    metadata: str | None


class Delivered(Row, kw_only=True, frozen=True):
    """`deliveries`: what became of a reply at the webhook."""

    reply_id: str
    type: str
    outcome: str
    status: int | None
    attempts: int
    parts: int
    why: str | None


TABLES: dict[type[Row], str] = {
    Said: "messages", Replied: "replies", Reported: "statuses", Delivered: "deliveries"
}  # fmt: skip
"""Those with a row for each entry."""


def said(turn: Turn, stream: str) -> list[Row]:
    """Raises Malformed, as all of these: an entry is not one of ours."""

    def columns(told: Inbound) -> dict[str, Any]:
        return {
            "user_id": told.user_id,
            "message_id": told.message_id,
            "role": told.role,
            "kind": told.kind,
            "text": told.text,
            "sent_at": moment(told.sent_at),
            "name": told.name,
            "wa_id": told.wa_id,
            "context": _json(told.context),
            "content": _json(told.content),
            "metadata": _json(told.metadata),
        }

    return _rows(turn, stream, Inbound, Said, columns)


def replied(turn: Turn, stream: str) -> list[Row]:
    """What is on its way to a person; not that somebody is typing, nor what was handed to staff."""

    def columns(told: Reply) -> dict[str, Any] | None:
        if told.type != "reply":
            return None
        return {
            "user_id": told.user_id,
            "reply_id": told.id,
            "source": told.source,
            "message": told.message,
            "action": told.action,
            "slots": _json(told.slots),
            "conversation_id": told.conversation_id,
            "in_reply_to": _json(told.in_reply_to) or "[]",
            "created_at": told.created_at,
            "wa_id": told.wa_id,
            "metadata": _json(told.metadata),
        }

    return _rows(turn, stream, Reply, Replied, columns)


def reported(turn: Turn, stream: str) -> list[Row]:
    def columns(told: Status) -> dict[str, Any]:
        return {
            "user_id": told.recipient_id or "",
            "message_id": told.message_id,
            "status": told.status,
            "sent_at": moment(told.sent_at),
            "content": _json(told.content),
            "metadata": _json(told.metadata),
        }

    return _rows(turn, stream, Status, Reported, columns)


def delivered(turn: Turn, stream: str) -> list[Row]:
    def columns(told: Delivery) -> dict[str, Any]:
        return {
            "user_id": told.user_id,
            "reply_id": told.reply_id,
            "type": told.type,
            "outcome": told.outcome,
            "status": told.status,
            "attempts": told.attempts,
            "parts": told.parts,
            "why": told.why or None,
        }

    return _rows(turn, stream, Delivery, Delivered, columns)


def moment(seconds: float | None) -> str | None:
    """Unix seconds as the archive writes times; None where no calendar has them."""
    if seconds is None or not math.isfinite(seconds) or not 0 <= seconds * 1000 < LATEST_MS:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def month(at: str) -> str:
    """`2025-10-05T10:00:05.123Z` → `2025-10`"""
    return at[:7]


def _rows(
    turn: Turn, stream: str, shape: type[Any], row: type[Row], columns: Callable[[Any], dict[str, Any] | None]
) -> list[Row]:
    found = []
    for message in turn.messages:
        told = columns(message.decode(shape))
        if told is not None:
            at, entry = _at(message), message.origin or message.id
            found.append(row(at=at, stream=stream, shard=turn.shard or 0, entry=entry, **_clean(told)))
    return found


def _at(message: Message) -> str:
    at = moment(message.at_ms / 1000)
    if at is None:
        raise Malformed("its id is no time that a calendar has", entry=message.id)
    return at


def _json(value: Any) -> str | None:
    return msgspec.json.encode(_clean(value)).decode() if value else None


def _clean(value: Any) -> Any:
    """Without NUL, which PostgreSQL has no place for, and without halves of surrogate pairs, which are no UTF-8."""
    if isinstance(value, str):
        if "\0" in value:
            value = value.replace("\0", "\ufffd")
        return value if value.isascii() else value.encode(errors="replace").decode()
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(item) for item in value]
    return value
