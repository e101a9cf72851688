"""
What Meta says became of our replies (sent, delivered, read, failed), as it lies on `statuses`.

Meta names a reply by an id of its own, which only whoever sent it knows: n8n.  So which status is about which reply is
certain where n8n has sent the webhook-id along (`biz_opaque_callback_data`); else person and time say so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streams import marks
from streams.connection import Entry, Store, entries, order
from streams.sieve import INBOUND, NEAR, STATUSES, body, entry, sift, text
from streams.story import timeline
from streams.story.timeline import Passage, Status
from streams.topology import Topology

META = ("sent", "delivered", "read", "failed", "deleted")
"""Statuses of Meta's, by which marks of them are named."""


async def of(store: Store, topology: Topology, root: Passage) -> list[Status]:
    """
    Of the replies in a story that were posted.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    posted = list(_posted(root)) if STATUSES in topology.streams else []
    if not posted:
        return []
    since_ms, parts = min(at_ms for _, at_ms, _ in posted), sum(count for *_, count in posted)
    replies = {reply.message_id for reply, *_ in posted}
    until = await _next_reply(store, max((reply for reply, *_ in posted), key=lambda each: order(each.id)))
    said = await _seen(store, list(replies), "body", since_ms, "+")
    if certain := [status for status in said if status.certain in replies]:
        return certain
    person = posted[0][0].person
    return await _by_time(store, person, await _seen(store, [person], "key", since_ms, until), since_ms, parts)


async def about(
    store: Store, topology: Topology, id: str, fields: dict[str, bytes]
) -> tuple[str, str, dict[str, bytes]] | None:
    """
    The reply that a status is about, with its stream: the last to this person before Meta first spoke of it.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    person, wamid = text(fields, "key"), body(fields).get("message_id")
    told = await _marked(store, person, wamid) if isinstance(wamid, str) else []
    first = min([order(id)[0], *(status.at_ms for status in told)])
    for stream in topology.downstream(INBOUND)[1:]:
        key = store.keys.stream(stream)
        async for slice in sift(store, key, [person], last=str(first), field="key", back=True, most=NEAR):
            for reply, its in entries(slice.found):
                if text(its, "key") == person and text(its, "type") == "reply":
                    return stream, reply, its
    return None


def _posted(root: Passage) -> Iterable[tuple[Passage, int, int]]:
    """Each reply that went out by the webhook: when, and in how many parts."""
    for passage in timeline.every(root):
        notes = [
            (ending.told.at + note.ms, note.facts)
            for fare in passage.fares
            for ending in fare.endings
            for note in ending.told.notes
            if note.name == "posted" and _taken(note.facts)
        ]
        if notes and passage.type == "reply":
            yield passage, notes[0][0], max(int(facts.get("parts", 1)) for _, facts in notes)


def _taken(facts: dict[str, Any]) -> bool:
    """n8n answers 200 while it starts as well, and then `why` says so."""
    return 200 <= (facts.get("status") or 0) < 300 and "why" not in facts


async def _next_reply(store: Store, reply: Passage) -> str:
    """When this person got another: what Meta first speaks of after that is taken to be about the other one."""
    key = store.keys.stream(reply.stream)
    async for slice in sift(store, key, [reply.person], first=f"({reply.id}", field="key", most=NEAR):
        for id, fields in entries(slice.found):
            if text(fields, "key") == reply.person and text(fields, "type") == "reply":
                return str(order(id)[0])
    return "+"


async def _seen(store: Store, texts: list[str], field: str, since_ms: int, until: str) -> list[Status]:
    """What Meta said meanwhile, where one of these texts stands."""
    found: list[Status] = []
    key = store.keys.stream(STATUSES)
    async for slice in sift(store, key, texts, first=str(since_ms), last=until, field=field, most=NEAR):
        found += [status for row in entries(slice.found) if (status := _status(row))]
    return found


async def _by_time(store: Store, person: str, seen: list[Status], posted_ms: int, parts: int) -> list[Status]:
    """Of as many messages as the reply has parts: those of which Meta had said nothing before it was posted."""
    chosen: list[Status] = []
    for wamid in dict.fromkeys(status.wamid for status in seen if status.person == person):
        marked = await _marked(store, person, wamid)
        if parts > 0 and not any(status.at_ms < posted_ms for status in marked):
            its = [status for status in seen if status.wamid == wamid]
            chosen += {status.status: status for status in (*its, *marked)}.values()
            parts -= 1
    return chosen


async def _marked(store: Store, person: str, wamid: str) -> list[Status]:
    """All that was said of a message of ours, found by the marks of it."""
    digest = await store.command("GET", store.keys.of("digest")) or b""
    names = [marks.name(store.keys, digest, person, f"{wamid}:{status}") for status in META]
    values = await store.pipeline([("GET", name) for name in names])
    found = [mark for value in values if isinstance(value, bytes) and (mark := marks.Mark.read(value))]
    told = []
    for mark in found:
        fields = await entry(store, STATUSES, mark.entry)
        if fields is not None and (status := _status((mark.entry, fields))):
            told.append(status)
    return told


def _status(row: Entry) -> Status | None:
    id, fields = row
    said = body(fields)
    wamid, content, told = said.get("message_id"), said.get("content"), said.get("sent_at")
    if not isinstance(wamid, str):
        return None
    content = content if isinstance(content, dict) else {}
    own = content.get("biz_opaque_callback_data")
    return Status(
        wamid=wamid,
        status=text(fields, "type"),
        at_ms=order(id)[0],
        told_ms=int(told * 1000) if isinstance(told, (int, float)) else None,
        person=text(fields, "key"),
        certain=own.split(".p")[0] if isinstance(own, str) else "",
        why=_failure(content.get("errors")),
    )


def _failure(errors: Any) -> str:
    """Meta's reason: `131047 Re-engagement message`."""
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    return " ".join(str(first[name]) for name in ("code", "title") if first.get(name))
