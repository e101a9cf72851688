"""
What was said, read again: a range of a stream from Redis, in slices, or from a file that `cauce export` wrote.

Only ever reads.  Knows how entries lie on a stream and in such a file, and which of them a group sees.
"""

from __future__ import annotations

import base64
import binascii
import gzip
import json
import re
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import msgspec

from streams import deadletters, journals, wire
from streams.connection import Store, entries, order
from streams.deadletters import Letter, Wanted
from streams.errors import ConfigurationError
from streams.lab.pastturns import Id, cut_of
from streams.lab.replayed import Ended, Input, Label, Output
from streams.stores import Stores
from streams.tables import Group

SLICE = 500
"""Entries of one answer of Redis: a slice holds up nobody."""

FORM = 1
"""Of a file."""

ID = re.compile(r"(?!0+-0+$)\d{1,15}-\d{1,18}")
"""Of an entry, as a file may have it."""
NO_ID = "id {!r} is none; write <milliseconds>-<number>, such as 1759708800000-0"
"""What is wrong with another."""

_OWN = ("key", "type", "body", "v", "trace")
"""What an entry is; other fields say what became of it, and are kept beside."""


class Logged(NamedTuple):
    """One entry of a stream."""

    stream: str
    id: str
    fields: dict[str, bytes]

    @property
    def at(self) -> Id:
        return order(self.id)

    @property
    def key(self) -> str:
        return self.text("key")

    def text(self, name: str) -> str:
        return self.fields.get(name, b"").decode(errors="replace")

    def seen_by(self, group: Group) -> bool:
        """Whether it is this group's; what was imported is as well, though no worker takes it."""
        return self.text("for") in ("", group.name)

    def input(self, group: Group, mark: int = 0) -> Input:
        ms, seq = self.at
        return Input(
            # Of two shards two entries may have one id, but not of one person.
            key=f"{self.id} {self.key}" if group.order == "none" else self.key,
            ms=ms,
            seq=seq,
            person=self.key,
            type=self.text("type"),
            body=self.fields.get("body", b""),
            v=self.text("v") or wire.VERSION,
            trace=self.text("trace"),
            hurried="now" in self.fields,
            origin=self.text("origin") or None,
            mark=mark,
            only=self.text("for"),
            turn=self.text("turn") if Label.read(self.text("turn")) else None,
        )

    @property
    def put_back(self) -> str:
        """From which entry a redrive put it back; what was carried here has an `origin` too, but no `for`."""
        origin = self.text("origin")
        return origin if self.text("for") and ID.fullmatch(origin) else ""

    def output(self) -> Output:
        """One that was put back stands where it first did; where that was elsewhere its time says nothing here."""
        first = self.put_back
        ms, seq = order(first) if first and "replayed" not in self.fields else self.at
        body = self.fields.get("body", b"")
        return Output(
            stream=self.stream, ms=ms, seq=seq, key=self.key, type=self.text("type"), body=body,
            v=self.text("v") or wire.VERSION, trace=self.text("trace"), cut=cut_of(body), first=first,
        )  # fmt: skip


class Unsettled(NamedTuple):
    """What a group has still to do."""

    cursor: Id | None
    """What it has read; None: nobody knows."""
    taken: set[Id]

    def holds(self, at: Id) -> bool:
        return self.cursor is not None and (at > self.cursor or at in self.taken)


