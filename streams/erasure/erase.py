"""
Everything of one person goes: from Redis, from what groups have written elsewhere, and from the disk.

The order makes it safe while the person writes and workers work, and whole after any interruption: the same command
goes on.  Knows no terminal and no HTTP.  How traces are found and taken away stands in traces.py.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import msgspec

from streams import index, log
from streams.connection import Store
from streams.effects import Elsewhere, Handler
from streams.erasure import disk, rewriting
from streams.erasure.traces import Look, Traces
from streams.errors import CauceError, ConfigurationError, Partly
from streams.groups import registered
from streams.handlers import load
from streams.masking import Mask
from streams.settings import Settings
from streams.sieve import INBOUND
from streams.stores import Stores
from streams.tables import Group
from streams.topology import Topology

HEARD = 5.0
"""Seconds in which every worker has beaten, and dropped the work that was taken from it."""

OUTSIDE = 60.0
"""Seconds that a group has to delete what it has written elsewhere."""

ON_DISK = 300.0
"""Seconds that a server has to rewrite its files."""

SHORT = 10_000
"""Entries of a stream that is written anew in a moment, also for somebody who has left nothing."""

_ARCHIVE = "processors.archive."
"""Its groups; what they kept outlives them, also after `cauce group drop`."""

_log = log.get("erase")


class Receipt(msgspec.Struct, kw_only=True):
    """What was done, without the person."""

    status: Literal["erased", "incomplete", "found"]
    """found: it was only counted."""
    digest: str | None = None
    """Keyed, of the person: two receipts of one person within 8 days have the same."""
    at: str
    """UTC, `YYYY-MM-DDTHH:MM:SSZ`."""
    counts: dict[str, int] = {}
    """How much of what there was: entries by stream, keys by kind, and what groups have deleted elsewhere."""
    rewritten: list[str] = []
    """What was written again, so that no deleted byte is left in it."""
    left: list[str] = []
    """What could not be done, and why."""
    notes: list[str] = []
    """Where else it may lie, which is not ours to reach."""


class Erasure:
    """
    One person's.

    Args:
        look: told of what is being looked at.
        within: seconds for which a server is waited for that rewrites its files.
        heard: seconds after which every worker has dropped what was taken from it.
    """

    def __init__(
        self,
        stores: Stores,
        topology: Topology,
        settings: Settings,
        person: str,
        *,
        look: Look = lambda _what, _more: None,
        within: float = ON_DISK,
        heard: float = HEARD,
    ) -> None:
        self._stores, self._topology, self._settings = stores, topology, settings
        self._person, self._look, self._within, self._heard = person, look, within, heard
        self._counts: Counter[str] = Counter()
        self._left: list[str] = []
        self._rewritten: list[str] = []
        self._notes: list[str] = []
        self._groups: dict[str, Group] = {}

    async def count(self) -> Receipt:
        """
        What there is, with nothing done.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        self._groups = await self._all_groups()
        handlers = await asyncio.to_thread(self._handlers)
        for person in [*await self._traces(self._person).elsewhere(), self._person]:
            await self._count(self._traces(person), person, handlers)
        self._counts["replays"] += len(self._replays())
        return self._receipt("found")

    async def run(self) -> Receipt:
        """
        Erase; of what could not be done the receipt tells.

        Raises:
            Unavailable: Redis cannot be reached; run it again to go on.
        """
        self._groups = await self._all_groups()
        handlers = await asyncio.to_thread(self._handlers)
        forgets = {group: handler.forget for group, handler in handlers.items() if handler.forget is not None}
        # Their other number last goes the one from whose messages it is known.
        others = await self._traces(self._person).elsewhere()
        digest = ""
        for person in [*others, self._person]:
            digest = await self._one(person, forgets)
        self._delete_replays()
        await self._on_disk()
        receipt = self._receipt("incomplete" if self._left else "erased", digest[:16])
        _log.info(
            "person.erased", digest=receipt.digest, status=receipt.status,
            found=sum(receipt.counts.values()), left=len(receipt.left),
        )  # fmt: skip
        return receipt

    def _receipt(self, status: Literal["erased", "incomplete", "found"], digest: str | None = None) -> Receipt:
        return Receipt(
            status=status,
            digest=digest,
            at=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            counts=dict(self._counts),
            rewritten=self._rewritten,
            left=self._left,
            notes=self._notes,
        )

    def _traces(self, person: str) -> Traces:
        return Traces(self._stores.of(person), self._topology, person, self._look)

    async def _count(self, traces: Traces, person: str, handlers: dict[str, Handler]) -> None:
        for key, name in (await traces.streams()).items():
            self._counts[name] += len(await traces.whose(key))
        self._counts.update(await traces.state())
        self._counts.update(await traces.scattered(None))
        for group, handler in handlers.items():
            if handler.kept is not None:
                self._counts.update(await self._outside(group, "count", handler.kept, person))
            elif handler.forget is not None:
                self._note(self._notes, f"what group {group} has written elsewhere, of which it does not say how much")

    async def _one(self, person: str, forgets: dict[str, Elsewhere]) -> str:
        traces, store = self._traces(person), self._stores.of(person)
        tombstone = await traces.tombstone()
        found = Counter(tombstone.state)
        found["requests_waiting"] += tombstone.requests
        in_work, streams = tombstone.in_work, await traces.streams()
        for key, last in tombstone.last.items():
            deleted, working = await traces.wipe(key, list(await traces.whose(key, last)))
            found[streams[key]] += deleted
            in_work += working
        await index.forget(store, person)
        found.update(await traces.scattered(tombstone.last))
        found["turns_in_work"] += in_work
        if in_work and forgets:
            await asyncio.sleep(self._heard)  # a turn may be writing elsewhere until its worker has heard of it
        for group, forget in forgets.items():
            found.update(await self._outside(group, "delete", forget, person))
        known = tombstone.again or any(found.values())
        await self._anew(store, streams, thorough=known)
        self._counts.update(found)
        return tombstone.digest

    async def _anew(self, store: Store, streams: dict[str, str], *, thorough: bool) -> None:
        """
        Args:
            thorough: however long they are; else only those that cost nothing, for who has left nothing may have had
                something in them that was trimmed a moment ago.
        """
        for key, name in streams.items():
            if not thorough and await store.command("XLEN", key) > SHORT:
                continue
            try:
                entries = await rewriting.write_anew(store, key)
            except rewriting.NotRewritten as error:
                self._left.append(f"what was deleted from {name} is in Redis's memory until it is trimmed: {error}")
            else:
                if entries is not None:
                    self._look(f"{name}, written anew", entries)
                    self._note(self._rewritten, name)

    async def _on_disk(self) -> None:
        # All of them: where a person's keys lay before they were moved, the files hold them still.
        servers = await self._stores.servers()
        for told in await asyncio.gather(*(disk.rewrite(store, self._within) for store in servers)):
            for name in told.rewritten:
                self._note(self._rewritten, name)
            for why in told.left:
                self._note(self._left, why)
            if told.replicas:
                self._note(
                    self._notes, f"{told.replicas} replicas hold it on their disks until they rewrite their own files"
                )
        self._note(self._notes, "backups, n8n, WhatsApp, and whoever the webhooks have told keep copies of their own")

    @staticmethod
    def _note(notes: list[str], text: str) -> None:
        if text not in notes:
            notes.append(text)

    # Outside Redis

    async def _all_groups(self) -> dict[str, Group]:
        """Also those that streams.toml has no more, and the archive: what was written elsewhere is there still."""
        told = await registered(self._stores.of(self._person))
        found = {name: Group(name=name, reads=each.reads, handler=each.handler) for name, each in told.items()}
        found |= self._topology.groups
        kept = self._settings.database_url is not None or (self._settings.data_dir / "archive.db").exists()
        if kept and not any(group.handler.startswith(_ARCHIVE) for group in found.values()):
            found["archived"] = Group(name="archived", reads=INBOUND, handler=f"{_ARCHIVE}handler:messages")
        return found

    def _handlers(self) -> dict[str, Handler]:
        """Who knows what each group has written elsewhere; a group that cannot be asked is left over, or noted."""
        found = {}
        for name, group in self._groups.items():
            try:
                found[name] = load(group, self._topology)
            except ConfigurationError as error:
                self._left.append(f"group {name} could not be asked what it keeps elsewhere: {error}")
                continue
            if found[name].outside and found[name].forget is None:
                self._note(self._notes, f"what group {name} has written elsewhere: its handler has no `forget`")
        return found

    async def _outside(self, group: str, verb: str, act: Elsewhere, person: str) -> dict[str, int]:
        try:
            async with asyncio.timeout(OUTSIDE):
                done = await act(person, self._groups[group], self._topology, self._settings)
        except Exception as error:  # whatever it has written to may be away
            why = Mask().person(str(error)) if isinstance(error, CauceError) else type(error).__name__
            done, much = (error.done, "all of what") if isinstance(error, Partly) else ({}, "what")
            self._left.append(f"group {group} could not {verb} {much} it has written: {why}")
        return {f"{group}.{what}": count for what, count in done.items()}

    def _replays(self) -> list[Path]:
        """Files of replays, which hold what people wrote; whose is in which, nobody keeps book of."""
        folder = self._settings.data_dir / "replays"
        return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []

    def _delete_replays(self) -> None:
        for path in self._replays():
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                self._left.append(f"{path.name} of DATA_DIR/replays cannot be deleted: {error.strerror}")
            else:
                self._counts["replays"] += 1
