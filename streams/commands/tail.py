"""
Streams as an operator reads them, line by line.

Numbers and wamids are masked unless asked for; what was said is shown, for that is what an operator looks for here.
What lies in several streams, or shards, is read in the order of its time; what comes later, as it comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import sys
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from datetime import tzinfo
from typing import Any

import msgspec

from streams.commands import entry
from streams.connection import Entry, Store, entries, order
from streams.errors import ConfigurationError
from streams.masking import Mask
from streams.moments import edge, local
from streams.stores import Stores
from streams.topology import Topology, suggest

_BLOCK_MS = 2_000
_PAGE = 200
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What would move a terminal's cursor, or begin a line."""
_DIM, _RED, _CYAN, _YELLOW = "2", "31", "36", "33"
_TIMES = frozenset({"received", "first_ms", "last_ms"})
"""Fields that we write of an entry, whose digits are a time and look like a number."""
_NOBODYS = _TIMES | {"id"}
"""An entry's; elsewhere an id may be a sender's, made of a number."""
_OF_STREAMS = ("32", "35", "34", "36", "33")


class Form(msgspec.Struct, kw_only=True):
    """How entries are shown."""

    as_json: bool = False
    full: bool = False
    mask: Mask = msgspec.field(default_factory=Mask)
    colour: bool = False
    streams: Sequence[str] = ()
    """Told apart, where there are several."""
    zone: tzinfo | None = None
    """By whose clock times are shown, and dates meant; None: this machine's."""

    def entry(self, id: str, fields: dict[str, bytes], stream: str = "") -> str:
        plain: dict[str, Any] = {"id": id, **{name: value.decode(errors="replace") for name, value in fields.items()}}
        try:
            plain["body"] = json.loads(plain.get("body", "null"))
        except ValueError:
            pass  # shown as it is
        if not self.full:
            plain = {name: value if name in _NOBODYS else self.mask.field(name, value) for name, value in plain.items()}
        if not self.as_json:
            return self._line(plain, stream)
        told = {"stream": stream} if len(self.streams) > 1 else {}
        return json.dumps(told | plain, ensure_ascii=False)

    def hide(self, name: str, value: object) -> str:
        """One field for a terminal, masked unless asked for."""
        shown = value if self.full or name in _TIMES else self.mask.field(name, value)
        return CONTROL.sub(" ", str(shown))

    def _line(self, plain: dict[str, Any], stream: str) -> str:
        at = local(int(plain["id"].partition("-")[0]), self.zone).strftime("%d.%m. %H:%M:%S")
        words = [(at, _DIM), (plain["id"], _DIM), (plain.get("key", ""), ""), (plain.get("type", ""), _CYAN)]
        if len(self.streams) > 1:
            number, width = self.streams.index(stream), max(map(len, self.streams))
            words.insert(1, (f"{stream:{width}}", _OF_STREAMS[number % len(_OF_STREAMS)]))
        if reason := plain.get("reason"):
            words.append((f"{plain.get('group')}, {plain.get('attempts')} attempts:", _YELLOW))
            words += [(reason, _RED), ("│", _DIM)]
        words.append((_said(plain.get("body")), ""))
        return "  ".join(self._painted(CONTROL.sub(" ", str(text)), colour) for text, colour in words)

    def _painted(self, text: str, colour: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self.colour and colour and text else text


def _said(body: Any) -> str:
    """The words of a message or reply; of anything else its JSON."""
    if isinstance(body, dict):
        for name in ("message", "text", "status"):
            if isinstance(body.get(name), str) and body[name]:
                action = f"  [{body['action']}]" if body.get("action") else ""
                return str(body[name]) + action
    return json.dumps(body, ensure_ascii=False)


def on_a_terminal() -> bool:
    """Whether colours are seen, and wished."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def stream_of(name: str, topology: Topology) -> str:
    """
    The name of a stream or of its dead letters, checked.

    Raises:
        ConfigurationError: streams.toml has none of this name.
    """
    known = [*topology.streams, *(f"{stream}.dead" for stream in topology.streams)]
    if name not in known:
        raise ConfigurationError(f"there is no stream {name!r}{suggest(name, known)}; there are: {', '.join(known)}")
    return name


class Wanted(msgspec.Struct, kw_only=True, frozen=True):
    """Which entries are shown; where nothing is said, all."""

    user: str | None = None
    types: frozenset[str] = frozenset()

    @classmethod
    def of(cls, user: str | None, types: Sequence[str], topology: Topology) -> Wanted:
        """Raises ConfigurationError: this is nobody's id."""
        if user is not None:
            user = entry.person("--user", user, topology)
        return cls(user=user, types=frozenset(types))

    def takes(self, fields: dict[str, bytes]) -> bool:
        if self.user is not None and fields.get("key") != self.user.encode():
            return False
        return not self.types or fields.get("type", b"").decode(errors="replace") in self.types


class _Source:
    """One stream in one shard."""

    def __init__(self, store: Store, stream: str, last: str) -> None:
        self.store, self.stream, self.last = store, stream, last
        dead = stream.removesuffix(".dead")
        self.key = store.keys.dead(dead) if stream.endswith(".dead") else store.keys.stream(stream)
        self.page: deque[Entry] = deque()
        self._more = True

    @property
    def wants_a_page(self) -> bool:
        return self._more and not self.page

    async def turn_page(self) -> None:
        found = entries(await self.store.command("XRANGE", self.key, f"({self.last}", "+", "COUNT", _PAGE))
        self._more = len(found) == _PAGE
        self.passed(found)
        self.page.extend(found)

    def passed(self, found: Sequence[Entry]) -> None:
        if found:
            self.last = found[-1][0]

    async def begin_now(self) -> None:
        """After the newest: unlike `$` that loses nothing between two reads."""
        self.passed(entries(await self.store.command("XREVRANGE", self.key, "+", "-", "COUNT", 1)))


async def follow(
    stores: Stores,
    streams: Sequence[str],
    *,
    since: str,
    count: int | None,
    form: Form,
    wanted: Wanted,
) -> None:
    """
    Print entries as they come.

    Args:
        since: an entry's id (what comes after it), a time as `moments.edge` has it, or `$`, which is now.
        count: end after so many.
        form: with the zone in which a date is meant.

    Raises:
        ConfigurationError: `since` is none of these.
        Unavailable: Redis cannot be reached.
    """
    past = since not in ("$", "now")
    first = await _behind(stores, since, form.zone) if past else "0-0"
    sources = [_Source(store, stream, first) for store in stores for stream in streams]
    left = count
    async with contextlib.aclosing(_everything(sources, past=past)) as everything:
        async for stream, id, fields in everything:
            if wanted.takes(fields):
                sys.stdout.write(form.entry(id, fields, stream) + "\n")
                sys.stdout.flush()
                left = None if left is None else left - 1
                if left == 0:
                    return


async def _behind(stores: Stores, since: str, zone: tzinfo | None) -> str:
    """The id behind which it begins."""
    seconds, micros = await stores.first.command("TIME")
    at = edge("--from", since, int(seconds) + int(micros) / 1e6, zone)
    if "-" in at:
        return at
    return f"{int(at) - 1}-{_LAST}" if int(at) else "0-0"


_LAST = (1 << 64) - 1
"""The highest number of an id."""

_Told = tuple[str, str, dict[str, bytes]]
"""Stream, id, fields."""


async def _everything(sources: Sequence[_Source], *, past: bool) -> AsyncGenerator[_Told]:
    if past:
        async for told in _past(sources):
            yield told
    else:
        await asyncio.gather(*(source.begin_now() for source in sources))
    found: asyncio.Queue[_Told] = asyncio.Queue(maxsize=_PAGE)
    readers = [asyncio.create_task(_read(of_store, found)) for of_store in _by_store(sources)]
    try:
        while True:
            coming = asyncio.create_task(found.get())
            await asyncio.wait([coming, *readers], return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                coming.cancel()
                await asyncio.gather(*(reader for reader in readers if reader.done()))  # it has failed
            yield await coming
    finally:
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


async def _past(sources: Sequence[_Source]) -> AsyncGenerator[_Told]:
    """What is there already, the oldest first."""
    while True:
        if empty := [source for source in sources if source.wants_a_page]:
            await asyncio.gather(*(source.turn_page() for source in empty))
        if not (there := [source for source in sources if source.page]):
            return
        oldest = min(there, key=lambda source: order(source.page[0][0]))
        id, fields = oldest.page.popleft()
        yield oldest.stream, id, fields


def _by_store(sources: Sequence[_Source]) -> list[list[_Source]]:
    stores = {id(source.store): source.store for source in sources}.values()
    return [[source for source in sources if source.store is store] for store in stores]


async def _read(sources: Sequence[_Source], found: asyncio.Queue[_Told]) -> None:
    """Of one store, for ever."""
    follower = sources[0].store.follower()
    of_key = {source.key: source for source in sources}
    try:
        while True:
            after = {source.key: source.last for source in sources}
            read = [(of_key[key], page) for key, page in await follower.read(after, _BLOCK_MS, count=_PAGE)]
            for source, page in read:
                source.passed(page)
            told = [(source.stream, id, fields) for source, page in read for id, fields in page]
            for each in sorted(told, key=lambda each: order(each[1])):
                await found.put(each)
    finally:
        await follower.close()
