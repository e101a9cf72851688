"""
A message found by what somebody knows of it: an entry's id, WhatsApp's, the sender's own, a webhook-id, a trace id.

By its mark where the person is known or the id tells (wamids.py), which takes as long whatever lies in the streams;
else around the time that an id of ours says, and in the index; what that does not tell of is looked through, the newest
first.  Says where it has looked in vain.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import tzinfo
from typing import NamedTuple

import msgspec

from streams import journals, marks, wamids, wire
from streams.connection import Entry, Store, entries, order
from streams.errors import CauceError
from streams.index import ASKEW_MS, Index
from streams.moments import local
from streams.sieve import INBOUND, STATUSES, body, sift, text
from streams.stores import Stores
from streams.story.receipts import META
from streams.story.stories import Teller
from streams.story.timeline import Timeline
from streams.topology import Topology

ENTRY = re.compile(r"\d{12,15}-\d{1,20}")
"""An entry's id, which has more digits before its `-` than a telephone number has there."""

_WEBHOOK = re.compile(r"reply_(\d+-\d+)(?:\.s(\d+))?(?:\.\d+)?(?:\.p\d+)?")
_TRACE = re.compile(r"(?:00-)?([0-9a-f]{32})(?:-[0-9a-f]{16}-[0-9a-f]{2})?")

Look = Callable[[int], None]
"""Called with how many entries were looked through since the last call."""


class Unknown(CauceError):
    """Nothing is known of it (any more); the text says where it was looked for, and what may have been cut."""


class Place(msgspec.Struct, frozen=True):
    """An entry of a stream."""

    store: Store
    stream: str
    id: str


class _Sought(NamedTuple):
    """A name, and how an entry has it."""

    name: str
    field: str
    stands: str
    """How it stands in the field."""
    is_it: Callable[[Entry], bool]
    made_ms: int | None
    """When it says that it was made."""


def _trace(id: str, user: str | None) -> _Sought:
    def is_it(row: Entry) -> bool:
        return id in text(row[1], "trace") and user in (None, text(row[1], "key"))

    return _Sought(id, "trace", id, is_it, wire.trace_ms(id))


def _message(id: str, user: str | None) -> _Sought:
    stands = msgspec.json.encode(id).decode()

    def is_it(row: Entry) -> bool:
        return body(row[1]).get("message_id") == id and user in (None, text(row[1], "key"))

    return _Sought(id, "body", stands, is_it, marks.made_ms(id))


def _before(index: Index) -> str:
    """Up to where a stream has to be looked through: what is behind it is in the index."""
    return f"({index.since}" if index.since else "+"


def _begins(fields: dict[str, bytes]) -> bool:
    """What was put back, for a group, is told with what it was; what was carried here has but a new id."""
    return not text(fields, "origin") or "for" not in fields


