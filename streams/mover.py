"""
`cauce reshard`: moves everything of everybody to the shard where streams.toml now says it is.

Nothing may be under way: every entry settled, every process stopped.  The layout key says how far it is, so a move that
was cut off goes on where it stopped, and nobody else runs meanwhile.  First everything is copied beside what is there
(`moving:…`), then the streams change places; until then nothing of the old ones is touched.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import msgspec

from streams import layout, wire
from streams.connection import Entry, Store, entries, literally, order
from streams.errors import ConfigurationError
from streams.groups import registered
from streams.keys import Keys
from streams.layout import Layout
from streams.scripts import script
from streams.stores import Stores
from streams.topology import Topology

_ABSORB = script(__file__, "absorb.lua")

PAGE = 500
"""Keys or entries that one round trip handles."""

OF_PEOPLE = ("conversation", "conversation_meta", "rate_limit", "paused", "own")
"""Kinds whose keys end in a person."""

COUNTS = ("tally", "distinct")
"""Kinds whose keys add up over the shards, so that it does not matter in which they are."""

LEFT_BEHIND = (
    "group", "waiting", "bell", "model", "test", "redrive", "redriven", "digest", "groups", "erased", "anew", "breaker",
    "index",
)  # fmt: skip
"""Kinds of which nothing is left where no shard is any more: what is needed of them is written anew."""

_TAGGED = re.compile(rb"\{\d{1,3}\}(:|$)")

Look = Callable[[str, int], None]
"""Called with what is being moved, and how much of it has been since the last call."""


class Mover:
    """
    One move.

    Args:
        old: the shards as they lie.
        new: the shards as they are to lie, in the same Redis.
    """

    def __init__(self, old: Stores, new: Stores, topology: Topology, look: Look) -> None:
        self._old, self._new, self._look = old, new, look
        self._renumbered: dict[tuple[int, str, str], str] = {}
        """Shard, stream and id of entries that could not keep it: two shards had given one id to two."""
        self._streams = [name for stream in topology.streams for name in (stream, f"{stream}.dead")]

    async def run(self) -> None:
        """
        Raises:
            ConfigurationError: something is still under way; nothing was moved.
            Unavailable: Redis cannot be reached; run it again to go on.
        """
        stored = await layout.stored(self._new)
        if stored is None or stored.moving_to is None:
            await self._refuse_while_busy()
            before = layout.of(self._old)
            await self._say(msgspec.structs.replace(before, moving_to=len(self._new)))
            # Whoever runs looks at the layout this often, and ends.
            self._look("waiting for processes to end", 0)
            await asyncio.sleep(2 * layout.EVERY)
            try:
                await self._refuse_while_busy()
            except ConfigurationError:
                await self._say(before)
                raise
            stored = None
        if stored is None or not stored.copied:
            await self._copy()
            await self._say(msgspec.structs.replace(layout.of(self._old), moving_to=len(self._new), copied=True))
        await self._change_places()
        await self._clear()
        await self._say(layout.of(self._new))

    async def _say(self, how: Layout) -> None:
        await self._new.layout.command("SET", self._new.layout.keys.of("layout"), wire.encode(how))

    async def _refuse_while_busy(self) -> None:
        for store in self._old:
            keys = store.keys
            for group, told in (await registered(store)).items():
                stream = keys.stream(told.reads)
                cursor, consumers, taken = await store.pipeline([
                    ("GET", keys.group("cursor", group)), ("HKEYS", keys.group("consumers", group)),
                    ("ZCARD", keys.group("due", group)),
                ])  # fmt: skip
                beats = [("EXISTS", keys.group("heartbeat", group, each.decode())) for each in consumers or []]
                if any(alive == 1 for alive in await store.pipeline(beats)):
                    raise ConfigurationError(f"group {group} has a worker; stop every process of this bot first")
                after = f"({cursor.decode()}" if cursor else "-"
                unread = await store.command("XRANGE", stream, after, "+", "COUNT", 1)
                leases = await store.command("HLEN", keys.group("leases", group))
                if unread or taken or leases:
                    raise ConfigurationError(
                        f"group {group} has not settled all it has to do; stop the ingress, let the workers finish "
                        "(`cauce status` shows lag 0), then stop them; what nobody reads any more goes with "
                        f"`cauce group drop {group}`"
                    )

    # --- copying: nothing of the old streams is touched

    async def _copy(self) -> None:
        for name in self._streams:
            await self._copy_stream(name)
        for store in self._old:
            await self._copy_keys(store)

    async def _copy_stream(self, name: str) -> None:
        """Merge what the old shards have, each entry to its person's shard, in the order of ids."""
        targets = {store.keys.shard: _Target(store, name) for store in self._new}
        for target in targets.values():
            await target.begin()
        last = max([order(await _last(store, _stream(store.keys, name))) for store in self._old])
        async for page in _merged(self._old, name):
            for shard, (id, fields) in page:
                person = fields.get("key", b"").decode(errors="replace")
                number = targets[self._new.of(person).keys.shard].add(id, fields)
                if number != id:
                    self._renumbered[shard, name, id] = number
            for target in targets.values():
                await target.flush()
            self._look(name, len(page))
        for target in targets.values():
            await target.finish(last)

    async def _copy_keys(self, store: Store) -> None:
        keys = store.keys
        async for names in store.scan(_pattern(keys)):
            for name in names:
                kind, rest = _kind_of(keys, name)
                if kind in OF_PEOPLE:
                    person = rest.partition(b":")[2] if kind == "own" else rest
                    target = self._new.of(person.decode(errors="replace"))
                    await self._place(store, name, [(target, keys_of(target.keys, kind, rest))])
                elif kind == "seen":
                    await self._move_mark(store, name, rest)
                elif kind == "door":
                    await self._move_door(store, name, rest)
                elif kind in COUNTS:
                    await self._move_count(store, name, kind, rest)
                elif kind == "breaker":
                    first = self._new.first
                    await self._place(store, name, [(first, keys_of(first.keys, kind, rest))])
            self._look("keys", len(names))

    async def _move_mark(self, store: Store, name: bytes, digest: bytes) -> None:
        """To whoever's message it marks; where that is forgotten, to every shard: a digest is one person's anyway."""
        told = await store.command("GET", name) or b""
        entry = told.partition(b"|")[0]
        found = await self._found(store, entry)
        targets = [self._new.of(found[1])] if found else list(self._new)
        await self._carry(store, name, "seen", digest, targets)
        number = found and self._renumbered.get((store.keys.shard, found[0], entry.decode()))
        if number:
            # It marks the same entry by another number now.
            under_way = _under_way(targets[0].keys, "seen", digest)
            await targets[0].command("SET", under_way, number.encode() + told[len(entry) :], "KEEPTTL")

    async def _move_door(self, store: Store, name: bytes, entry: bytes) -> None:
        """Beside its person; where that is forgotten, nowhere: a repeat is then told that the webhook has it."""
        found = await self._found(store, entry)
        await self._carry(store, name, "door", entry, [self._new.of(found[1])] if found else [])

    async def _move_count(self, store: Store, name: bytes, kind: str, rest: bytes) -> None:
        """To some shard that there will be; several may bring one bucket to it."""
        shard = store.keys.shard
        target = list(self._new)[shard % len(self._new)]
        if keys_of(target.keys, kind, rest) != name:
            await self._carry(store, name, kind, f"{shard}:".encode() + rest, [target])

    async def _carry(self, store: Store, name: bytes, kind: str, rest: bytes, targets: list[Store]) -> None:
        """
        To where it changes places with the streams.

        Not yet to its own name: whose it is stands in the stream of the shard that it comes from, and beside another's
        stream it would be taken for somebody else's who has an entry of the same id.
        """
        await self._place(store, name, [(target, _under_way(target.keys, kind, rest)) for target in targets])

    async def _found(self, store: Store, entry: bytes) -> tuple[str, str] | None:
        """On which stream an entry is and whose, as far as the streams remember."""
        if not re.fullmatch(rb"\d+-\d+", entry):
            return None
        names = [name for name in self._streams if not name.endswith(".dead")]
        replies = await store.pipeline([("XRANGE", _stream(store.keys, name), entry, entry) for name in names])
        for name, reply in zip(names, replies, strict=True):
            for _, fields in entries(reply if isinstance(reply, list) else []):
                return name, fields.get("key", b"").decode(errors="replace")
        return None

    async def _place(self, store: Store, name: bytes, places: list[tuple[Store, bytes]]) -> None:
        """Move a key, with its lifetime, to all of these places; nowhere is a place too."""
        if any(there == name for _, there in places):
            return
        ttl, value = await store.pipeline([("PTTL", name), ("DUMP", name)])
        if value is not None:
            for target, there in places:
                await target.command("RESTORE", there, max(0, ttl), value, "REPLACE")
            await store.command("DEL", name)

    # --- changing places: from here on only the new ones count

    async def _change_places(self) -> None:
        digest = await self._old.first.command("GET", self._old.first.keys.of("digest"))
        groups = await registered(self._old.first)
        for store in self._new:
            keys = store.keys
            for name in self._streams:
                moving, final = _moving(keys, name), _stream(keys, name)
                if await store.command("EXISTS", moving):
                    await store.command("RENAME", moving, final)
            await self._arrive(store)
            if digest:
                await store.command("SET", keys.of("digest"), digest)
            for group, told in groups.items():
                stream = keys.stream(told.reads)
                end = await _last(store, stream)
                await store.pipeline([
                    # It tells of entries that may lie elsewhere now, and have another's id.
                    ("UNLINK", keys.group("journal", group)),
                    ("HSET", keys.of("groups"), group, wire.encode(told)),
                    ("XGROUP", "CREATE", stream, group, end, "MKSTREAM"),
                    ("XGROUP", "SETID", stream, group, end),
                    ("SET", keys.group("cursor", group), end),
                ])  # fmt: skip

    async def _arrive(self, store: Store) -> None:
        """Marks, doors and counts take their own names; the index tells of entries that may lie elsewhere now."""
        start, index = keys_of(store.keys, "moving", b""), keys_of(store.keys, "index", b"")
        async for names in store.scan(_pattern(store.keys)):
            if stale := [name for name in names if name.startswith(index)]:
                await store.command("UNLINK", *stale)
            for name in (name for name in names if name.startswith(start)):
                kind, _, rest = name[len(start) :].partition(b":")
                if kind in (b"door", b"seen"):
                    # A repeat of a call whose answer was lost finds nothing to rename.
                    await store.pipeline([("RENAME", name, keys_of(store.keys, kind.decode(), rest))])
                elif kind.decode() in COUNTS:
                    there = keys_of(store.keys, kind.decode(), rest.partition(b":")[2])
                    await store.run(_ABSORB, [name.decode(), there.decode()], [])

    async def _clear(self) -> None:
        """Take away what lies where no shard is any more."""
        kept = {store.keys.tag for store in self._new}
        for store in self._old:
            if store.keys.tag in kept:
                continue
            streams = {_stream(store.keys, name).encode() for name in self._streams}
            async for names in store.scan(_pattern(store.keys)):
                gone = [name for name in names if name in streams or _kind_of(store.keys, name)[0] in LEFT_BEHIND]
                if gone:
                    await store.command("UNLINK", *gone)