class Shard:
    """The log of one shard."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.number, self.of = store.keys.shard, store.keys.shards

    async def ended(self, group: Group, first: str, last: str) -> AsyncIterator[tuple[Ended, list[Id]]]:
        """What a range of the group's journal tells of turns that ended, and their entries.  Raises Unavailable."""
        async for ending in journals.between(self._store, group.name, first, last):
            if ending.final:
                of = sorted(map(order, ending.told.of))
                limited = any(note.name == "rate_limited" for note in ending.told.notes)
                yield Ended(of[0], of[-1], ending.at_ms, limited, ending.told.end == "buried"), of

    async def read(self, stream: str, first: str, last: str, *, backwards: bool = False) -> AsyncIterator[Logged]:
        """
        The entries of a range, slice by slice.

        Args:
            first, last: milliseconds, ids, `-` or `+`; `(` before an id leaves that one out.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        name = self._store.keys.stream(stream)
        while True:
            ends = ("XREVRANGE", name, last, first) if backwards else ("XRANGE", name, first, last)
            page = entries(await self._store.command(*ends, "COUNT", SLICE))
            for id, fields in page:
                yield Logged(stream, id, fields)
            if len(page) < SLICE:
                return
            bound = f"({page[-1][0]}"
            first, last = (first, bound) if backwards else (bound, last)

    async def letters(self, stream: str, wanted: Wanted) -> AsyncIterator[Letter]:
        """Raises Unavailable."""
        async for letter in deadletters.letters(self._store, stream, wanted):
            yield letter

    async def unsettled(self, group: Group) -> Unsettled:
        """What this group has not settled; nothing where Redis does not know the group.  Raises Unavailable."""
        keys, ids, first = self._store.keys, set[Id](), "-"
        cursor = await self._store.command("GET", keys.group("cursor", group.name))
        if cursor is None:
            return Unsettled(None, ids)
        while True:
            [page] = await self._store.pipeline(
                [("XPENDING", keys.stream(group.reads), group.name, first, "+", SLICE)]
            )  # fmt: skip
            if not isinstance(page, list) or not page:
                return Unsettled(order(cursor.decode()), ids)
            ids.update(order(row[0].decode()) for row in page)
            first = f"({page[-1][0].decode()}"

    async def begins_ms(self, stream: str) -> int:
        """The time before which retention has left nothing; 0 where nothing was ever cut.  Raises Unavailable."""
        name = self._store.keys.stream(stream)
        told, oldest = await self._store.pipeline([("XINFO", "STREAM", name), ("XRANGE", name, "-", "+", "COUNT", 1)])
        if not (isinstance(told, list) and oldest):
            return 0
        facts = dict(zip(told[::2], told[1::2], strict=True))
        # Redis 6.2 does not count what was ever added, so there it has to be taken for cut.
        whole = facts.get(b"entries-added") == facts[b"length"]
        return 0 if whole else order(oldest[0][0].decode())[0]


def shards(stores: Stores) -> list[Shard]:
    """The log of a running pipeline."""
    return [Shard(store) for store in stores]


class Head(msgspec.Struct, kw_only=True):
    """The first line of a file."""

    cauce: str = "log"
    form: int = FORM
    name: str
    """By which it is known whether it was imported before."""
    group: str
    streams: list[str]
    first: str
    last: str
    """The range that was asked for; what lies before is what was said before it."""
    begins_ms: int = 0
    """Before which nothing is in it, though something may have been said; 0 where all is."""
    pseudonyms: bool = False


def logged_from(entry: Input | Output, reads: str) -> Logged:
    """As it lay on its stream."""
    fields = {"key": entry.person if isinstance(entry, Input) else entry.key, "type": entry.type, "v": entry.v}
    if entry.trace:
        fields["trace"] = entry.trace
    stream = reads
    if isinstance(entry, Output):
        stream = entry.stream
    elif entry.hurried:
        fields["now"] = "1"
    if isinstance(entry, Input) and entry.origin:
        fields["origin"] = entry.origin
    if isinstance(entry, Input) and entry.turn:
        fields["turn"] = entry.turn
    if isinstance(entry, Input) and entry.only:
        fields["for"] = entry.only
    return Logged(stream, f"{entry.ms}-{entry.seq}", {**_encoded(fields), "body": bytes(entry.body)})


def _encoded(fields: dict[str, str]) -> dict[str, bytes]:
    return {name: value.encode() for name, value in fields.items()}


def line_of(logged: Logged) -> bytes:
    """An entry as a line: its body as it is where it is JSON of one line, else in base64."""
    plain: dict[str, Any] = {"stream": logged.stream, "id": logged.id}
    for name, value in logged.fields.items():
        if name == "body" and _fits(value):
            plain[name] = msgspec.Raw(value)
        else:
            plain[name] = _written(value)
    return wire.encode(plain)


def _fits(body: bytes) -> bool:
    try:
        return isinstance(json.loads(body), dict) and b"\n" not in body and b"\r" not in body
    except (ValueError, RecursionError):
        return False


def _written(value: bytes) -> str | dict[str, str]:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


_line = msgspec.json.Decoder(dict[str, msgspec.Raw])


def logged_of(line: bytes) -> Logged:
    """Raises ValueError: it is no such line."""
    try:
        raw = {name: bytes(value) for name, value in _line.decode(line).items()}
        stream, id = msgspec.json.decode(raw.pop("stream"), type=str), msgspec.json.decode(raw.pop("id"), type=str)
        if not ID.fullmatch(id):
            raise ValueError(NO_ID.format(id))
        return Logged(stream, id, {name: _read(name, value) for name, value in raw.items()})
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from error
    except (msgspec.MsgspecError, binascii.Error) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read(name: str, raw: bytes) -> bytes:
    if raw.startswith(b'"'):
        return msgspec.json.decode(raw, type=str).encode()
    told = msgspec.json.decode(raw)
    if isinstance(told, dict) and told.keys() == {"base64"}:
        return base64.b64decode(told["base64"], validate=True)
    if name != "body":
        raise ValueError(f"{name} is no text")
    return raw


class File:
    """
    The log in a file.

    Raises:
        ConfigurationError: it is not there, or none that `cauce export` wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened() as lines:
            try:
                self.head = msgspec.json.decode(lines.readline(), type=Head)
            except (msgspec.MsgspecError, OSError, EOFError, zlib.error) as error:
                raise ConfigurationError(f"{path}: none that `cauce export` wrote ({error})") from error
        if self.head.cauce != "log" or self.head.form != FORM:
            raise ConfigurationError(f"{path}: of another form than this release reads; update Cauce")

    def _opened(self) -> IO[bytes]:
        try:
            return cast("IO[bytes]", gzip.open(self.path) if self.path.suffix == ".gz" else self.path.open("rb"))
        except OSError as error:
            raise ConfigurationError(f"{self.path}: cannot be read ({error.strerror or error})") from error

    def _lines(self, file: IO[bytes]) -> Iterator[bytes]:
        try:
            yield from file
        except (OSError, EOFError, zlib.error) as error:
            raise ConfigurationError(f"{self.path}: it is broken off, or damaged ({error})") from error

    def read(self, check: Callable[[Logged], str] = lambda logged: "") -> Iterator[Logged]:
        """
        Every entry, in the file's order.

        Args:
            check: says what is wrong with one, or nothing.

        Raises:
            ConfigurationError: a line is no entry; says which.
        """
        with self._opened() as file:
            lines = self._lines(file)
            next(lines)
            for number, line in enumerate(lines, 2):
                try:
                    logged = logged_of(line)
                    why = check(logged)
                except ValueError as error:
                    why = str(error)
                if why:
                    raise ConfigurationError(f"{self.path}: line {number} is no entry: {why}")
                yield logged
