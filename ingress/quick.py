"""
POST /chat as it nearly always comes, past what costs more than the message: a task, ASGI, routing.

Decides nothing that the route does not: where a header asks for more than the usual, where there may be no room, or
anything at all is wrong with the body, the route gets the request and answers.
"""

from __future__ import annotations

import asyncio
import time
from contextvars import Context
from typing import NamedTuple

from starlette.routing import Route

from ingress import access, errors, observed
from ingress.access import Access
from ingress.append import Appended
from ingress.brief import Answer, Given, Headers, Then
from ingress.chat import Chat, Said
from streams import log as logs
from streams import wire
from streams.wire import Inbound

_ONCE = frozenset({b"host", b"content-type", b"traceparent", b"authorization", b"x-api-key"})
_UNUSUAL = frozenset({b"prefer", b"idempotency-key", b"origin", b"content-encoding", b"transfer-encoding", b"expect"})
_JSON = (b"application/json", b"application/json; charset=utf-8")
_HEADERS = [(b"content-type", b"application/json"), *observed.HEADERS]
_log = logs.get("ingress")


class _Asked(NamedTuple):
    """A request that was taken."""

    inbound: Inbound
    began: float
    then: Then


class Quick:
    """
    What protocol.py asks before it makes a request of it.

    Args:
        route: that of POST /chat, under which its requests are counted.
    """

    def __init__(self, chat: Chat, doorkeeper: Access, route: Route) -> None:
        self._chat, self._doorkeeper, self._route = chat, doorkeeper, route.path
        self._url = route.path.encode()

    def heed(self, method: bytes, url: bytes, headers: Headers) -> Given | None:
        """What matters of the headers, where it is one for us by its head."""
        given = _usual(headers) if url == self._url and method == b"POST" else None
        return given if given is not None and self._doorkeeper.knows(given) else None

    def take(self, given: Given, body: bytes, then: Then) -> bool:
        """Answer to `then`, soon; False: nothing was done, for the route has to."""
        began = time.perf_counter()
        trace = wire.trace_from(given.get(b"traceparent", b"").decode("latin-1"))
        try:
            inbound = self._chat.inbound(access.decode(body, Said))
            appending = self._chat.appending(inbound, trace)
        except Exception:  # said by the route, be it a refusal or a mistake of ours
            return False
        if appending is None:
            return False
        context = Context()
        context.run(logs.trace.set, trace)
        asked = _Asked(inbound, began, then)
        appending.add_done_callback(lambda done: self._answer(asked, done), context=context)
        return True

    def _answer(self, asked: _Asked, done: asyncio.Future[list[Appended]]) -> None:
        try:
            answer = Answer(202, _HEADERS, self._chat.accepted(asked.inbound, done))
        except Exception as error:
            answer = self._refusal(error)
        asked.then(answer)
        observed.count(self._route, answer.status, time.perf_counter() - asked.began)

    def _refusal(self, error: Exception) -> Answer:
        if isinstance(error, errors.EXPECTED):
            response = errors.answered(error, self._route)
        else:
            _log.exception("request.failed", route=self._route)
            response = observed.mistake()
        answer = Answer.of(response)
        return answer._replace(headers=[*answer.headers, *observed.HEADERS])


def _usual(headers: Headers) -> Given | None:
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