class _Target:
    """A new shard's stream while it is being filled."""

    def __init__(self, store: Store, name: str) -> None:
        self._store, self._key = store, _moving(store.keys, name)
        self._waiting: list[list[Any]] = []
        self._last = (0, 0)

    async def begin(self) -> None:
        # An empty one as well: what is there by this name afterwards has been copied.
        await self._store.command("DEL", self._key)
        await self._store.command("XGROUP", "CREATE", self._key, "moving", "$", "MKSTREAM")
        await self._store.command("XGROUP", "DESTROY", self._key, "moving")

    def add(self, id: str, fields: dict[str, bytes]) -> str:
        """Append with the next flush; the id it gets, the next free one where two shards had given one to two."""
        self._last = max(order(id), (self._last[0], self._last[1] + 1))
        number = f"{self._last[0]}-{self._last[1]}"
        self._waiting.append(["XADD", self._key, number, *(part for pair in fields.items() for part in pair)])
        return number

    async def flush(self) -> None:
        replies = await self._store.pipeline(self._waiting)
        self._waiting = []
        for reply in replies:
            # What was appended before its answer was lost is there already.
            if isinstance(reply, Exception) and "equal or smaller" not in str(reply):
                raise reply

    async def finish(self, last: tuple[int, int]) -> None:
        """Number on from the highest id of all shards, so that what comes is younger than all that was."""
        highest = max(last, self._last)
        if highest > (0, 0):
            await self._store.command("XSETID", self._key, f"{highest[0]}-{highest[1]}")


