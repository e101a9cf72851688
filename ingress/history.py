"""
GET /chat/history/{user_id}: the conversation as it lies in Redis, byte for byte but for its `status`.

That one is as of now: a pause is a key of its own, and the conversation learns of it with its next message.  Reading
extends no lifetime.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ingress.chat import person
from ingress.refusal import Json, Refused
from streams import wire
from streams.stores import Stores
from streams.topology import Topology


class History:
    """Reads conversations."""

    def __init__(self, stores: Stores, topology: Topology) -> None:
        self._stores = stores
        self._topology = topology

    async def read(self, request: Request) -> Response:
        user_id = person(request.path_params["user_id"], self._topology)
        store = self._stores.of(user_id)
        # MGET takes a key of another type for none.
        conversation, paused = await store.command(
            "MGET", store.keys.of("conversation", user_id), store.keys.of("paused", user_id)
        )
        if conversation is None:
            raise Refused(404, "no_conversation", "this person has no conversation, or it has expired")
        return Json(as_of_now(conversation, paused=paused is not None))


def as_of_now(conversation: bytes, *, paused: bool) -> bytes:
    """A stored conversation with the status that it has now; unchanged where it says so already, or is no JSON."""
    try:
        fields = msgspec.json.decode(conversation, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return conversation
    status = b'"paused"' if paused else b'"active"'
    if bytes(fields.get("status", b'"active"')) == status:
        return conversation
    return wire.encode(fields | {"status": msgspec.Raw(status)})
