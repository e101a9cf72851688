"""
The JSON that goes in and out, as schemas: what openapi.py points to.

Bodies come from the structs that read them, so a new field describes itself; beside each stands what the checks behind
the struct ask as well.  Knows no route and no status.
"""

from __future__ import annotations

from typing import Any, get_args

import msgspec

from ingress import access, whatsapp
from ingress.chat import LONGEST_PAUSE, Pause, Said, Told
from ingress.health import Picture
from streams import people
from streams.buckets import UNITS
from streams.story import timeline

Schema = dict[str, Any]

NO_CONTROL = r"\u0000-\u001f\u007f-\u009f"
BLANK = r"\u0009-\u000d\u001c-\u0020\u0085\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
"""What `str.strip` takes off; JavaScript's `\\s` is another set."""

USER_ID: Schema = {
    "type": "string",
    "minLength": 1,
    "maxLength": people.LONGEST,
    "pattern": f"^[^{BLANK}/{NO_CONTROL}]([^/{NO_CONTROL}]*[^{BLANK}/{NO_CONTROL}])?$",
    "description": "A telephone number in any spelling, or any other name of one person.",
    "examples": ["+59112345678"],
}
_MESSAGE_ID: Schema = {
    "type": ["string", "null"],
    "minLength": 1,
    "maxLength": people.LONGEST_ID,
    "pattern": f"^[^{NO_CONTROL}]+$",
    "description": "The same id of the same person is the same message, for eight days.",
}
_MESSAGE: Schema = {
    "type": "string",
    "pattern": rf"^[^\u0000]*[^{BLANK}\u0000][^\u0000]*$",
    "examples": ["Hola"],
}
_METADATA: Schema = {
    "type": ["object", "null"],
    "description": f"Comes back with the reply; at most {access.DEEPEST} levels deep.",
}
_TOLD_METADATA: Schema = _METADATA | {
    "description": f"{_METADATA['description']} `appointment` is the archive's: an object whose `status`, `date` and "
    "`time` are checked."
}
_TEXT: Schema = {"type": "string"}
_COUNT: Schema = {"type": "integer", "minimum": 0}
_NOTHING_OR_TEXT: Schema = {"type": ["string", "null"]}
_ANY: Schema = {"type": "object"}

_OUTCOME: Schema = {"enum": list(get_args(timeline.Outcome))}

ENTRY = {"type": "string", "pattern": r"^[0-9]+-[0-9]+$", "examples": ["1728123456789-0"]}


def record(required: Schema, **more: Schema) -> Schema:
    """An object; what is `required` is always there."""
    return {"type": "object", "properties": required | more, "required": list(required)}


def items_of(schema: Schema) -> Schema:
    return {"type": "array", "items": schema}


def named(schema: Schema) -> Schema:
    """An object with names of the pipeline's for keys."""
    return {"type": "object", "additionalProperties": schema}


def _body(struct: type, **told: Schema) -> Schema:
    """The struct's own schema, and what is asked besides."""
    schema: Schema = msgspec.json.schema_components([struct])[1][struct.__name__]
    schema["properties"] |= told
    return schema


_RECEIPT = {
    "status": {"const": "accepted"},
    "entry_id": ENTRY,
    "user_id": _TEXT,
    "message_id": _TEXT,
    "duplicate": {"type": "boolean"},
}
_ANSWER = {
    "reply": _NOTHING_OR_TEXT,
    "action": _NOTHING_OR_TEXT,
    "slots": _ANY,
    "conversation_id": _NOTHING_OR_TEXT,
    "into": ENTRY | {"description": "Of `merged`: the message whose request got the text."},
}
_ROW = record(
    {
        "start": _TEXT, "counts": named({"type": "integer"}), "distinct": named(_COUNT), "buried": named(_COUNT),
        "timings": named(record({"count": _COUNT, "p50": _COUNT, "p95": _COUNT, "p99": _COUNT})),
    }
)  # fmt: skip
_LISTS = ("messages", "statuses", "errors")
_ITEM: Schema = {
    "type": "object",
    "anyOf": [
        {"required": ["object", "entry"], "properties": {"object": _TEXT, "entry": {"type": "array"}}},
        {"required": ["field"], "properties": {"field": _TEXT}},
        *({"required": [name], "properties": {name: {"type": "array"}}} for name in _LISTS),
        {"required": ["messaging_product"], "properties": {"messaging_product": {"const": "whatsapp"}}},
    ],
    "description": "Meta's whole webhook, one of its changes, or an item of n8n's WhatsApp Trigger.",
}