def keys_of(keys: Keys, kind: str, rest: bytes) -> bytes:
    """A key of a shard, whatever bytes it ends in."""
    return keys.of(kind).encode() + b":" + rest


def _under_way(keys: Keys, kind: str, rest: bytes) -> bytes:
    return keys_of(keys, "moving", kind.encode() + b":" + rest)


def _stream(keys: Keys, name: str) -> str:
    return keys.dead(name.removesuffix(".dead")) if name.endswith(".dead") else keys.stream(name)


def _moving(keys: Keys, name: str) -> str:
    return keys.of("moving", f"stream:{name}")


def _kind_of(keys: Keys, name: bytes) -> tuple[str, bytes]:
    """Of a shard's key its kind and what follows; of another's nothing."""
    if name in [keys.of(kind).encode() for kind in ("groups", "digest", "erased")]:
        return name.decode().removeprefix(keys.namespace).partition(":")[0], b""
    for kind in (*OF_PEOPLE, *COUNTS, "seen", "door", *LEFT_BEHIND):
        start = (keys.group("due", "").partition(":due")[0] if kind == "group" else keys.of(kind) + ":").encode()
        if name.startswith(start):
            rest = name[len(start) :]
            # An untagged shard's names begin as those of the tagged ones do.
            return ("", b"") if not keys.tag and _TAGGED.match(rest) else (kind, rest)
    return "", b""


