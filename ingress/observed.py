"""
Around every request: counted, timed, and answered in JSON even where we are to blame.
"""

from __future__ import annotations

import functools
import time

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingress.refusal import Refused, answer
from streams import log as logs
from streams import metrics
from streams.counted import Count, Times

HEADERS = [(b"x-content-type-options", b"nosniff"), (b"cache-control", b"no-store")]
"""Of every answer; the last where it has none of its own."""

_log = logs.get("ingress")
_SECONDS = Times(metrics.REQUEST_SECONDS)


class Observed:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started, status, waited = time.perf_counter(), 0, False

        async def watch(message: Message) -> None:
            nonlocal status, waited
            if message["type"] == "http.response.start":
                status = message["status"]
                names = {name for name, _ in message["headers"]}
                message["headers"] += HEADERS if b"cache-control" not in names else HEADERS[:1]
                waited = b"preference-applied" in names
            await send(message)

        try:
            await self._app(scope, receive, watch)
        except ClientDisconnect:
            pass  # gone before its body was here: nobody to answer
        except Exception:
            _log.exception("request.failed", route=_route(scope))
            if status:
                raise
            await mistake()(scope, receive, watch)
        if status:
            count(_route(scope), status, None if waited else time.perf_counter() - started)


def mistake() -> Response:
    """What is said where we are to blame."""
    return answer(Refused(500, "internal", "a mistake of ours; the log has it"))


def count(route: str, status: int, seconds: float | None) -> None:
    """
    One request more.

    Args:
        seconds: it took; None where it waited for a reply.
    """
    _counter(route, status).inc()
    if seconds is not None:
        _SECONDS.observe(seconds)


@functools.cache
def _counter(route: str, status: int) -> Count:
    return Count(metrics.REQUESTS.labels(route, str(status)))


def _route(scope: Scope) -> str:
    return str(getattr(scope.get("route"), "path", "none"))
