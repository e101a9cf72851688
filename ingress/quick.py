"""
POST /chat as it nearly always comes, past what costs more than the message: routing, Starlette's request and response.

Decides nothing that the route does not: where a header asks for more than the usual, the body is not here in one piece,
or anything at all is wrong with it, the route gets the request with what was read of it, and answers.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingress import access, errors
from ingress.access import Access
from ingress.chat import Chat, Said
from ingress.pressure import Backlog
from ingress.refusal import Refused
from streams import log as logs
from streams import wire
from streams.errors import Unavailable

_ONCE = frozenset({b"host", b"content-type", b"traceparent", b"authorization", b"x-api-key"})
_UNUSUAL = frozenset({b"prefer", b"idempotency-key", b"origin", b"content-encoding", b"transfer-encoding"})
_JSON = (b"application/json", b"application/json; charset=utf-8")


class Quick:
    """
    ASGI middleware around the routes.

    Args:
        route: that of POST /chat, under which its requests are counted.
    """

    def __init__(self, app: ASGIApp, chat: Chat, doorkeeper: Access, route: Route) -> None:
        self._app, self._chat, self._doorkeeper, self._route = app, chat, doorkeeper, route

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self._route.path or scope["method"] != "POST":
            return await self._app(scope, receive, send)
        given = _usual(scope["headers"])
        if given is None or not self._doorkeeper.knows(given):
            return await self._app(scope, receive, send)
        message = await receive()
        inbound = None
        if message["type"] == "http.request" and not message.get("more_body"):
            try:
                inbound = self._chat.inbound(access.decode(message["body"], Said))
            except Refused:
                pass  # said by the route
        if inbound is None:
            return await self._app(scope, _again(message, receive), send)
        scope["path_params"], scope["route"] = {}, self._route
        try:
            trace = wire.trace_from(given.get(b"traceparent", b"").decode("latin-1"))
            logs.trace.set(trace)
            body = await self._chat.accept(inbound, trace)
        except (Refused, Unavailable, Backlog) as error:
            response = await errors.HANDLERS[type(error)](Request(scope), error)
            return await response(scope, receive, send)
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 202, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return None


def _usual(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes] | None:
    """What matters of the headers; None where they ask for more than the usual."""
    found: dict[bytes, bytes] = {}
    for name, value in headers:
        if name in _UNUSUAL or (name in _ONCE and name in found):
            return None
        found[name] = value
    small = found.get(b"content-length", b"")
    if not small.isdigit() or len(small) > 5 or found.get(b"content-type", _JSON[0]).lower() not in _JSON:
        return None
    return found if int(small) <= access.CHAT_BYTES else None


def _again(message: Message, receive: Receive) -> Receive:
    """What was received, once more."""
    given = [message]

    async def once_more() -> Message:
        return given.pop() if given else await receive()

    return once_more
