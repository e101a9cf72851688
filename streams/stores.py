"""
All shards of one bot: a store for each, and which one is a person's.

With several shards, and on a Cluster with one as well, every key carries its shard's tag, so that a shard's keys share
a slot.  Whether that is how they lie in this Redis is layout.py's to say.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, TypeVar

from msgspec.structs import replace

from streams import addresses, routes
from streams.connection import Store, prefix
from streams.keys import Keys, shard_of
from streams.outage import Outage

T = TypeVar("T")


class Each(Generic[T]):
    """One of something for each shard."""

    def __init__(self, all: Sequence[T]) -> None:
        self._all = all

    def of(self, person: str) -> T:
        """The one of a person's shard."""
        return self._all[shard_of(person, len(self._all))]

    @property
    def first(self) -> T:
        """The one of shard 0, where also lies what is there once."""
        return self._all[0]

    def __iter__(self) -> Iterator[T]:
        return iter(self._all)

    def __len__(self) -> int:
        return len(self._all)


class Stores(Each[Store]):
    """A store for each shard."""

    def __init__(
        self,
        all: Sequence[Store],
        layout: Store,
        close: Callable[[], Awaitable[None]],
        masters: Callable[[], Awaitable[list[Store]]] | None = None,
    ) -> None:
        super().__init__(all)
        self.layout = layout
        """Where the key lies that tells how the others do."""
        self.close = close
        self._masters = masters
        """Of a cluster."""

    @property
    def clustered(self) -> bool:
        return self._masters is not None

    async def servers(self) -> list[Store]:
        """
        One of each server: of a cluster's masters also those where keys of ours lay once.

        Raises:
            Unavailable: the cluster cannot be reached.
        """
        return [self.first] if self._masters is None else await self._masters()

    @classmethod
    def open(cls, url: str, *, namespace: str = "", shards: int = 1, patience: float = 5.0) -> Stores:
        """
        Args:
            url: as REDIS_URL.
            namespace: prefix of every key; its `:` is added where it is missing.

        Raises:
            ValueError: it is no such URL.
        """
        ways = routes.open(addresses.parse(url))
        tagged = shards > 1 or ways.clustered
        outage = Outage()
        plain = Keys(namespace=prefix(namespace), shards=shards)

        def store(keys: Keys) -> Store:
            return Store(ways.to(keys.of("layout")), keys, patience, outage)

        each = [replace(plain, shard=shard, tag=str(shard) if tagged else "") for shard in range(shards)]
        stores = [store(keys) for keys in each]
        if not isinstance(ways, routes.Cluster):
            return cls(stores, store(plain), ways.close)

        async def masters() -> list[Store]:
            await store(plain).ping()  # who cannot be reached is waited for
            return [Store(way, plain, patience, outage) for way in ways.masters()]

        return cls(stores, store(plain), ways.close, masters)

    @classmethod
    def alone(cls, store: Store) -> Stores:
        """One shard, in a store that is there already."""
        return cls([store], store, store.close)
