"""
GET /chat/history/{user_id}: the conversation as it lies in Redis, byte for byte.

Reading extends no lifetime and decodes nothing.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ingress.chat import person
from ingress.refusal import Json, Refused
from streams.connection import Store
from streams.topology import Topology


class History:
    """Reads conversations."""

    def __init__(self, store: Store, topology: Topology) -> None:
        self._store = store
        self._topology = topology

    async def read(self, request: Request) -> Response:
        user_id = person(request.path_params["user_id"], self._topology)
        conversation = await self._store.command("GET", self._store.keys.of("conversation", user_id))
        if conversation is None:
            raise Refused(404, "no_conversation", "this person has no conversation, or it has expired")
        return Json(conversation)
