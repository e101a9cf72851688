"""
A message's story, gathered: its entry, what journals tell of it, its replies, dead letters, and Meta's statuses.

Reads along ids, and looks through a stream only where no id leads on, within bounds that it names.  What all that adds
up to is timeline.py's; how a message is found by what somebody knows of it is finding.py's.
"""

from __future__ import annotations

import asyncio
import re

from streams import journals, marks
from streams.connection import Entry, Store, entries, order
from streams.groups import registered
from streams.journal import Ending
from streams.sieve import INBOUND, NEAR, STATUSES, body, entry, sift, text
from streams.stores import Stores
from streams.story import receipts, timeline
from streams.story.timeline import Fare, Letter, Passage, Standing, Timeline
from streams.topology import Topology

_REPLY = re.compile(r"reply_(\d+-\d+)(?:\.s(\d+))?")


class Teller:
    """Tells stories of one bot's messages."""

    def __init__(self, stores: Stores, topology: Topology) -> None:
        self.stores = stores
        self.topology = topology

    async def tell(self, store: Store, stream: str, id: str) -> Timeline:
        """
        The story of an entry, from the message with which it began.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        seconds, micros = await store.command("TIME")
        stream, id, also = await self._root(store, stream, id)
        root = await self._passage(store, stream, id)
        if also and also not in {each.id for each in root.redriven}:
            root.redriven.append(await self._passage(store, stream, also, first=False))
        statuses = await receipts.of(store, self.topology, root)
        return timeline.build(root, statuses, now_ms=int(seconds) * 1000 + int(micros) // 1000)

    async def _root(self, store: Store, stream: str, id: str) -> tuple[str, str, str]:
        """Where the story of an entry begins, and the entry as which it came back, where it did."""
        fields = await entry(store, stream, id)
        if fields is None:
            return stream, id, ""
        if (origin := text(fields, "origin")) and "for" in fields:  # put back; what was carried here begins its own
            return stream, origin, id
        if stream == STATUSES:
            found = await receipts.about(store, self.topology, id, fields)
            stream, id, fields = found or (stream, id, fields)
        answered = answers(body(fields).get("id")) if stream != INBOUND else None
        asked = await entry(store, INBOUND, answered) if answered else None
        if answered and asked and text(asked, "key") == text(fields, "key"):
            return INBOUND, answered, ""
        return stream, id, ""

    async def _passage(self, store: Store, stream: str, id: str, *, first: bool = True) -> Passage:
        """
        Args:
            first: it is not what came back of another.
        """
        fields = await entry(store, stream, id)
        found = _read(stream, id, fields)
        groups = await self._groups(store, stream, only=text(fields or {}, "for"), replayed=found.replayed)
        if fields is not None:
            found.repeats, found.repeated_ms = await self._repeats(store, found)
        if door := text(fields or {}, "door"):
            found.claimed = await store.command("HGET", store.keys.of("door", door), "state") == b"http"
        found.fares = await asyncio.gather(*(self._fare(store, stream, id, group, found.person) for group in groups))
        for fare in found.fares:
            found.letters += await self._letters(store, stream, id, fare)
            found.outputs += await self._outputs(store, found, fare)
        if first:
            for again in await store.command("LRANGE", store.keys.of("redriven", f"{stream}:{id}"), 0, -1):
                found.redriven.append(await self._passage(store, stream, again.decode(), first=False))
        if not found.person:
            found.person = next((each.person for each in (*found.redriven, *found.outputs) if each.person), "")
        return found

    async def _groups(self, store: Store, stream: str, *, only: str, replayed: bool) -> list[str]:
        """Those that handle such an entry."""
        known = {name: told.reads for name, told in (await registered(store, self.topology)).items()}
        known |= {group.name: group.reads for group in self.topology.groups.values()}
        unseen = {group.name for group in self.topology.groups.values() if replayed and not group.replay} - {only}
        return [name for name, reads in known.items() if reads == stream and only in ("", name) and name not in unseen]

    async def _repeats(self, store: Store, passage: Passage) -> tuple[int, int]:
        if passage.stream != INBOUND or not passage.message_id:
            return 0, 0
        key = await store.command("GET", store.keys.of("digest"))
        if key is None:
            return 0, 0
        value = await store.command("GET", marks.name(store.keys, key, passage.person, passage.message_id))
        mark = marks.Mark.read(value) if value else None
        return (mark.repeats, mark.repeated_ms) if mark and mark.entry == passage.id else (0, 0)

    # --- what a group did

    async def _fare(self, store: Store, stream: str, id: str, group: str, person: str) -> Fare:
        table = self.topology.groups.get(group)
        key = id if table and table.order == "none" else person
        standing = await _standing(store, group, key, id)
        answering = self.topology.answering(stream)
        beside = answering is not None and answering.name != group
        if standing.state == "unread" or (standing.state == "waiting" and standing.starts == 0):
            return Fare(group=group, standing=standing, beside=beside)
        at_ms = order(id)[0]
        found = await journals.read(store, group, id, at_ms)
        whole = found.since_ms is not None and found.since_ms <= at_ms
        return Fare(
            group=group, standing=standing, endings=found.endings, complete=found.complete, whole=whole, beside=beside
        )

    async def _letters(self, store: Store, stream: str, id: str, fare: Fare) -> list[Letter]:
        last = fare.endings[-1] if fare.endings else None
        if fare.standing.state != "settled" or (last and last.told.end == "settled"):
            return []
        first, until = (str(last.at_ms - 2000), str(last.at_ms + 1)) if last else (id, "+")
        dead = store.keys.dead(stream)
        async for slice in sift(store, dead, [id], first=first, last=until, field="origin", most=NEAR):
            for letter, fields in entries(slice.found):
                if text(fields, "origin") == id and text(fields, "group") == fare.group:
                    at_ms = int(text(fields, "last_ms") or order(letter)[0])
                    return [Letter(id=letter, group=fare.group, reason=text(fields, "reason"), at_ms=at_ms)]
        return []

    async def _outputs(self, store: Store, passage: Passage, fare: Fare) -> list[Passage]:
        table = self.topology.groups.get(fare.group)
        if table is None or not table.writes or fare.standing.state == "unread" or not passage.person:
            return []
        last = fare.endings[-1] if fare.endings else None
        found: list[Passage] = []
        for stream in table.writes:
            if last and last.final:
                rows = await self._written(store, stream, passage, last)
            else:
                rows = await self._answering(store, stream, passage)
            found += [await self._passage(store, stream, id) for id, _ in rows]
        return sorted(found, key=lambda each: order(each.id))

    async def _written(self, store: Store, stream: str, passage: Passage, ending: Ending) -> list[Entry]:
        """What a turn's end appended: in the same act, so just before the journal told of it."""
        turn = ending.told.of[-1]
        fields = await entry(store, passage.stream, turn) if turn != passage.id else None
        trace = text(fields, "trace") if fields else passage.trace
        if not trace:
            return []
        found: list[Entry] = []
        first, last = str(ending.told.at), str(ending.at_ms)
        async for slice in sift(
            store, store.keys.stream(stream), [trace], first=first, last=last, field="trace", back=True, most=NEAR
        ):
            found += [row for row in entries(slice.found) if _of_turn(row, passage.person, turn)]
        return found

    async def _answering(self, store: Store, stream: str, passage: Passage) -> list[Entry]:
        """Where no journal tells: what says itself that it answers this message, or comes of the same request."""
        texts = [f"reply_{passage.id}", *filter(None, [passage.message_id, passage.trace])]
        key = store.keys.stream(stream)
        async for slice in sift(store, key, texts, first=passage.id, most=NEAR):
            if found := [row for row in entries(slice.found) if _answers(row, passage)]:
                return found
        return []