def _pattern(keys: Keys) -> str:
    """What the names of a shard match, and some that are not its own."""
    return literally(keys.namespace) + (f"*{{{keys.tag}}}*" if keys.tag else "*")


async def _merged(stores: Iterable[Store], name: str) -> AsyncIterator[list[tuple[int, Entry]]]:
    """The entries of all shards' streams in the order of their ids, page by page, each with its shard."""
    readers = [_Reader(store, _stream(store.keys, name)) for store in stores]
    while True:
        for reader in readers:
            await reader.fill()
        alive = [reader for reader in readers if reader.page]
        if not alive:
            return
        # Up to where the first of the pages ends everything is known.
        bound = min(order(reader.page[-1][0]) for reader in alive)
        found = [(reader.shard, entry) for reader in alive for entry in reader.up_to(bound)]
        yield sorted(found, key=lambda one: order(one[1][0]))


class _Reader:
    """One stream, read page by page."""

    def __init__(self, store: Store, key: str) -> None:
        self._store, self._key, self._after = store, key, "-"
        self.shard = store.keys.shard
        self.page: list[Entry] = []

    async def fill(self) -> None:
        if not self.page:
            self.page = entries(await self._store.command("XRANGE", self._key, self._after, "+", "COUNT", PAGE))
            self._after = f"({self.page[-1][0]}" if self.page else self._after

    def up_to(self, bound: tuple[int, int]) -> list[Entry]:
        found = [entry for entry in self.page if order(entry[0]) <= bound]
        self.page = self.page[len(found) :]
        return found


async def _last(store: Store, key: str) -> str:
    """The highest id that a stream has ever had."""
    [told] = await store.pipeline([("XINFO", "STREAM", key)])
    if not isinstance(told, list):
        return "0-0"
    return str(dict(zip(told[::2], told[1::2], strict=False))[b"last-generated-id"].decode())
