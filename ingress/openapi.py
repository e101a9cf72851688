"""
GET /openapi.json: what every route takes and answers, for programs (OpenAPI 3.1).

Written by hand: one entry of OPERATIONS for each route, one of ERRORS for each code.  docs/http.md says the same to
people.  Tests hold it against the routes that there are, against that page, and against what a running ingress answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ingress import analytics, shapes
from ingress.refusal import Json
from ingress.shapes import Schema
from streams import people, wire
from streams.analytics import names
from streams.topology import Topology

JSON = "application/json"

ERRORS = {
    "malformed_http": (400, "no HTTP/1.1 request, or its headers are too long"),
    "malformed_json": (400, "no body, no JSON, no UTF-8, or nested without end"),
    "invalid_field": (400, "a field or parameter is missing or not what it should be"),
    "not_confirmed": (400, "without `?confirm=yes`"),
    "unauthorized": (401, "no token, or none that is known"),
    "bad_signature": (401, "`X-Hub-Signature-256` is not that of this body"),
    "operator_only": (403, "a sender's token where an operator's is needed"),
    "not_verified": (403, "`hub.verify_token` is not the one that is set here"),
    "foreign_origin": (403, "a browser on another site"),
    "foreign_host": (403, "without tokens: a name that is not this machine's"),
    "not_found": (404, "no such route, nor with such a `user_id` in it"),
    "unknown_message": (404, "nothing is known of this message, or of this person since then"),
    "no_conversation": (404, "nothing is known of this person, or it has expired"),
    "method_not_allowed": (405, "not with this method"),
    "request_timeout": (408, "the request was not here in time"),
    "message_id_reused": (409, "the same `message_id` with another text; nothing was appended"),
    "too_large": (413, "`most` is the limit"),
    "not_json": (415, "not said to be JSON in UTF-8, or compressed"),
    "not_whatsapp": (422, "JSON, but neither Meta's nor n8n's"),
    "rate_limited": (429, "this person writes too much"),
    "internal": (500, "a mistake of ours"),
    "busy": (503, "too many connections, or too many large bodies on their way"),
    "redis_unavailable": (503, "Redis is away or full; repeating with the same `message_id` is safe"),
    "backlog": (503, "the stream is full; nothing was appended"),
    "answer_lost": (503, "accepted, but the reply was lost on the way: repeat with the same `message_id`"),
    "not_ready": (503, "messages cannot be taken now"),
}
"""Code → status, and when."""

_EVERYWHERE = ("malformed_http", "request_timeout", "internal", "busy")
_KEYED = ("unauthorized", "foreign_host")
_BODY = ("malformed_json", "invalid_field", "too_large", "not_json")
_APPENDS = (*_BODY, "redis_unavailable", "backlog")

_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer", "minimum": 0}}}
_APPLIED = {
    "Preference-Applied": {
        "description": "How long the answer was held at most, where it was asked for.",
        "schema": {"type": "string", "pattern": "^wait=[0-9]+$"},
    }
}
_SENDER: list[Schema] = [{"sender": []}, {"senderKey": []}]
_OPERATOR: list[Schema] = [{"operator": []}, {"operatorKey": []}]
_NOBODY: list[Schema] = []

SECURITY = {
    "sender": {"type": "http", "scheme": "bearer", "description": "One of INGRESS_TOKENS or OPERATOR_TOKENS."},
    "senderKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same."},
    "operator": {"type": "http", "scheme": "bearer", "description": "One of OPERATOR_TOKENS."},
    "operatorKey": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same."},
    "meta": {
        "type": "apiKey",
        "in": "header",
        "name": "X-Hub-Signature-256",
        "description": "`sha256=` and the HMAC-SHA256 of the body in hexadecimal, with WHATSAPP_APP_SECRET.",
    },
}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _answer(description: str, schema: Schema | str, media: str = JSON, **more: Any) -> Schema:
    content = {media: {"schema": _ref(schema) if isinstance(schema, str) else schema}}
    return {"description": description, "content": content, **more}


def _error(*codes: str) -> Schema:
    return {"allOf": [_ref("Error"), {"properties": {"error": {"enum": list(codes)}}}]}


def _refusals(codes: Iterable[str]) -> dict[str, Schema]:
    """One answer for each status; its `error` is one of the codes."""
    by_status: dict[int, list[str]] = {}
    for code in sorted(codes, key=list(ERRORS).index):
        by_status.setdefault(ERRORS[code][0], []).append(code)
    found = {}
    for status, here in by_status.items():
        told = _answer("; ".join(f"`{code}`: {ERRORS[code][1]}" for code in here), _error(*here))
        found[str(status)] = told | ({"headers": _RETRY_AFTER} if status in (429, 503) else {})
    return found


def _parameter(where: str, name: str, schema: Schema, description: str, *, required: bool = False) -> Schema:
    required = required or where == "path"
    return {"name": name, "in": where, "required": required, "description": description, "schema": schema}


def _operation(
    summary: str,
    answers: dict[str, Schema],
    *errors: str,
    who: list[Schema],
    parameters: tuple[Schema, ...] = (),
    body: str = "",
    optional_body: bool = False,
) -> Schema:
    codes = {*errors, *_EVERYWHERE, *(_KEYED if who else ()), *(("operator_only",) if who is _OPERATOR else ())}
    found: Schema = {"summary": summary, "security": who, "parameters": list(parameters)}
    if body:
        found["requestBody"] = {"required": not optional_body, "content": {JSON: {"schema": _ref(body)}}}
    return found | {"responses": _refusals(codes) | answers}


def _writes(*arguments: Any, **more: Any) -> Schema:
    """Of a route that changes something, which no browser on another site may call."""
    return _operation(*arguments, "foreign_origin", **more)


_PERSON = _parameter("path", "user_id", shapes.USER_ID, "Who; a `+` is a plus.")
_TRACE = _parameter("header", "traceparent", {"type": "string"}, "W3C trace context; goes with the message.")
_KEY = _parameter(
    "header",
    "Idempotency-Key",
    {
        "type": "string",
        "maxLength": people.LONGEST_ID,
        "pattern": r"^[!-~\u00a1-\u00ff]([ -~\u00a0-\u00ff]*[!-~\u00a1-\u00ff])?$",
    },
    "The message's id, where the body has none.",
)
_PREFER = _parameter(
    "header", "Prefer", {"type": "string", "examples": ["wait=20"]}, "`wait=N`: hold the answer for the reply, N s."
)
_CURSOR = _parameter(
    "query",
    "cursor",
    {"type": "string", "pattern": r"^(([0-9]{1,19}|1[0-7][0-9]{18})(\.[0-9]{1,3})?)?$"},
    "That of the answer before; nothing or 0 begins.",
)
_MOMENT: Schema = {"type": "string", "pattern": analytics.MOMENT, "examples": ["7d", "2025-10-05"]}
_OF = _parameter("query", "of", {"type": "string", "pattern": analytics.NAME}, "Whose counts; nothing is analytics.")
_PERIOD = (
    _parameter("query", "since", _MOMENT, "So long ago, or a date and perhaps a time in TIMEZONE; nothing is 1d."),
    _parameter("query", "until", _MOMENT, "Likewise; nothing is now."),
    _parameter("query", "by", {"type": "string", "pattern": analytics.UNIT}, "How long a row is; nothing: as fits."),
    _OF,
)
_CONFIRM = _parameter("query", "confirm", {"const": "yes"}, "That it is meant.", required=True)
_HUB = (
    _parameter("query", "hub.mode", {"const": "subscribe"}, "What Meta wants.", required=True),
    _parameter("query", "hub.verify_token", {"type": "string"}, "WHATSAPP_VERIFY_TOKEN.", required=True),
    _parameter(
        "query", "hub.challenge", {"type": "string", "minLength": 1, "maxLength": 256}, "Comes back.", required=True
    ),
)
_ID: Schema = {"type": "string", "minLength": 1, "maxLength": people.LONGEST_ID}
_TIMELINE = (
    _parameter("path", "id", _ID, "A message's id of any kind, or a person."),
    _parameter("query", "user", shapes.USER_ID, "Whose message it is."),
    _parameter(
        "query",
        "since",
        {"type": "string", "pattern": r"^[0-9]{1,6}(\.[0-9]{1,6})?(ms|s|m|h|d|w)$"},
        "Of a person: 2h.",
    ),
    _parameter("query", "n", {"type": "integer", "minimum": 1, "maximum": 200}, "Of a person: the latest so many."),
    _parameter("query", "full", {"enum": ["yes", "no"]}, "`yes`: numbers and ids are not masked."),
)
_PLAIN: Schema = {"type": "string"}

OPERATIONS: dict[tuple[str, str], Schema] = {
    ("POST", "/chat"): _writes(
        "A message of a person; 202 as soon as Redis has it.",
        {
            "202": _answer("Redis has it; the reply comes by the webhook.", "Receipt", headers=_APPLIED),
            "200": _answer("Of a request that waits: what became of it.", "Answered", headers=_APPLIED),
        },
        *(*_APPENDS, "message_id_reused", "rate_limited", "answer_lost"),
        who=_SENDER,
        parameters=(_PREFER, _KEY, _TRACE),
        body="Said",
    ),
    ("POST", "/chat/{user_id}/messages"): _writes(
        "Something said to the person by n8n or by staff.",
        {"202": _answer("Redis has it.", "Receipt")},
        *(*_APPENDS, "message_id_reused", "not_found"),
        who=_SENDER,
        parameters=(_PERSON, _KEY, _TRACE),
        body="Told",
    ),
    ("POST", "/whatsapp"): _writes(
        "Meta's webhook, from Meta or through n8n: all of it, or, with 503, nothing.",
        {"200": _answer("Every message in it is in Redis, in its order.", "Taken")},
        *(*_APPENDS, "bad_signature", "not_whatsapp"),
        who=[*_SENDER, {"meta": []}],
        parameters=(_TRACE,),
        body="Webhook",
    ),
    ("GET", "/whatsapp"): _operation(
        "Meta asks whether this address is ours.",
        {"200": _answer("`hub.challenge`.", _PLAIN, "text/plain")},
        *("invalid_field", "not_verified"),
        who=_NOBODY,
        parameters=_HUB,
    ),
    ("GET", "/health/live"): _operation(
        "The process answers.",
        {"200": _answer("It lives.", shapes.record({"status": {"const": "live"}}))},
        who=_NOBODY,
    ),
    ("GET", "/health/ready"): _operation(
        "Can messages be taken now?",
        {"200": _answer("Yes.", shapes.record({"status": {"const": "ready"}}))},
        "not_ready",
        who=_NOBODY,
    ),
    ("GET", "/health"): _operation(
        "How Redis and each group do.",
        {
            "200": _answer("Messages can be taken.", "Picture"),
            "503": _answer(
                "They cannot.", {"allOf": [_ref("Picture"), _error("busy", "not_ready")]}, headers=_RETRY_AFTER
            ),
        },
        who=_OPERATOR,
    ),
    ("GET", "/chat/history/{user_id}"): _operation(
        "The conversation, with its status as of now.",
        {"200": _answer("As it lies in Redis.", "Conversation")},
        *("invalid_field", "no_conversation", "not_found", "redis_unavailable"),
        who=_OPERATOR,
        parameters=(_PERSON,),
    ),
    ("GET", "/timeline/{id}"): _operation(
        "What happened to a message, or to a person's latest ones.",
        {"200": _answer("Every step; of a person a line for each message.", "Timeline")},
        *("invalid_field", "unknown_message", "not_found", "redis_unavailable"),
        who=_OPERATOR,
        parameters=_TIMELINE,
    ),
    ("POST", "/chat/{user_id}/pause"): _writes(
        "A human takes over; the bot is silent.",
        {"200": _answer("Until when.", "Paused")},
        *(*_BODY, "not_found", "redis_unavailable"),
        who=_OPERATOR,
        parameters=(_PERSON,),
        body="Pause",
        optional_body=True,
    ),
    ("POST", "/chat/{user_id}/resume"): _writes(
        "The bot speaks again.",
        {"200": _answer("It does.", "Paused")},
        *("invalid_field", "too_large", "not_json", "not_found", "redis_unavailable"),
        who=_OPERATOR,
        parameters=(_PERSON,),
    ),
    ("DELETE", "/chat/{user_id}"): _writes(
        "Erases one person, everywhere; what they write afterwards is a new conversation.",
        {"200": _answer("What was there, without who it was.", "Erased")},
        *("invalid_field", "too_large", "not_json", "not_found", "redis_unavailable"),
        who=_OPERATOR,
        parameters=(_PERSON,),
    ),
    ("GET", "/model/info"): _operation(
        "What the live inference workers say of their model.",
        {"200": _answer("Nulls where there is no worker.", "Model")},
        "redis_unavailable",
        who=_OPERATOR,
    ),
    ("GET", "/metrics"): _operation(
        "Prometheus' text.", {"200": _answer("docs/metrics.md.", _PLAIN, "text/plain")}, who=_OPERATOR
    ),
    ("GET", "/analytics"): _operation(
        "What was counted, by minute, hour or day.",
        {"200": _answer("All of the period, and each row of it.", "Report")},
        *("invalid_field", "redis_unavailable"),
        who=_OPERATOR,
        parameters=_PERIOD,
    ),
    ("GET", "/openapi.json"): _operation(
        "This description.", {"200": _answer("OpenAPI 3.1.", {"type": "object"})}, who=_OPERATOR
    ),
    ("GET", "/"): _operation("A page for people.", {"200": _answer("HTML.", _PLAIN, "text/html")}, who=_OPERATOR),
    ("GET", "/redis/test"): _operation(
        "A write, a read and a deletion.",
        {"200": _answer("How it went.", "RedisTest")},
        "redis_unavailable",
        who=_OPERATOR,
    ),
    ("GET", "/redis/stats"): _operation(
        "What lies in Redis.", {"200": _answer("Numbers.", "RedisStats")}, "redis_unavailable", who=_OPERATOR
    ),
    ("GET", "/redis/conversations"): _operation(
        "Who has a conversation, page by page.",
        {"200": _answer("The last page's cursor is `0`.", "People")},
        *("invalid_field", "redis_unavailable"),
        who=_OPERATOR,
        parameters=(_CURSOR,),
    ),
    ("DELETE", "/redis/clear"): _writes(
        "Deletes this bot's keys and no others.",
        {"200": _answer("How many.", "Deleted")},
        *("not_confirmed", "redis_unavailable"),
        who=_OPERATOR,
        parameters=(_CONFIRM,),
    ),
}


def describe(routes: Iterable[Route], counted: Sequence[str] = ()) -> dict[str, Any]:
    """
    The document, of those operations that these routes serve.

    Args:
        counted: what GET /analytics can be asked of; none: what such a name looks like is told.
    """
    paths: dict[str, Schema] = {}
    for route in routes:
        for method in sorted((route.methods or set()) - {"HEAD"}):
            path = route.path_format
            paths.setdefault(path, {})[method.lower()] = _of_these(OPERATIONS[method, path], counted)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cauce: the ingress",
            "version": version("cauce"),
            "description": "Messages in, durably. `HEAD` goes where `GET` does; any other method is 405 with `Allow`.",
        },
        "paths": paths,
        "components": {"schemas": shapes.SCHEMAS, "securitySchemes": SECURITY},
    }


def _of_these(operation: Schema, counted: Sequence[str]) -> Schema:
    if not counted or _OF not in operation["parameters"]:
        return operation
    of = {**_OF, "schema": {"type": "string", "enum": ["", *counted]}}
    return {**operation, "parameters": [of if each is _OF else each for each in operation["parameters"]]}


class Description:
    """The page of one ingress."""

    def __init__(self, topology: Topology) -> None:
        self._counted = names(topology)
        self._document: bytes | None = None

    async def show(self, request: Request) -> Response:
        """GET /openapi.json"""
        if self._document is None:
            self._document = wire.encode(describe(request.app.routes, self._counted))
        return Json(self._document)
