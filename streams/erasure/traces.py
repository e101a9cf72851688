"""
What of one person lies in one shard: found, and taken away.

First the tombstone (erase.lua), after which nothing of them is in work and nothing that was there is taken any more;
then, in slices, their entries (sieve.py, wipe.lua) and the keys whose names do not say whose they are.  Entries that
came after the tombstone are left alone: they are a new conversation.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from streams import people
from streams.connection import Store, entries, literally, order
from streams.errors import CauceError
from streams.groups import registered
from streams.scripts import script
from streams.sieve import sift, text
from streams.topology import Topology

_ERASE = script(__file__, "erase.lua")
_WIPE = script(__file__, "wipe.lua")

KEEP_MS = 8 * 86_400_000
"""How long a tombstone stands: as long as a message is known by its id."""

SLICE = 500
"""Entries that one call deletes: about a millisecond of Redis's time."""

OF_A_PERSON = ("conversation", "conversation_meta", "rate_limit", "paused")
"""Kinds of key that end in a person."""

_ENTRY = re.compile(r"\d+-\d+")
_UNNAMED = re.compile(r"\d{13,}-\d+")
"""An entry's id where a person should stand; nobody's own id looks like this."""

_pack = msgspec.msgpack.Encoder().encode

Look = Callable[[str, int], None]
"""Called with what is being looked at, and how much of it has been since the last call."""


class Tombstone(msgspec.Struct, frozen=True, kw_only=True):
    """What the act that put it up found, and took away."""

    digest: str
    """Keyed, of the person; the key goes when the tombstones do."""
    again: bool
    """There was one already."""
    last: dict[str, str]
    """Key of each stream, dead letters included → its highest id then."""
    in_work: int
    requests: int
    """HTTP requests that waited for a reply."""
    state: dict[str, int]
    """Kind → keys that were there."""


class _Known(msgspec.Struct):
    """As much of a body as tells who its person is elsewhere."""

    wa_id: str | None = None