SCHEMAS: dict[str, Schema] = {
    "Said": _body(Said, user_id=USER_ID, message=_MESSAGE, message_id=_MESSAGE_ID, metadata=_METADATA),
    "Told": _body(Told, message=_MESSAGE, message_id=_MESSAGE_ID, metadata=_TOLD_METADATA)
    | {"not": {"properties": {"role": {"const": "system"}, "send": {"const": True}}, "required": ["role", "send"]}},
    "Pause": _body(Pause, seconds={"type": ["number", "null"], "minimum": 1, "maximum": LONGEST_PAUSE}),
    "Webhook": {
        "anyOf": [
            {"$ref": "#/components/schemas/Item"},
            {"type": "array", "maxItems": 0},
            {"type": "array", "contains": {"$ref": "#/components/schemas/Item"}},
        ],
        "description": f"At most {whatsapp.MOST} messages and statuses.",
    },
    "Item": _ITEM,
    "Receipt": record(_RECEIPT),
    "Answered": record(
        _RECEIPT | {"status": {"enum": ["replied", "merged", "paused", "failed", "delivered", "erased"]}}, **_ANSWER
    ),
    "Taken": record(
        {"accepted": _COUNT, "duplicates": _COUNT, "statuses": _COUNT, "ignored": _COUNT, "entry_ids": items_of(ENTRY)}
    ),
    "Paused": record({"user_id": _TEXT, "paused": {"type": "boolean"}, "until": _NOTHING_OR_TEXT}),
    "Erased": record(
        {"status": {"enum": ["erased", "incomplete"]}, "digest": _TEXT, "at": _TEXT, "counts": named(_COUNT)},
        rewritten=items_of(_TEXT),
        left=items_of(_TEXT) | {"description": "What could not be done, and why; a repeat goes on."},
        notes=items_of(_TEXT) | {"description": "Where else it may lie, out of reach."},
    ),
    "Conversation": record(
        {"conversation_id": _TEXT, "user_id": _TEXT, "status": {"enum": ["active", "paused"]}},
        created_at=_TEXT,
        updated_at=_TEXT,
        messages=items_of(
            record(
                {"message_id": _TEXT, "role": {"enum": ["user", "assistant", "system"]}, "content": _TEXT},
                timestamp=_TEXT,
                metadata=_ANY,
            )
        ),
        metadata=_ANY,
    ),
    "Picture": _body(
        Picture,
        status={"enum": ["ok", "degraded"]},
        redis={"enum": ["ok", "full", "refusing", "unreachable"]},
    ),
    "Model": record(
        {"name": _NOTHING_OR_TEXT, "workers": _COUNT},
        dtype=_NOTHING_OR_TEXT,
        device=_NOTHING_OR_TEXT,
        parameters={"type": ["integer", "null"]},
        context_length={"type": ["integer", "null"]},
        others=items_of(_ANY) | {"description": "Further models, while a deployment changes it."},
    ),
    "Timeline": {
        "anyOf": [
            record(
                {"entry": ENTRY, "stream": _TEXT, "outcome": _OUTCOME, "took_ms": {"type": ["integer", "null"]}},
                person=_TEXT,
                message_id=_TEXT,
                type=_TEXT,
                trace=_TEXT,
                steps=items_of(
                    record(
                        {"at_ms": {"type": "integer"}, "kind": _TEXT},
                        wait_ms={"type": "integer"},
                        stream=_TEXT,
                        group=_TEXT,
                        entry=_TEXT,
                        facts=_ANY,
                    )
                ),
                gaps=items_of(_TEXT),
            ),
            record({"person": _TEXT, "messages": items_of(record({"at_ms": _COUNT, "outcome": _OUTCOME}))}),
        ]
    },
    "Report": record(
        {
            "of": _TEXT,
            "groups": items_of(_TEXT),
            "since": _TEXT,
            "until": _TEXT,
            "by": {"enum": list(UNITS)},
            "total": _ROW,
            "reasons": named(named(_COUNT)),
            "buried_partly": {"type": "boolean"},
            "rows": items_of(_ROW),
        }
    ),
    "RedisTest": record({"ok": {"type": "boolean"}, "latency_ms": {"type": "number"}, "version": _NOTHING_OR_TEXT}),
    "RedisStats": record(
        {
            "version": _NOTHING_OR_TEXT,
            "memory_bytes": _COUNT,
            "conversations": _COUNT,
            "streams": named(record({"length": _COUNT, "groups": named(record({"lag": _COUNT, "pending": _COUNT}))})),
            "dead": named(_COUNT),
        }
    ),
    "People": record({"user_ids": items_of(_TEXT), "cursor": _TEXT}),
    "Deleted": record({"deleted": _COUNT}),
    "Error": record(
        {"error": _TEXT, "detail": _TEXT},
        most=_COUNT | {"description": "The limit that was exceeded."},
        entry_id=ENTRY,
        message_id=_TEXT,
    ),
}
