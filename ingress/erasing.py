"""
DELETE /chat/{user_id}: one person goes, everywhere.

Answers with the receipt, also where something could not be done; then it says what.  How it is done stands in
streams/erasure/erase.py.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ingress import access
from ingress.chat import person
from ingress.refusal import Json
from streams.erasure.erase import Erasure
from streams.settings import Settings
from streams.stores import Stores
from streams.topology import Topology

WITHIN = 20.0
"""Seconds for which a request waits for Redis to rewrite its files; a repeat tells whether it has ended well."""


class Erasing:
    """The route of one ingress."""

    def __init__(self, stores: Stores, topology: Topology, settings: Settings) -> None:
        self._stores, self._topology, self._settings = stores, topology, settings

    async def delete(self, request: Request) -> Response:
        """DELETE /chat/{user_id}"""
        user_id = person(request.path_params["user_id"], self._topology)
        await access.body_of(request, access.CHAT_BYTES)
        return Json(await Erasure(self._stores, self._topology, self._settings, user_id, within=WITHIN).run())