class Traces:
    """One person in the shard that is theirs."""

    def __init__(self, store: Store, topology: Topology, person: str, look: Look) -> None:
        self._store, self._topology, self._person, self._look = store, topology, person, look
        self._named = msgspec.json.encode(person).decode()
        """As a body names them."""

    async def streams(self) -> dict[str, str]:
        """Every stream that there may be, dead letters included: key → name."""
        keys = self._store.keys
        read = {told.reads for told in (await registered(self._store)).values()}
        names = [*self._topology.streams, *sorted(read - self._topology.streams.keys())]
        return {keys.stream(name): name for name in names} | {keys.dead(name): f"{name}.dead" for name in names}

    async def tombstone(self) -> Tombstone:
        """
        Put it up, and take away what could still write of this person.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        for _ in range(10):
            streams, readers = list(await self.streams()), await self._readers()
            state = list(self._state(readers))
            reply = await self._put_up(streams, readers, [key for _, key in state])
            if reply[0] == b"done":
                return _tombstone(reply, streams, [kind for kind, _ in state])
        raise CauceError("the groups in Redis are others at every look: run it again")

    async def _put_up(self, streams: list[str], readers: dict[str, str], state: list[str]) -> Any:
        keys = self._store.keys
        registered = await self._store.command("HKEYS", keys.of("groups"))
        waiting = [[keys.stream(name), keys.of("waiting", name)] for name in self._topology.streams]
        groups = [[name, keys.stream(reads), *self._keys_of(name)] for name, reads in readers.items()]
        args = {
            "person": self._person,
            "salt": secrets.token_hex(32),
            "keep_ms": KEEP_MS,
            "bells": keys.of("bell") + ":",
            "names": [*readers, *(name.decode(errors="replace") for name in registered)],
            "streams": streams,
            "waiting": waiting,
            "groups": groups,
            "state": state,
        }
        named = [*streams, *(key for _, key in waiting), *(key for _, *of in groups for key in of), *state]
        declared = [keys.of("erased"), keys.of("groups"), *dict.fromkeys(named)]
        return await self._store.run(_ERASE, declared, [_pack(args)])

    async def _readers(self) -> dict[str, str]:
        """Every group, registered or in streams.toml, and what it reads."""
        described = {name: group.reads for name, group in self._topology.groups.items()}
        return described | {name: told.reads for name, told in (await registered(self._store)).items()}

    def _keys_of(self, group: str) -> list[str]:
        keys = self._store.keys
        kinds = ("leases", "due", "attempts", "hints", "consumers")
        return [*(keys.group(kind, group) for kind in kinds), keys.group("box", group, self._person)]

    def _state(self, readers: dict[str, str]) -> Iterator[tuple[str, str]]:
        """Kind and name of each key that ends in the person, as far as it can be named."""
        for kind in OF_A_PERSON:
            yield kind, self._store.keys.of(kind, self._person)
        for group in readers:
            yield "own", self._store.keys.state("own", group, self._person)

    async def state(self) -> dict[str, int]:
        """
        Kind → whether there is such a key that ends in the person.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        names = [("EXISTS", self._store.keys.of(kind, self._person)) for kind in OF_A_PERSON]
        return dict(zip(OF_A_PERSON, await self._store.pipeline(names), strict=True))

    async def whose(self, key: str, last: str = "+") -> dict[str, bytes]:
        """
        The person's entries on a stream up to an id: id → body.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        found: dict[str, bytes] = {}
        async for slice in sift(self._store, key, [self._person, self._named], last=last):
            self._look(key, slice.looked)
            found |= {id: fields.get("body", b"") for id, fields in entries(slice.found) if self._is_theirs(fields)}
        return found

    def _is_theirs(self, fields: dict[str, bytes]) -> bool:
        """
        An entry says whose it is.  One of a group without order that has named no key has an entry's id there; then it
        is this person's if its body names them.
        """
        key = text(fields, "key")
        return key == self._person or bool(_UNNAMED.fullmatch(key) and self._named in text(fields, "body"))

    async def wipe(self, key: str, ids: list[str]) -> tuple[int, int]:
        """
        Delete these entries; how many there were, and how many were in work until now.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        keys = self._store.keys
        readers = [name for name, reads in (await self._readers()).items() if keys.stream(reads) == key]
        declared = [keys.group(kind, name) for name in readers for kind in ("leases", "due", "attempts", "hints")]
        groups = [{"name": name, "box": keys.group("box", name) + ":"} for name in readers]
        deleted = in_work = 0
        for start in range(0, len(ids), SLICE):
            args = {"ids": ids[start : start + SLICE], "groups": groups}
            some, working = await self._store.run(_WIPE, [key, *declared], [_pack(args)])
            deleted, in_work = deleted + some, in_work + working
        return deleted, in_work

    async def elsewhere(self) -> list[str]:
        """
        Who this person is under the number that WhatsApp knows, where that is another one (Mexico, Argentina).

        Raises:
            Unavailable: Redis cannot be reached.
        """
        others: dict[str, None] = {}
        for key in await self.streams():
            for body in (await self.whose(key)).values():
                if (other := self._number_in(body)) and other != self._person:
                    others[other] = None
        return list(others)

    def _number_in(self, body: bytes) -> str | None:
        if b'"wa_id"' not in body:
            return None
        try:
            number = msgspec.json.decode(body, type=_Known).wa_id or ""
        except msgspec.MsgspecError:
            return None
        if not (number.isascii() and number.isdigit()):
            return None
        try:
            return people.person(number, phone_numbers=self._topology.users.phone_numbers)
        except people.Unusable:
            return None

    async def scattered(self, last: dict[str, str] | None) -> dict[str, int]:
        """
        Keys that have to be looked for: doors, and what groups keep that nobody knows any more.

        Args:
            last: of the tombstone; None only counts.

        Returns:
            kind → how many.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        doors = await self._look_for("door", self._doors, last)
        own = await self._look_for("own", self._own, last)
        if last is not None:
            # What somebody else was writing anew holds this person still; it begins again.
            await self._look_for("anew", self._all, last)
        return {"door": doors, "own": own}

    async def _look_for(self, kind: str, theirs: Callable[..., Any], last: dict[str, str] | None) -> int:
        start, count = self._store.keys.of(kind) + ":", 0
        async for names in self._store.scan(literally(start) + "*"):
            found = await theirs(names, len(start.encode()), last)
            if found and last is not None:
                await self._store.command("UNLINK", *found)
            count += len(found)
            self._look("keys", len(names))
        return count

    async def _all(self, names: list[bytes], _start: int, _last: dict[str, str]) -> list[bytes]:
        return names

    async def _own(self, names: list[bytes], start: int, _last: dict[str, str] | None) -> list[bytes]:
        person, known = self._person.encode(), {group.encode() for group in await self._readers()}
        rests = [(name, *name[start:].partition(b":")[::2]) for name in names]
        # Of a group that is known the tombstone has taken it, and what is there by now is new.
        return [name for name, group, whose in rests if whose == person and (_last is None or group not in known)]

    async def _doors(self, names: list[bytes], start: int, last: dict[str, str] | None) -> list[bytes]:
        whose = await self._store.pipeline([("HGET", name, "key") for name in names])
        theirs = [name for name, key in zip(names, whose, strict=True) if key == self._person.encode()]
        if last is None:
            return theirs
        answered = [self._store.keys.stream(name) for name in self._topology.streams if self._topology.answering(name)]
        bound = max((order(last[key]) for key in answered if key in last), default=(0, 0))
        ids = [(name, name[start:].decode(errors="replace")) for name in theirs]
        return [name for name, id in ids if _ENTRY.fullmatch(id) and order(id) <= bound]


def _tombstone(reply: list[Any], streams: list[str], kinds: list[str]) -> Tombstone:
    _, digest, again, last, in_work, _boxed, requests, there = reply
    state = dict.fromkeys(kinds, 0)
    for kind, was in zip(kinds, there, strict=True):
        state[kind] += was
    return Tombstone(
        digest=digest.decode(),
        again=bool(again),
        last=dict(zip(streams, (id.decode() for id in last), strict=True)),
        in_work=in_work,
        requests=requests,
        state=state,
    )
