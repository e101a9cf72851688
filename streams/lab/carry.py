"""
A range of the log, carried: into a file of JSON lines, and out of one or of a run onto streams, marked as replayed.

Appending is exact: each batch goes once, however often and by whomever it is tried, for how far it has come is kept
beside the stream.  Asks nobody, and knows no command line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

from streams import wire
from streams.connection import Store
from streams.errors import CauceError, ConfigurationError
from streams.keys import shard_of
from streams.lab.logbook import ID, NO_ID, Head, Logged, line_of
from streams.lab.pseudonyms import Pseudonyms
from streams.lab.replayed import Label
from streams.line import Argument
from streams.scripts import script
from streams.sieve import INBOUND
from streams.stores import Stores
from streams.topology import suggest

_CARRY = script(__file__, "carry.lua")

BATCH = 500
"""Entries of one call."""

MARKED_MS = 7 * 86_400_000
"""How long it is known that a file was imported: as long as a run is kept."""

_KEPT = ("key", "type", "body", "v", "trace", "origin", "turn")
"""What of an entry is carried; the rest says what became of it where it was."""

KNOWN = (*_KEPT, "received", "now", "door", "for", "replayed", "group", "reason", "attempts", "first_ms", "last_ms")
"""Fields that an entry, or a dead letter, may have in a file."""

Step = Callable[[int], None]


class Full(CauceError):
    """The stream has no room for it; what went before stays."""


def write(path: Path, head: Head, entries: Iterable[Logged], pseudonyms: Pseudonyms | None, step: Step) -> int:
    """
    Write a file, which is there whole or not at all; how many entries it has.

    Raises:
        ConfigurationError: it is there already, or cannot be written.
    """
    part = path.with_name(f".{path.name}.part")
    count = 0
    try:
        if path.exists():
            raise ConfigurationError(f"{path}: is there already; name another file, or remove it")
        with os.fdopen(os.open(part, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(wire.encode(head) + b"\n")
            for logged in entries:
                if pseudonyms is not None:
                    logged = logged._replace(fields=pseudonyms.fields(logged.fields))
                file.write(line_of(logged) + b"\n")
                count += 1
                step(1)
        part.replace(path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        part.unlink(missing_ok=True)
    return count


def fault(logged: Logged, streams: Collection[str]) -> str:
    """
    What makes this no entry for these streams; empty where nothing does.

    What would be appended is read by every group of the stream: one without a type or with half a body fails in each.
    """
    if logged.stream not in streams:
        return f"stream {logged.stream!r} is none of those that the first line names: {', '.join(streams)}"
    if not ID.fullmatch(logged.id):  # a dead letter's `origin`
        return NO_ID.format(logged.id)
    for name in logged.fields:
        if name not in KNOWN:
            return f"there is no field {name!r}{suggest(name, KNOWN)}"
    for name in ("key", "type", "body"):
        if not logged.fields.get(name):
            return f"{name} is missing"
    if (version := logged.text("v") or wire.VERSION) != wire.VERSION:
        return f"v is {version!r}, and this release knows {wire.VERSION!r}; update Cauce"
    return _illegible(logged)


def _illegible(logged: Logged) -> str:
    for name, value in logged.fields.items():
        try:
            text = value.decode()
        except UnicodeDecodeError:
            return f"{name} is no UTF-8"
        if name == "origin" and not ID.fullmatch(text):
            return f"origin {text!r} is no entry's id"
        if name == "turn" and Label.read(text) is None:
            return f"turn {text!r} is none; write <group> <id of its last entry> <milliseconds of its end>"
    try:
        body = json.loads(logged.fields["body"])
    except (ValueError, RecursionError) as error:
        return f"body is no JSON: {error}"
    return "" if isinstance(body, dict) else f"body is no JSON object, but {logged.text('body')[:40]}"


class Carried(NamedTuple):
    """What became of entries."""

    appended: int = 0
    before: int = 0
    """Appended by an earlier call, and not again."""
    anew: int = 0
    """Of those that were appended, to how many the stream gave new ids, though theirs were to be kept."""


class Carrier:
    """
    Args:
        name: of the file or run; what it has appended is not appended again.
        max_len: stream → how many entries it may have.
        keep_ids: where a stream has none that is higher.
    """

    def __init__(self, stores: Stores, name: str, max_len: dict[str, int], *, keep_ids: bool) -> None:
        self._shards, self._name, self._max_len, self._keep_ids = list(stores), name, max_len, keep_ids

    async def append(self, entries: Iterable[Logged], step: Step) -> Carried:
        """
        Args:
            entries: the same in the same order, whenever it is tried.

        Raises:
            Full: it stops there.
            Unavailable: Redis cannot be reached.
        """
        appended, before, anew = 0, 0, 0
        for number, batch in enumerate(_batches(entries), 1):
            parts: dict[tuple[str, int], list[list[Argument]]] = {}
            for logged in batch:
                shard = shard_of(logged.key, len(self._shards))
                parts.setdefault((logged.stream, shard), []).append(_flat(logged))
            for (stream, shard), part in parts.items():
                count, renamed = await self._batch(self._shards[shard], stream, number, list(chain(*part)))
                appended, before, anew = appended + count, before + len(part) - count, anew + renamed
            step(len(batch))
        return Carried(appended, before, anew if self._keep_ids else 0)

    async def _batch(self, store: Store, stream: str, number: int, flat: list[Argument]) -> tuple[int, int]:
        marker = store.keys.of("carried", f"{self._name}:{stream}")
        keys = [store.keys.stream(stream), marker, store.keys.of("digest")]
        index = store.keys.of("index") + ":" if stream == INBOUND else ""
        most = self._max_len[stream]
        done, anew = await store.run(_CARRY, keys, [number, MARKED_MS, most, int(self._keep_ids), index, *flat])
        if done < 0:
            raise Full(
                f"{stream} would have more than its max_len of {most:,} entries; the same command goes on from here"
            )
        return done, anew


def _batches(entries: Iterable[Logged]) -> Iterator[list[Logged]]:
    left = iter(entries)
    while batch := list(islice(left, BATCH)):
        yield batch


def _flat(logged: Logged) -> list[Argument]:
    fields: list[Argument] = []
    for name in _KEPT:
        if name in logged.fields:
            fields += [name, logged.fields[name]]
    fields += ["replayed", "1"]
    return [logged.id, len(fields), *fields]
