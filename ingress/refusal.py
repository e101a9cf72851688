"""
How the ingress says no, and how it answers at all: JSON, on every route, for every status.

Knows the shape of an error (`{"error", "detail"}`).  Each code is written where it is raised; docs/http.md lists them,
and a test compares the two.  A detail names the field and what is accepted, never a secret and never a traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from streams import wire
from streams.errors import CauceError


class Refused(CauceError):
    """
    A request that is answered with an error.

    Args:
        status: HTTP's.
        code: for programs; one row of docs/http.md.
        detail: for people.
        told: the log has said why already, once for all requests.
        more: further fields of the answer.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        told: bool = False,
        **more: Any,
    ) -> None:
        super().__init__(detail)
        self.told = told
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        self.body = {"error": code, "detail": detail, **more}


class Json(Response):
    """A struct or plain value as JSON; bytes are JSON already and pass unchanged."""

    media_type = "application/json"

    def __init__(self, content: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content if isinstance(content, bytes) else wire.encode(content), status, headers)


def answer(refused: Refused) -> Json:
    return Json(refused.body, refused.status, refused.headers)
