"""
What a run has left behind, read once all is quiet: streams, conversations, what the groups keep, what the sink got.

Knows Redis's keys and the shapes on the wire; judges nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import AsyncIterator

from pipeline import SECRET
from sink import Received, Sink

from streams.connection import Entry as Raw
from streams.connection import Store, entries
from streams.stores import Stores
from tests.faults.checker import Delivery, Entry, Evidence, Line, Message, Reply

READS = {"inference": "inbound", "egress": "outbound"}
"""Each group, and its stream."""


def named(store: Store, head: str, rest: str = "") -> str:
    """A key of this shard, spelled out here as docs/keys.md has it."""
    tag = f":{{{store.keys.tag}}}" if store.keys.tag else ""
    return f"{head}{tag}{rest and ':' + rest}"


async def quiet(stores: Stores) -> bool:
    """Every entry has been read and settled by its group."""
    for store, (group, stream) in itertools.product(stores, READS.items()):
        newest, cursor, due, leases = await store.pipeline([
            ("XREVRANGE", named(store, stream), "+", "-", "COUNT", 1),
            ("GET", named(store, "group", f"{group}:cursor")),
            ("ZCARD", named(store, "group", f"{group}:due")), ("HLEN", named(store, "group", f"{group}:leases")),
        ])  # fmt: skip
        if due or leases or (newest and newest[0][0] != cursor):
            return False
    return True


async def gather(stores: Stores, sink: Sink, said: list[Message], died: list[str]) -> Evidence:
    """All of it."""
    histories, counts = await _conversations(stores, {message.person for message in said})
    return Evidence(
        said=said,
        inbound=await inbound(stores),
        outbound=[_reply(raw) for store in stores async for raw in _stream(store, "outbound")],
        histories=histories,
        counts=counts,
        deliveries=[_delivery(each) for each in sink.requests],
        buried=[f"{stream}: {id} {fields['reason'].decode()}" for store in stores
                for stream in READS.values() async for id, fields in _stream(store, f"{stream}.dead")],
        unsettled=[each for store in stores for each in await _unsettled(store)],
        died=died,
    )  # fmt: skip


async def inbound(stores: Stores) -> list[Entry]:
    """Every message that is on the stream."""
    return [_entry(store, raw) for store in stores async for raw in _stream(store, "inbound")]


async def _stream(store: Store, name: str) -> AsyncIterator[Raw]:
    after = "-"
    while found := entries(await store.command("XRANGE", named(store, name), after, "+", "COUNT", 1000)):
        for each in found:
            yield each
        after = f"({found[-1][0]}"


def _entry(store: Store, raw: Raw) -> Entry:
    id, fields = raw
    body = json.loads(fields["body"])
    shard = store.keys.shard if store.keys.shards > 1 else None
    return Entry(id, fields["key"].decode(), body["message_id"], body["text"], shard)


def _reply(raw: Raw) -> Reply:
    id, fields = raw
    body = json.loads(fields["body"])
    return Reply(id, fields["key"].decode(), body["id"], tuple(body["in_reply_to"]), body["message"])


async def _conversations(stores: Stores, people: set[str]) -> tuple[dict[str, list[Line]], dict[str, int]]:
    histories, counts = {}, {}
    for person in people:
        store = stores.of(person)
        kept, meta = await store.pipeline(
            [("GET", named(store, "conversation", person)), ("GET", named(store, "conversation_meta", person))]
        )
        if kept:
            histories[person] = [
                Line(line["role"], line["message_id"], line["content"]) for line in json.loads(kept)["messages"]
            ]
        if meta:
            counts[person] = json.loads(meta)["message_count"]
    return histories, counts


async def _unsettled(store: Store) -> list[str]:
    found = []
    for group, stream in READS.items():
        for kind, size in (("leases", "HLEN"), ("due", "ZCARD"), ("attempts", "HLEN"), ("hints", "HLEN")):
            name = named(store, "group", f"{group}:{kind}")
            if count := await store.command(size, name):
                found.append(f"{name} keeps {count}")
        boxes = await store.command("KEYS", named(store, "group", f"{group}:box:*"))
        found += [f"{key.decode()} is left" for key in boxes]
        if pending := (await store.command("XPENDING", named(store, stream), group))[0]:
            found.append(f"{pending} entries are pending in {group}")
    waiting = named(store, "waiting", "inbound")
    if count := await store.command("HLEN", waiting):
        found.append(f"{waiting} keeps {count}")
    return found


def _delivery(received: Received) -> Delivery:
    body, headers = json.loads(received.body), received.headers
    return Delivery(
        id=headers["webhook-id"],
        person=body["user_id"],
        body=received.body,
        text=body["message"],
        in_reply_to=tuple(body["in_reply_to"]),
        taken=received.answered == 200,
        signed=body["id"] == headers["webhook-id"] and headers["webhook-signature"] == _sign(received),
        at=received.at,
    )


def _sign(received: Received) -> str:
    """As Standard Webhooks says, without our own code."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.{received.body}".encode()
    return "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
