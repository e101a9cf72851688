"""
The conversation as Redis keeps it: read, continued, written back.

Knows the JSON of `conversation:<user>` and `conversation_meta:<user>`, and nothing of who speaks next.  Pure: the
bytes come with the turn and leave as writes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Literal

import msgspec

from processors.inference import arrivals
from streams.effects import Turn, Write
from streams.wire import Inbound

MAX_BYTES = 128 * 1024
"""A conversation over this loses its oldest messages: it is read and written with every turn."""

Status = Literal["active", "paused"]


class Said(msgspec.Struct, kw_only=True):
    """One message of a conversation."""

    message_id: str
    role: Literal["user", "assistant", "system"]
    content: str
    timestamp: str
    """UTC, `YYYY-MM-DDTHH:MM:SS`; of a person's message the sender's clock."""
    metadata: dict[str, Any] = {}
    """`source` (notice, failure, fallback) marks a text that no model wrote: it is kept out of the prompt."""


class Conversation(msgspec.Struct, kw_only=True):
    """The value of `conversation:<user>`."""

    conversation_id: str
    user_id: str
    status: str = "active"
    created_at: str
    updated_at: str
    messages: list[Said] = []
    metadata: dict[str, Any] = {}


class Meta(msgspec.Struct, kw_only=True):
    """The value of `conversation_meta:<user>`."""

    last_activity: str
    message_count: int
    """All messages, also those that the conversation no longer holds."""


_conversation, _meta = msgspec.json.Decoder(Conversation), msgspec.json.Decoder(Meta)


class Past(msgspec.Struct, kw_only=True):
    """What was said before this turn."""

    conversation: Conversation
    count: int
    new: bool = False
    corrupt: bool = False
    """Something lay in Redis that is no conversation; a new one takes its place."""
    saved: int = 0
    """All messages with those that `remember` added."""

    def without_repeats(self, said: list[Said]) -> list[Said]:
        """Those not in the conversation yet: a turn that was buried and put back finds its messages there."""
        known = {message.message_id for message in self.conversation.messages}
        return [message for message in said if message.message_id not in known]

    def begun_in_steps(self, max_messages: int) -> list[Said]:
        """
        The messages for a prompt; of a conversation that is full, without up to a quarter, the oldest.

        So a prompt begins as the last one did until a quarter has gone.  Were the oldest to go one by one each would
        begin elsewhere, and nothing that was computed of the last one would serve the next.
        """
        messages = self.conversation.messages
        if len(messages) < max_messages:
            return messages
        before = self.count - len(messages)
        return messages[-before % max(1, max_messages // 4) :]


def resume(past: Past, rows: list[dict[str, Any]]) -> None:
    """Let a conversation that begins anew go on from what the archive has of it."""
    past.conversation.messages = [said for row in rows if (said := _archived(row))]
    past.count = len(past.conversation.messages)


def _archived(row: dict[str, Any]) -> Said | None:
    """A row of the archive as the conversation would have kept it; None where it said nothing."""
    if row["kind"] in arrivals.SILENT:
        return None
    metadata = dict(row["metadata"])
    if row["source"] in ("person", "staff", "model"):
        told = Inbound(user_id="", message_id="", kind=row["kind"], text=row["text"], content=row["content"])
        words = arrivals.describe(told)
    else:
        words, metadata = row["text"], metadata | {"source": row["source"]}
    at = row["at"][:19]
    return Said(message_id=row["message_id"], role=row["role"], content=words, timestamp=at, metadata=metadata)


def stamp(seconds: float) -> str:
    """Unix seconds as the conversation writes times."""
    return _stamp(int(seconds))


@lru_cache(maxsize=1024)
def _stamp(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def recall(turn: Turn) -> Past:
    """The conversation that came with the turn, or a new one."""
    raw, raw_meta = turn.state.get("conversation"), turn.state.get("conversation_meta")
    corrupt = False
    if raw is not None:
        try:
            conversation = _conversation.decode(raw)
            return Past(conversation=conversation, count=_count(raw_meta, len(conversation.messages)))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            corrupt = True
    now = turn.now_ms / 1000
    fresh = Conversation(
        conversation_id=f"conv_{turn.key}_{int(now)}", user_id=turn.key, created_at=stamp(now), updated_at=stamp(now)
    )
    return Past(conversation=fresh, count=0, new=True, corrupt=corrupt)


def _count(raw: bytes | None, least: int) -> int:
    try:
        return max(least, _meta.decode(raw).message_count) if raw else least
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return least


def remember(
    past: Past, said: list[Said], *, now: float, status: Status, ttl_seconds: int, max_messages: int
) -> list[Write]:
    """The writes that continue the conversation; their lifetime starts anew."""
    new = past.without_repeats(said)
    at = stamp(now)
    conversation = msgspec.structs.replace(
        past.conversation,
        status=status,
        updated_at=at,
        messages=[*past.conversation.messages, *new][-max_messages:],
    )
    past.saved = past.count + len(new)
    meta = Meta(last_activity=at, message_count=past.saved)
    return [
        Write(kind="conversation", value=_bounded(conversation), ttl_seconds=ttl_seconds),
        Write(kind="conversation_meta", value=msgspec.json.encode(meta), ttl_seconds=ttl_seconds),
    ]


def _bounded(conversation: Conversation) -> bytes:
    encoded = msgspec.json.encode(conversation)
    while len(encoded) > MAX_BYTES and len(conversation.messages) > 1:
        conversation.messages = conversation.messages[(len(conversation.messages) + 3) // 4 :]
        encoded = msgspec.json.encode(conversation)
    return encoded
