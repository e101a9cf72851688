"""
Meta's JSON, and n8n's of it, read into what goes on the streams.

Takes a whole webhook (`object`, `entry`, `changes`), one change, or the item that n8n's WhatsApp Trigger makes of a
change (its `value` with `field` beside), one or an array.  Pure.  Meta adds fields and types without asking and repeats
whatever is not answered with 200, so nothing of its shape is ever refused: what cannot be used is named in `ignored`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import msgspec

from streams import people, wire
from streams.errors import CauceError
from streams.wire import Inbound, Status

MESSAGES = "messages"
"""The `field` of changes that carry messages and statuses; of others nothing is taken."""

_CAPTIONED = ("image", "video", "audio", "voice", "document", "sticker")
_WORDS = ("body", "text", "title", "caption", "name")
"""Where a type that we do not know may keep its words."""

_WORDLESS = ("location", "contacts", "reaction", "system", "unsupported", "unknown", "errors")
_OPEN = ("type", "id", "from", "from_user_id", "from_parent_user_id", "timestamp", "context")

DEEPEST = 24
"""Levels of nesting of a `content` that is carried on; deeper ones are left out."""


MOST = 2_000
"""Messages and statuses of one payload: twice what Meta puts into a webhook.  All of it is one act in Redis."""


class NotWhatsApp(CauceError):
    """JSON, but nothing that Meta or n8n's WhatsApp Trigger sends."""


class TooMany(CauceError):
    """More than MOST messages and statuses."""


class Webhook(msgspec.Struct):
    """What a payload holds, in its order."""

    messages: list[Inbound] = []
    statuses: list[Status] = []
    ignored: list[str] = []
    """The type, or field, of each thing that was left out."""


def read(payload: Any, *, phone_numbers: bool = True) -> Webhook:
    """
    All that is in a payload.

    Raises:
        NotWhatsApp: nothing in it is of Meta's shape.
        TooMany: it would hold up everybody else.
    """
    items = payload if isinstance(payload, list) else [payload]
    found = Webhook()
    if items and not any(_is_ours(item) for item in items):
        raise NotWhatsApp(
            "this is neither Meta's webhook (`object` and `entry`) nor an item of n8n's WhatsApp Trigger "
            "(`messaging_product`, `metadata`, `messages` or `statuses`)"
        )
    for item in items:
        if _is_ours(item):
            for field, value in _changes(item, found):
                _read_value(field, value, found, phone_numbers)
        else:
            found.ignored.append("malformed")
    return found


