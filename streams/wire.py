"""
What travels on the streams: the shapes, and their way to bytes and back.

An entry is readable with `redis-cli XRANGE inbound - +`: `key` (the person), `type`, `body` (JSON), `v` (the body's
version) and `trace` (W3C traceparent).  Knows no Redis and no HTTP.  Old versions stay readable: a field is only ever
added, with a default; a change of meaning raises VERSION and gets a branch in `decode`.
"""

from __future__ import annotations

import random
import re
import secrets
import time
from typing import Any, Literal, TypeVar

import msgspec

from streams.errors import Malformed

VERSION = "1"

Role = Literal["user", "assistant", "system"]


class Inbound(msgspec.Struct, omit_defaults=True, kw_only=True):
    """One message to the bot, or something n8n or staff said to the person (`role` other than user)."""

    user_id: str
    message_id: str
    role: Role = "user"
    kind: str = "text"
    """WhatsApp's type: text, audio, image, interactive, location, reaction, unsupported, …"""
    text: str = ""
    """What was said: the text, a caption, the title of a pressed button; empty where there are no words."""
    sent_at: float | None = None
    """The sender's clock, Unix seconds; None where the sender gave none."""
    name: str | None = None
    wa_id: str | None = None
    context: dict[str, Any] | None = None
    content: dict[str, Any] | None = None
    """What Meta sent under the message's type (media ids, coordinates, button ids), unchanged."""
    metadata: dict[str, Any] = {}
    send: bool = False
    """For role assistant: deliver it to the person as well."""


class Reply(msgspec.Struct, kw_only=True):
    """One reply on `outbound`; the webhook's body but for `part` and `parts`, which egress adds when it splits."""

    id: str
    type: Literal["reply", "handover", "typing"] = "reply"
    source: Literal["model", "cache", "action", "fallback", "notice", "failure", "staff", "person"] = "model"
    user_id: str
    wa_id: str | None = None
    name: str | None = None
    message: str
    action: str | None = None
    slots: dict[str, Any] = {}
    conversation_id: str | None = None
    in_reply_to: list[str] = []
    created_at: str
    """UTC, `YYYY-MM-DDTHH:MM:SSZ`."""
    metadata: dict[str, Any] = {}


class Status(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What became of a message we sent (sent, delivered, read, failed), as Meta reports it."""

    message_id: str
    status: str
    recipient_id: str | None = None
    sent_at: float | None = None
    content: dict[str, Any] = {}
    """Meta's status object, unchanged."""
    metadata: dict[str, Any] = {}


class Delivery(msgspec.Struct, omit_defaults=True, kw_only=True):
    """What became of an entry of `outbound`; one for each, where egress `writes` them."""

    reply_id: str
    user_id: str
    type: str = "reply"
    outcome: Literal["delivered", "http", "unsent", "failed"]
    """The webhook took it; a waiting request did; there is no webhook; given up."""
    status: int | None = None
    """Of the webhook's last answer."""
    attempts: int = 1
    parts: int = 1
    why: str = ""
    """Why it was given up."""


_encoder = msgspec.json.Encoder()
_decoders: dict[type, msgspec.json.Decoder[Any]] = {}
T = TypeVar("T")


def encode(body: object) -> bytes:
    """A struct or plain value as compact UTF-8 JSON."""
    return _encoder.encode(body)


def decode(body: bytes, shape: type[T], version: str = VERSION) -> T:
    """
    A body back into its struct.

    Raises:
        Malformed: not JSON, not of this shape, or of a version this release does not know.
    """
    if version != VERSION:
        raise Malformed(f"body version {version!r} is newer than this release, which knows {VERSION!r}; update Cauce")
    decoder = _decoders.get(shape)
    if decoder is None:
        decoder = _decoders[shape] = msgspec.json.Decoder(shape)
    try:
        value: T = decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise Malformed(f"the body is no {shape.__name__}: {error}") from error
    return value


_random = random.Random(secrets.randbits(256))  # noqa: S311 - no secret
_NEITHER_IS_ZERO = 1 << 64 | 1
_MS = 12
"""Hexadecimal digits of a trace id that say when it was made, where it is ours."""
_TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


def new_trace() -> str:
    """
    A fresh W3C traceparent, sampled.  Its ids have to differ, and keep no secret.

    Its trace id begins with the time, as UUIDv7 does (RFC 9562, 5.7): no index remembers it, so it says when that was.
    """
    ids = f"{time.time_ns() // 1_000_000:0{_MS}x}{_random.getrandbits(144) | _NEITHER_IS_ZERO:036x}"
    return f"00-{ids[:32]}-{ids[32:]}-01"


def trace_ms(trace_id: str) -> int:
    """When a trace id of `new_trace` was made, by that process's clock; of somebody else's a number without meaning."""
    return int(trace_id[:_MS], 16)


def trace_from(header: str | None) -> str:
    """The caller's traceparent where it is a valid one (https://www.w3.org/TR/trace-context/), else a fresh one."""
    return header if header and _TRACEPARENT.fullmatch(header) else new_trace()
