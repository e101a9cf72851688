"""
What a request brings, to the shards its people are in.

Within a shard a request is all or nothing.  One that spans several (a webhook of Meta's with several people) may fail
half-way; then it is answered 503, and its repeat appends only what is missing (docs/decisions/shards.md).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from ingress.append import Appended, Appender, Arrival
from ingress.durability import Durability
from streams.errors import Unavailable
from streams.keys import shard_of
from streams.stores import Each, Stores
from streams.topology import Topology


class Appenders(Each[Appender]):
    """Appends for one process, in every shard; safe for many tasks at once."""

    def __init__(self, stores: Stores, topology: Topology) -> None:
        digest = secrets.token_hex(32).encode()
        self.durability = Durability(topology.durability)
        super().__init__([Appender(store, topology, digest, self.durability) for store in stores])
        self._stores = stores
        self._agreed = len(stores) == 1
        self._prepared = False

    async def prepare(self) -> None:
        """
        See that every server can keep messages as durably as is wanted, unless that has been seen.

        Raises:
            ConfigurationError: one cannot.
            Unavailable: one cannot be reached.
        """
        if not self._prepared:
            for store in self._stores:
                await self.durability.prepare(store)
            self._prepared = True

    def takes(self, stream: str) -> bool:
        """Whether streams.toml has it."""
        return self.first.takes(stream)

    async def append(self, arrivals: Sequence[Arrival]) -> list[Appended]:
        """
        Append these; returns when Redis has them all.

        Raises:
            Backlog: a stream is full.
            Unavailable: Redis is away or full.  With `maybe_written` the same call again is safe, and tells.
        """
        if not self._agreed:
            await self._agree()
        if len(self) == 1:
            return await self.first.append(arrivals)
        parts: dict[int, list[int]] = {}
        for number, arrival in enumerate(arrivals):
            parts.setdefault(shard_of(arrival.key, len(self)), []).append(number)
        every = list(self)
        done = await asyncio.gather(
            *(every[shard].append([arrivals[number] for number in numbers]) for shard, numbers in parts.items()),
            return_exceptions=True,
        )
        results: dict[int, Appended] = {}
        for numbers, outcome in zip(parts.values(), done, strict=True):
            if isinstance(outcome, BaseException):
                raise outcome
            results.update(zip(numbers, outcome, strict=True))
        return [results[number] for number in range(len(arrivals))]

    def appending(self, arrival: Arrival) -> asyncio.Future[list[Appended]] | None:
        """`append` of one, at once; None, and nothing was done, where something has to be asked before."""
        if not self._agreed:
            return None
        appender = self.of(arrival.key)
        return None if appender.pressure.high else appender.appending([arrival])

    async def _agree(self) -> None:
        """One key for the hashes of all shards, so that a mark still says who wrote when people move to another."""
        first = self._stores.first
        name = first.keys.of("digest")
        try:
            await first.command("SET", name, self.first.digest, "NX")
            told = await first.command("GET", name)
        except Unavailable as error:
            # Said anew: none of the messages was written.
            raise Unavailable(str(error), retry_after=error.retry_after, told=error.told) from error
        for appender in self:
            appender.digest = told
        self._agreed = True

    async def close(self) -> None:
        """Let what is being written end."""
        for appender in self:
            await appender.close()