def answers(webhook_id: object) -> str | None:
    """The inbound entry that a reply of this id answers."""
    match = _REPLY.match(webhook_id) if isinstance(webhook_id, str) else None
    return match[1] if match else None


def _answers(row: Entry, passage: Passage) -> bool:
    told = body(row[1])
    answered = told.get("in_reply_to")
    if isinstance(answered, list) and answered:
        its = passage.message_id in answered
    else:
        its = answers(told.get("id")) in (None, passage.id)
    return its and text(row[1], "key") == passage.person


def _of_turn(row: Entry, person: str, turn: str) -> bool:
    """Whether an output is of this turn, and not of another of the same request."""
    answered = answers(body(row[1]).get("id"))
    return text(row[1], "key") == person and answered in (None, turn)


async def _standing(store: Store, group: str, key: str, id: str) -> Standing:
    """Where an entry is now, of the boxes, leases and due times that take.lua and settle.lua keep."""
    keys = store.keys
    milliseconds, sequence = order(id)
    boxed = f"{milliseconds:015d}-{sequence:020d}"
    cursor, in_box, lease, due, note, clock = await store.pipeline([
        ("GET", keys.group("cursor", group)), ("ZSCORE", keys.group("box", group, key), boxed),
        ("HGET", keys.group("leases", group), key), ("ZSCORE", keys.group("due", group), key),
        ("HGET", keys.group("attempts", group), id), ("TIME",),
    ])  # fmt: skip
    starts = int(note.partition(b":")[0]) if isinstance(note, bytes) else 0
    if in_box is None:
        unread = not isinstance(cursor, bytes) or order(cursor.decode()) < (milliseconds, sequence)
        return Standing(state="unread" if unread else "settled")
    if isinstance(lease, bytes) and starts:
        return Standing(state="in_work", starts=starts, consumer=lease.decode().partition(".")[0])
    now_ms = int(clock[0]) * 1000 + int(clock[1]) // 1000
    return Standing(state="waiting", starts=starts, due_ms=int(float(due)) - now_ms if due else None)


def _read(stream: str, id: str, fields: dict[str, bytes] | None) -> Passage:
    if fields is None:
        return Passage(stream=stream, id=id, there=False)
    told, received = body(fields), text(fields, "received")
    name = told.get("message_id") or told.get("id")
    source = told.get("source")
    return Passage(
        stream=stream,
        id=id,
        person=text(fields, "key"),
        type=text(fields, "type"),
        message_id=name if isinstance(name, str) else "",
        source=source if isinstance(source, str) else "",
        trace=text(fields, "trace"),
        received_ms=int(received) if received.isdigit() else None,
        replayed="replayed" in fields,
    )