class Finder:
    """Finds what one question is about."""

    def __init__(
        self, stores: Stores, topology: Topology, look: Look = lambda _: None, zone: tzinfo | None = None
    ) -> None:
        self._stores = stores
        self._topology = topology
        self._look = look
        self._zone = zone
        self._looked: list[str] = []
        self._indexes: dict[int, Index] = {}
        self.ambiguous = False
        """What was found last is of one of several people who have sent this id."""

    async def message(self, id: str, user: str | None = None) -> Place:
        """
        Args:
            id: of an entry, WhatsApp's, the sender's, a webhook-id, a trace id.
            user: whose it is; None: whose the id says it is, or anybody's.

        Raises:
            Unknown: nothing is known of it.
            Unavailable: Redis cannot be reached.
        """
        self._looked, self.ambiguous = [], False
        if ENTRY.fullmatch(id):  # which two shards may have given out
            found = await self._entry(id, [self._stores.of(user)] if user else list(self._stores))
        elif reply := _WEBHOOK.fullmatch(id):
            shards = list(self._stores)
            number = int(reply[2] or 0)
            found = await self._entry(reply[1], [shards[number]] if number < len(shards) else [], INBOUND)
        elif trace := _TRACE.fullmatch(id):
            found = await self._sought([INBOUND], _trace(trace[1], user))
        else:
            found = await self._named(id, user)
        if found is None:
            raise Unknown(f"nothing is known of {id!r}: looked {'; '.join(self._looked)}. {await self.cut()}")
        return found

    async def of(self, person: str, *, since_ms: int, count: int) -> AsyncIterator[Place]:
        """
        What somebody has sent, the newest first.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        async for store, (id, fields) in self._theirs(person, since_ms, count):
            if text(fields, "key") == person and count > 0 and _begins(fields):
                count -= 1
                yield Place(store, INBOUND, id)
            if count <= 0:
                return

    async def _theirs(self, person: str, since_ms: int, enough: int) -> AsyncIterator[tuple[Store, Entry]]:
        """What may be somebody's, the newest first: what is listed, then what lies before that."""
        store = self._stores.of(person)
        index = await self._index(store)
        async for row in index.rows(person, since_ms):
            yield store, row
        key, last = store.keys.stream(INBOUND), _before(index)
        async for slice in sift(
            store, key, [person], first=str(since_ms), last=last, field="key", back=True, enough=enough
        ):
            self._look(slice.looked)
            for row in entries(slice.found):
                yield store, row

    async def _index(self, store: Store) -> Index:
        """Read once: a name that is no message's may be a person's."""
        shard = store.keys.shard
        if shard not in self._indexes:
            self._indexes[shard] = await Index.open(store, self._topology)
        return self._indexes[shard]

    async def is_person(self, id: str) -> bool:
        """Whether there is a conversation of somebody of this name, so that no message's id is meant."""
        store = self._stores.of(id)
        names = [store.keys.of(kind, id) for kind in ("conversation", "rate_limit", "paused")]
        return bool(await store.command("EXISTS", *names))

    async def _entry(self, id: str, stores: Sequence[Store], *streams: str) -> Place | None:
        names = streams or tuple(self._topology.streams)
        self._looked.append(f"for the entry in {', '.join(names)}")
        for store in stores:
            replies = await store.pipeline([("XRANGE", store.keys.stream(name), id, id) for name in names])
            for name, reply in zip(names, replies, strict=True):
                if isinstance(reply, list) and reply:
                    return Place(store, name, id)
        self._looked.append("in the journals of the groups that read them")
        for name in names:
            for store in stores:
                for group in self._topology.readers(name):
                    if (await journals.read(store, group.name, id, order(id)[0])).endings:
                        return Place(store, name, id)
        return None

    async def _named(self, id: str, user: str | None) -> Place | None:
        persons: Sequence[str] = () if user is None else (user,)
        if user is None and (digits := wamids.number(id)):
            persons = (f"+{digits}", digits)
        if persons:
            whose = "as one of this person's" if user is not None else "by the number in it"
            self._looked.append(f"for its mark, {whose}")
        for person in dict.fromkeys(persons):
            if (found := await self._marked(id, person)) is not None:
                return found
        streams = [stream for stream in (INBOUND, STATUSES) if stream in self._topology.streams]
        return await self._sought(streams, _message(id, user))

    async def _marked(self, id: str, person: str) -> Place | None:
        """By the mark of a message from somebody, or of what Meta said of one to them."""
        store = self._stores.of(person)
        digest = await store.command("GET", store.keys.of("digest"))
        if digest is None:
            return None
        names = [(INBOUND, id), *((STATUSES, f"{id}:{status}") for status in META)]
        values = await store.pipeline([("GET", marks.name(store.keys, digest, person, name)) for _, name in names])
        for (stream, _), value in zip(names, values, strict=True):
            mark = marks.Mark.read(value) if isinstance(value, bytes) else None
            if mark and await store.command("XRANGE", store.keys.stream(stream), mark.entry, mark.entry):
                return Place(store, stream, mark.entry)
        return None

    async def _sought(self, streams: Sequence[str], what: _Sought) -> Place | None:
        """Around the time at which it says that it was made; then in the index, and in what that leaves out."""
        if what.made_ms is not None:
            first, last = str(max(0, what.made_ms - ASKEW_MS)), str(what.made_ms + ASKEW_MS)
            ranges = [(store, first, last) for store in self._stores]
            if found := await self._through(INBOUND, what, ranges, "around its time"):
                return found
        indexes = [await self._index(store) for store in self._stores]
        if found := await self._listed(what, indexes):
            return found
        older = ""
        if any(index.since for index in indexes):
            self._looked.append(f"in the index of {INBOUND}")
            older = "before that"
        for stream in streams:
            ends = [_before(index) if stream == INBOUND else "+" for index in indexes]
            ranges = [(store, "-", end) for store, end in zip(self._stores, ends, strict=True)]
            if found := await self._through(stream, what, ranges, older if stream == INBOUND else ""):
                return found
        return None

    async def _listed(self, what: _Sought, indexes: Sequence[Index]) -> Place | None:
        """The newest; of a name that is not of one request it is said whether others have used it as well."""
        newest: Place | None = None
        people: set[str] = set()
        for store, index in zip(self._stores, indexes, strict=True):
            async for row in index.rows(what.name):
                if not what.is_it(row):
                    continue
                people.add(text(row[1], "key"))
                if newest is None or order(newest.id) < order(row[0]):
                    newest = Place(store, INBOUND, row[0])
                if what.field == "trace" or len(people) > 1:
                    break
        self.ambiguous = len(people) > 1 and what.field != "trace"
        return newest

    async def _through(
        self, stream: str, what: _Sought, ranges: Sequence[tuple[Store, str, str]], where: str
    ) -> Place | None:
        looked = 0
        for store, first, last in ranges:
            key = store.keys.stream(stream)
            async for slice in sift(store, key, [what.stands], first=first, last=last, field=what.field, back=True):
                self._look(slice.looked)
                looked += slice.looked
                for row in entries(slice.found):
                    if what.is_it(row):
                        return Place(store, stream, row[0])
        if looked or not where:
            self._looked.append(f"through the {looked:,} entries of {stream} {where}".rstrip())
        return None

    async def cut(self) -> str:
        """What retention may have taken away."""
        keep = self._topology.streams[INBOUND].keep if INBOUND in self._topology.streams else 0
        begins = []
        for store in self._stores:
            rows = await store.command("XRANGE", store.keys.stream(INBOUND), "-", "+", "COUNT", 1)
            begins += [order(row[0].decode())[0] for row in rows]
        since = f"goes back to {local(min(begins), self._zone):%Y-%m-%d %H:%M:%S}" if begins else "is empty"
        return (
            f"{INBOUND} {since}: what all groups have settled goes after {keep / 86400:g} days "
            f"([streams.{INBOUND}] keep), or sooner near max_len"
        )


