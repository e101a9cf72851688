"""
What a run has left behind, read once all is quiet: streams, conversations, what the groups keep, what the sink got.

Knows Redis's keys and the shapes on the wire; judges nothing.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator

from pipeline import SECRET, Pipeline
from sink import Received

from streams.connection import Entry as Raw
from streams.connection import Store, entries
from tests.faults.checker import Delivery, Entry, Evidence, Line, Message, Reply

READS = {"inference": "inbound", "egress": "outbound"}
"""Each group, and its stream."""


async def quiet(store: Store) -> bool:
    """Every entry has been read and settled by its group."""
    for group, stream in READS.items():
        newest, cursor, due, leases = await store.pipeline([
            ("XREVRANGE", stream, "+", "-", "COUNT", 1), ("GET", f"group:{group}:cursor"),
            ("ZCARD", f"group:{group}:due"), ("HLEN", f"group:{group}:leases"),
        ])  # fmt: skip
        if due or leases or (newest and newest[0][0] != cursor):
            return False
    return True


async def gather(whole: Pipeline, said: list[Message]) -> Evidence:
    """All of it."""
    store = whole.store
    histories, counts = await _conversations(store, {message.person for message in said})
    return Evidence(
        said=said,
        inbound=[_entry(raw) async for raw in _stream(store, "inbound")],
        outbound=[_reply(raw) async for raw in _stream(store, "outbound")],
        histories=histories,
        counts=counts,
        deliveries=[_delivery(each) for each in whole.sink.requests],
        buried=[f"{stream}: {id} {fields['reason'].decode()}"
                for stream in READS.values() async for id, fields in _stream(store, f"{stream}.dead")],
        unsettled=await _unsettled(store),
        died=[f"{name} ended by itself with {process.child.returncode}"
              for name, process in whole.processes.items() if process.child.returncode is not None],
    )  # fmt: skip


async def _stream(store: Store, name: str) -> AsyncIterator[Raw]:
    after = "-"
    while found := entries(await store.command("XRANGE", name, after, "+", "COUNT", 1000)):
        for each in found:
            yield each
        after = f"({found[-1][0]}"


def _entry(raw: Raw) -> Entry:
    id, fields = raw
    body = json.loads(fields["body"])
    return Entry(id, fields["key"].decode(), body["message_id"], body["text"])


def _reply(raw: Raw) -> Reply:
    id, fields = raw
    body = json.loads(fields["body"])
    return Reply(id, fields["key"].decode(), body["id"], tuple(body["in_reply_to"]), body["message"])


async def _conversations(store: Store, people: set[str]) -> tuple[dict[str, list[Line]], dict[str, int]]:
    histories, counts = {}, {}
    for person in people:
        kept, meta = await store.pipeline([("GET", f"conversation:{person}"), ("GET", f"conversation_meta:{person}")])
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
            if count := await store.command(size, f"group:{group}:{kind}"):
                found.append(f"group:{group}:{kind} keeps {count}")
        found += [f"{key.decode()} is left" for key in await store.command("KEYS", f"group:{group}:box:*")]
        if pending := (await store.command("XPENDING", stream, group))[0]:
            found.append(f"{pending} entries are pending in {group}")
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
