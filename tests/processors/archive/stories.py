"""What the tests of the archive are told with: entries as the streams have them, and a look into its tables."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from processors.archive import rows
from processors.archive.rows import Row
from processors.archive.session import Session
from streams import wire
from streams.effects import Message, Turn

ANA = "+59112345678"
WAMID = "wamid.HBgLNTkxMTIzNDU2NzgVAgASGBQzQTdCRkE5RjYyRDdFN0YxN0UA"
"""Ana's: its base64 says 59112345678."""

START_MS = int(datetime(2099, 10, 5, 14, 0, tzinfo=UTC).timestamp() * 1000)
"""When these stories happen: never too old for `archive.keep`, nor before somebody was erased."""


def entry(minute: float = 0, number: int = 0) -> str:
    return f"{START_MS + int(minute * 60_000)}-{number}"


def turn(body: Any, id: str | None = None, *, shard: int | None = None, resources: Any = None, **fields: Any) -> Turn:
    id = id or entry()
    raw = body if isinstance(body, bytes) else wire.encode(body)
    message = Message(id=id, type="text", body=raw, **fields)
    return Turn(group="archive", key=id, messages=[message], shard=shard, resources=resources)


def inbound(text: str = "Hola", *, person: str = ANA, **fields: Any) -> wire.Inbound:
    return wire.Inbound(user_id=person, message_id=fields.pop("message_id", WAMID), text=text, **fields)


def reply(message: str = "¡Hola!", *, person: str = ANA, **fields: Any) -> wire.Reply:
    usual: dict[str, Any] = {
        "id": "reply_1",
        "created_at": "2099-10-05T14:00:05Z",
        "conversation_id": f"conv_{person}_{START_MS // 1000}",
        "in_reply_to": [WAMID],
    }
    return wire.Reply(user_id=person, message=message, **(usual | fields))


def said(text: str = "Hola", minute: float = 0, number: int = 0, **fields: Any) -> list[Row]:
    return rows.said(turn(inbound(text, **fields), entry(minute, number)), "inbound")


def replied(message: str = "¡Hola!", minute: float = 0, number: int = 0, **fields: Any) -> list[Row]:
    fields.setdefault("id", f"reply_{entry(minute, number)}")
    return rows.replied(turn(reply(message, **fields), entry(minute, number)), "outbound")


def asked(action: str, minute: float, to: str, **slots: Any) -> list[Row]:
    """The bot's reply to a person's message that asked for something."""
    return replied(f"({action})", minute, action=action, slots=slots, in_reply_to=[to])


def told(minute: float, message_id: str, **appointment: Any) -> list[Row]:
    """What n8n tells the person of an appointment."""
    return said(
        "…", minute, role="assistant", kind="text", message_id=message_id, metadata={"appointment": appointment}
    )


def table(session: Session, name: str, *columns: str, order: str = "1") -> list[tuple[Any, ...]]:
    return session.run(f"SELECT {', '.join(columns) or '*'} FROM {name} ORDER BY {order}")  # noqa: S608 - of a test


def count(session: Session, name: str) -> int:
    return int(session.run(f"SELECT count(*) FROM {name}")[0][0])  # noqa: S608 - of a test