async def tell(
    stores: Stores,
    topology: Topology,
    id: str,
    *,
    user: str | None = None,
    person: str | None = None,
    since_seconds: float,
    count: int,
    look: Look = lambda _: None,
    zone: tzinfo | None = None,
) -> Timeline | list[Timeline]:
    """
    The story of a message; of a person those of their latest messages, the newest first.

    Args:
        user: whose message it is, where that is known.
        person: who `id` is, where it can be nothing but a person's.
        since_seconds, count: which of theirs.
        zone: by whose clock an error tells times; None: this machine's.

    Raises:
        Unknown: nothing is known of it.
        Unavailable: Redis cannot be reached.
    """
    finder, teller = Finder(stores, topology, look, zone), Teller(stores, topology)

    async def theirs(person: str) -> list[Timeline]:
        found = [place async for place in finder.of(person, since_ms=await _ago(stores, since_seconds), count=count)]
        return [await teller.tell(place.store, place.stream, place.id) for place in found]

    if person is None and user is None and await finder.is_person(id):
        person = id
    if person is not None:
        if told := await theirs(person):
            return told
        raise Unknown(f"{person} has sent nothing since then that {INBOUND} still has. {await finder.cut()}")
    try:
        place = await finder.message(id, user)
    except Unknown:
        if user is None and (told := await theirs(id)):
            return told
        raise
    story = await teller.tell(place.store, place.stream, place.id)
    return _hinted(story) if finder.ambiguous else story


async def _ago(stores: Stores, seconds: float) -> int:
    now, _ = await stores.first.command("TIME")
    return max(0, int((int(now) - seconds) * 1000))


def _hinted(story: Timeline) -> Timeline:
    story.gaps.append(_OTHERS)
    return story


_OTHERS = "what other people have sent under this id, of which this is the newest: --user (over HTTP ?user=) says whose"
