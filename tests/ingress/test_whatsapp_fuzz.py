"""
Meta's webhooks with everything wrong that can be wrong in JSON: never an error of ours, and no message lost for it.

The recordings, several of them in one, with fields dropped, renamed, of other types, huge, deep, cut off or empty, and
messages that nobody touched among them; signed, posted, looked for on the stream.  CAUCE_EXAMPLES=5000 looks longer.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import hmac
import json
import os
import re
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from conftest import Server, emptied
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streams import wire
from streams.connection import Store
from streams.settings import Secret
from streams.wire import Inbound, Status
from tests.ingress.front import RECORDINGS, Front, front

EXAMPLES = int(os.environ.get("CAUCE_EXAMPLES", "150"))
SECRET = "an app secret of Meta's"
SAMPLES = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDINGS.glob("*.json"))]
WEBHOOKS = [sample for sample in SAMPLES if isinstance(sample, dict) and "entry" in sample]
KEYS = [
    "id",
    "from",
    "type",
    "text",
    "body",
    "messages",
    "statuses",
    "contacts",
    "metadata",
    "field",
    "value",
    "changes",
]


def nested(levels: int) -> Any:
    value: Any = "deep"
    for level in range(levels):
        value = [value] if level % 2 else {"in": value}
    return value


ODD = [
    None, True, False, 0, -1, 1e308, -1e-300, 10**300, "", " ", "\0", "a\0b", "\ud83d", "\udc00x", "👩‍👩‍👧‍👦",
    "🙂" * 500, "x" * 20_000, [], {}, [[]], [None], [{}], {"": ""}, {"\ud83d": "\0"}, "NaN", "1e999", "hologram",
    "+591 123-45678", "59112345678", "-0", "9" * 400, "\u202e", "\r\n", "__proto__",
]  # fmt: skip
JUNK = st.one_of(
    st.sampled_from(ODD).map(copy.deepcopy),
    st.builds(nested, st.integers(1, 200)),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=30),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in it with every key."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])


@st.composite
def payloads(draw: st.DrawFn) -> Any:
    """Recordings run together, broken in up to twelve places, with whole messages among them."""
    entries: list[Any] = []
    for sample in draw(st.lists(st.sampled_from(WEBHOOKS), min_size=1, max_size=4)):
        entries += json.loads(json.dumps(sample["entry"]))
    whole = {"object": "whatsapp_business_account", "entry": entries}
    for _ in range(draw(st.integers(0, 12))):
        holder, key = draw(st.sampled_from(list(places(entries)) or [(whole, "more")]))
        way = draw(st.sampled_from(["drop", "rename", "replace", "replace", "double"]))
        if way == "replace" or not (isinstance(holder, list) or key in holder):
            holder[key] = draw(JUNK)
        elif way == "drop":
            del holder[key]
        elif isinstance(holder, dict):
            holder[draw(st.sampled_from(KEYS) | st.text(max_size=5))] = (
                holder.pop(key) if way == "rename" else holder[key]
            )
        else:
            holder.insert(draw(st.integers(0, len(holder))), json.loads(json.dumps(holder[key])))
    if not list(reached(whole)):
        entries.append({"changes": [{"field": "messages", "value": {"messages": []}}]})
    for _ in range(draw(st.integers(1, 3))):
        desk = draw(st.sampled_from(list(reached(whole))))
        desk.insert(draw(st.integers(0, len(desk))), draw(untouched()))
    items = [value | {"field": "messages"} for value in values(whole)]
    return draw(st.sampled_from([whole, whole, items]))


@st.composite
def untouched(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(
        st.sampled_from(["text", "audio", "image", "interactive", "location", "sticker", "hologram", "reaction"])
    )
    return {
        "from": draw(st.from_regex(r"[1-9][0-9]{7,13}", fullmatch=True)),
        "id": draw(st.from_regex(r"wamid\.[A-Za-z0-9+/]{12,60}={0,2}", fullmatch=True)),
        "timestamp": draw(st.sampled_from(["1749416383", 1749416383, "soon", None])),
        "type": kind,
        kind: {"body": "Hola"} if kind == "text" else draw(JUNK),
    }


def values(whole: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The changes that Meta's shape leads to, read without the code that is tested."""
    entries = [entry["changes"] for entry in whole["entry"] if isinstance(entry, dict) and "changes" in entry]
    for change in (change for changes in entries if isinstance(changes, list) for change in changes):
        if isinstance(change, dict) and isinstance(change.get("value"), dict) and change.get("field") == "messages":
            yield change["value"]


def reached(whole: dict[str, Any]) -> Iterator[list[Any]]:
    for value in values(whole):
        if isinstance(value.get("messages"), list):
            yield value["messages"]


def promised(payload: Any) -> set[tuple[str, str]]:
    """Person and id of each message that has both, and so has to be on the stream."""
    if isinstance(payload, dict):
        lists = list(reached(payload))
    else:
        # An item with a `value` is a change, and its own messages are nobody's.
        lists = [item["messages"] for item in payload if isinstance(item.get("messages"), list) and "value" not in item]
    return {
        (f"+{message['from']}", message["id"])
        for messages in lists
        for message in messages
        if isinstance(message, dict)
        and re.fullmatch(r"[0-9]{7,15}", str(message.get("from")))
        and isinstance(message.get("from"), str)
        and isinstance(message.get("id"), str)
        and re.fullmatch(r"[!-~]{1,256}", message["id"])
    }


class Stream:
    """What is new on a stream, decoded as its readers decode it."""

    def __init__(self, store: Store, name: str, shape: type[Any]) -> None:
        self._store, self._key, self._shape = store, store.keys.stream(name), shape
        self._last = "-"
        self.ids: set[str] = set()
        self.there: set[tuple[str, str]] = set()

    async def read(self) -> None:
        for entry, flat in await self._store.command("XRANGE", self._key, self._last, "+"):
            fields = dict(zip(flat[::2], flat[1::2], strict=True))
            body = wire.decode(fields[b"body"], self._shape)
            self.ids.add(entry.decode())
            self.there.add((fields[b"key"].decode(), body.message_id))
            self._last = f"({entry.decode()}"


async def check(door: Front, inbound: Stream, statuses: Stream, payload: Any) -> None:
    body = json.dumps(payload).encode()
    signature = "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    status, answer = await door.post("/whatsapp", body, **{"X-Hub-Signature-256": signature})
    assert status == 200, answer
    await inbound.read()
    await statuses.read()
    assert promised(payload) <= inbound.there
    assert set(answer["entry_ids"]) <= inbound.ids
    assert answer["accepted"] <= len(answer["entry_ids"])


@pytest.mark.slow
def test_whatever_is_wrong_around_it_a_message_with_a_sender_and_an_id_is_on_the_stream(any_server: Server) -> None:
    async def opened(stack: AsyncExitStack) -> tuple[Front, Stream, Stream]:
        store = emptied(any_server)
        stack.push_async_callback(store.close)
        door = await stack.enter_async_context(front(store, whatsapp_app_secret=Secret(SECRET)))
        return door, Stream(store, "inbound", Inbound), Stream(store, "statuses", Status)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        asked = runner.run(opened(stack))

        @settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
        @given(payloads())
        def fuzz(payload: Any) -> None:
            runner.run(check(*asked, payload))

        try:
            fuzz()
        finally:
            runner.run(stack.aclose())
