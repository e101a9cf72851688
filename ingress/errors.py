"""
Errors that come up on the way, as answers: one shape for all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match

from ingress import chat
from ingress.pressure import Backlog
from ingress.refusal import Refused, answer
from streams import log as logs
from streams.errors import Unavailable

_log = logs.get("ingress")


def answered(error: Exception, route: str) -> Response:
    """
    What is said to one of EXPECTED; the log has it, too.

    Args:
        route: its pattern, for a path would tell who is meant.
    """
    refused = _refused(error)
    # Telling strangers apart from mistakes: who is turned away at the door, or by us, is worth a warning.
    ours = refused.status >= 500 and not refused.told
    level = _log.warning if refused.status in (401, 403) or ours else _log.info
    level("request.refused", route=route, status=refused.status, error=refused.code)
    return answer(refused)


def _refused(error: Exception) -> Refused:
    if isinstance(error, Unavailable):
        return chat.unavailable(error)
    if isinstance(error, Backlog):
        return Refused(503, "backlog", f"{error}; try again", headers={"Retry-After": "10"})
    assert isinstance(error, Refused)  # noqa: S101 - there are no others
    return error


async def expected(request: Request, error: Exception) -> Response:
    return answered(error, _route_of(request))


async def http(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, or not with this method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for it
    if error.status_code == 405:
        allowed = ", ".join(sorted(_methods(request)))
        detail = f"{request.method} is not for this route; it takes {allowed}"
        return await expected(request, Refused(405, "method_not_allowed", detail, headers={"Allow": allowed}))
    return await expected(request, Refused(404, "not_found", "there is no such route; docs/http.md lists them"))


EXPECTED = (Refused, Unavailable, Backlog)

HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    **dict.fromkeys(EXPECTED, expected),
    HTTPException: http,
}


def _route_of(request: Request) -> str:
    return str(getattr(request.scope.get("route"), "path", "none"))


def _methods(request: Request) -> set[str]:
    """All that any route takes at this path."""
    return {
        method
        for route in request.app.routes
        if route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
