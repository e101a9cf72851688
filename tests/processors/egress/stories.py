"""What the tests of egress are told with: replies, turns, and a process of the group."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from processors.egress import handler
from streams import topology, wire
from streams.connection import Store
from streams.effects import Message, Turn
from streams.settings import Secret, Settings
from streams.stores import Stores

NOW = 1_728_123_456.0
"""Unix seconds; all of these tests happen at this moment unless they say otherwise."""
SECRET = "whsec_cHJpbnRhYmxlLWJ5dGVzLW9mLWEtdGVzdC1zZWNyZXQ="
OLDER_SECRET = "whsec_YW4tb2xkZXItc2VjcmV0LW9mLXRoaXMtdGVzdC4uLi4="
ENTRY = "1728123456000-0"


def reply(**fields: Any) -> wire.Reply:
    usual: dict[str, Any] = {
        "id": "reply_1728123456789-0",
        "user_id": "+59112345678",
        "wa_id": "59112345678",
        "name": "Ana",
        "message": "¡Hola! Con gusto te ayudo a agendar una cita.",
        "action": "book",
        "slots": {"speciality": "cardiología"},
        "conversation_id": "conv_+59112345678_1728123456",
        "in_reply_to": ["wamid.ABC"],
        "created_at": "2024-10-05T10:17:36Z",
        "metadata": {"phone_number_id": "106540352242922"},
    }
    return wire.Reply(**(usual | fields))


def turn(resources: Any, body: wire.Reply | bytes, **fields: Any) -> Turn:
    """A turn of egress: one outbound entry, just appended."""
    raw = body if isinstance(body, bytes) else wire.encode(body)
    kind = "reply" if isinstance(body, bytes) else body.type
    message = Message(
        id=fields.pop("entry", ENTRY), type=kind, body=raw, door=fields.pop("door", None), trace=fields.pop("trace", "")
    )
    usual = {"group": "egress", "key": "+59112345678", "now_ms": int(NOW * 1000)}
    return Turn(messages=[message], resources=resources, **(usual | fields))


def pipeline(**egress: Any) -> topology.Topology:
    """A topology with this `[egress]` table."""
    group = {"reads": "outbound", "handler": "processors.egress.handler:deliver", "turn_max": 1}
    return topology.parse({"streams": {"outbound": {}}, "groups": {"egress": group}, "egress": egress})


def settings(url: str | None, **fields: Any) -> Settings:
    usual = {"outbound_secret": (Secret(SECRET),)}
    return Settings(outbound_url=Secret(url) if url else None, **(usual | fields))


@asynccontextmanager
async def process(
    store: Store, url: str | None, *, egress: dict[str, Any] | None = None, **fields: Any
) -> AsyncIterator[handler.Resources]:
    """What one egress process has open."""
    plan = pipeline(**(egress or {}))
    where = settings(url, **fields)
    async with handler.opened(plan.group("egress"), plan, where, Stores.alone(store), clock=lambda: NOW) as resources:
        yield resources