def _is_ours(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    return (
        (isinstance(item.get("object"), str) and isinstance(item.get("entry"), list))
        or (isinstance(item.get("value"), dict) and isinstance(item.get("field"), str))
        or isinstance(item.get("field"), str)
        or any(isinstance(item.get(key), list) for key in ("messages", "statuses", "errors"))
        or item.get("messaging_product") == "whatsapp"
    )


def _changes(item: dict[str, Any], found: Webhook) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each change's field and value."""
    if isinstance(item.get("entry"), list) and "object" in item:
        if item["object"] != "whatsapp_business_account":
            found.ignored.append(_name(item["object"]))
            return
        for entry in item["entry"]:
            changes = entry.get("changes") if isinstance(entry, dict) else None
            for change in changes if isinstance(changes, list) else [None]:
                if isinstance(change, dict) and isinstance(change.get("value"), dict):
                    yield _name(change.get("field"), MESSAGES), change["value"]
                else:
                    found.ignored.append("malformed")
    elif isinstance(item.get("value"), dict):
        yield _name(item.get("field"), MESSAGES), item["value"]
    else:
        yield _name(item.get("field"), MESSAGES), item


def _read_value(field: str, value: dict[str, Any], found: Webhook, phone_numbers: bool) -> None:
    messages, statuses, errors = (_list(value.get(key)) for key in ("messages", "statuses", "errors"))
    if field != MESSAGES or not (messages or statuses or errors):
        found.ignored.append(field if field != MESSAGES else "empty")
        return
    if len(found.messages) + len(found.statuses) + len(messages) + len(statuses) > MOST:
        raise TooMany(f"there are more than {MOST} messages and statuses in it; send them in several requests")
    desk = _Desk(value, phone_numbers)
    for message in messages:
        inbound = desk.inbound(message)
        if inbound is None:
            found.ignored.append(_kind(message) if isinstance(message, dict) else "malformed")
        else:
            found.messages.append(inbound)
    for told in statuses:
        status = desk.status(told)
        if status is None:
            found.ignored.append("status")
        else:
            found.statuses.append(status)
    found.ignored.extend("errors" for _ in errors)


class _Desk:
    """What all messages of one change share: our number, and who is behind which id."""

    def __init__(self, value: dict[str, Any], phone_numbers: bool) -> None:
        told = value.get("metadata")
        told = told if isinstance(told, dict) else {}
        self.metadata = {
            key: str(told[key]) for key in ("display_phone_number", "phone_number_id") if told.get(key) is not None
        }
        self._contacts = [contact for contact in _list(value.get("contacts")) if isinstance(contact, dict)]
        told = [message for message in _list(value.get("messages")) if isinstance(message, dict)]
        self._senders = {_token(message.get("from")) or _token(message.get("from_user_id")) for message in told} - {""}
        self._phone_numbers = phone_numbers

    def inbound(self, message: Any) -> Inbound | None:
        """One message; None where it does not say whose it is."""
        if not isinstance(message, dict):
            return None
        contact = self._contact(message)
        number, scoped = _token(message.get("from")), _token(message.get("from_user_id"))
        if not number and not scoped:
            number, scoped = _token(contact.get("wa_id")), _token(contact.get("user_id"))
        user_id = self._person(number) or self._person(scoped)
        if user_id is None:
            return None
        kind = _kind(message)
        content = message.get(kind)
        if content is None and kind in _WORDLESS:
            content = {key: value for key, value in message.items() if key not in _OPEN}
        profile = contact.get("profile")
        profile = profile if isinstance(profile, dict) else {}
        return Inbound(
            user_id=user_id,
            message_id=_id(message, _token(message.get("id"))),
            kind=kind,
            text=_words(kind, content).replace("\0", ""),
            sent_at=_seconds(message.get("timestamp")),
            name=_text(profile.get("name")) or _text(profile.get("username")) or None,
            wa_id=next((each for each in (_token(contact.get("wa_id")), number) if each.isdecimal()), None),
            context=_context(message),
            content=None if kind == "text" else _carried(kind, content),
            metadata=self.metadata,
        )

    def status(self, told: Any) -> Status | None:
        """What became of one message of ours."""
        if not isinstance(told, dict) or not (name := _text(told.get("status"))):
            return None
        recipient = _token(told.get("recipient_id")) or _token(told.get("recipient_user_id"))
        return Status(
            message_id=_id(told, _token(told.get("id"))),
            status=name[:64],
            recipient_id=self._person(recipient),
            sent_at=_seconds(told.get("timestamp")),
            content=_carried("status", told) or {},
            metadata=self.metadata,
        )

    def _contact(self, message: dict[str, Any]) -> dict[str, Any]:
        """
        The contact a message came from.

        With one contact and one sender there is no doubt, also where Meta writes the number in two ways (Mexico,
        Argentina).
        """
        for ours, theirs in (("from", "wa_id"), ("from_user_id", "user_id")):
            if sender := _token(message.get(ours)):
                for contact in self._contacts:
                    if _token(contact.get(theirs)) == sender:
                        return contact
        return self._contacts[0] if len(self._contacts) == 1 and len(self._senders) <= 1 else {}

    def _person(self, given: str) -> str | None:
        try:
            return people.person(given.strip(), phone_numbers=self._phone_numbers)
        except people.Unusable:
            return None


def _words(kind: str, content: Any) -> str:
    """What was said: the text, a caption, the title of what was pressed."""
    if kind in _WORDLESS or not isinstance(content, dict):
        return ""
    if kind == "text":
        return _text(content.get("body"))
    if kind in _CAPTIONED:
        return _text(content.get("caption"))
    if kind == "interactive":
        pressed = content.get(_text(content.get("type")))
        content = pressed if isinstance(pressed, dict) else {}
        return _text(content.get("title")) or _text(content.get("body")) or _text(content.get("name"))
    if kind in ("button", "order"):
        return _text(content.get("text"))
    return next((words for key in _WORDS if (words := _text(content.get(key)))), "")


def _context(message: dict[str, Any]) -> dict[str, Any] | None:
    """What it answers, and the advertisement it came from."""
    context = message.get("context")
    context = dict(context) if isinstance(context, dict) else {}
    if isinstance(message.get("referral"), dict):
        context["referral"] = message["referral"]
    return _carried("context", context) or None


def _carried(kind: str, content: Any) -> dict[str, Any] | None:
    """Meta's content unchanged, a list of it under its type; None where it is nested too deeply to be read again."""
    if content is None:
        return None
    carried: dict[str, Any] = content if isinstance(content, dict) else {kind: content}
    level: list[Any] = [carried]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _inner(each)]
        if not level:
            return carried
    return None


def _inner(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []


def _id(told: dict[str, Any], given: str) -> str:
    """Meta's id, or one made of the content: the same again when Meta repeats it."""
    if given and len(given) <= people.LONGEST_ID and given.isprintable():
        return given
    return "made-" + hashlib.blake2b(wire.encode(told), digest_size=12).hexdigest()


def _kind(message: dict[str, Any]) -> str:
    """Its type; what has a text and does not say what it is, as n8n's users build it, is a text."""
    spoken = message.get("text")
    nameless = "text" if isinstance(spoken, dict) and isinstance(spoken.get("body"), str) else "unknown"
    return _name(message.get("type"), nameless)


def _name(value: Any, default: str = "malformed") -> str:
    return value[:64] if isinstance(value, str) and value and value.isprintable() else default


def _seconds(value: Any) -> float | None:
    """Meta's clock, Unix seconds as text."""
    try:
        seconds = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else -1.0
    except (ValueError, OverflowError):
        return None
    return seconds if 0 <= seconds < 4e9 else None


def _token(value: Any) -> str:
    """An id; n8n's Set node makes a number of one that has only digits."""
    return str(value) if isinstance(value, int) and value > 0 and value is not True else _text(value)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
