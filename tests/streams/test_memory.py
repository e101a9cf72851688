"""Whether Redis may throw away what it holds, as far as it tells this user."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator

import pytest
from conftest import Server, emptied

from streams import memory
from streams.connection import Store
from streams.errors import ConfigurationError

TELLING = ["+@all", "+@all -config", "+@all -info"]
"""Rights of users who learn the policy, by INFO or by CONFIG."""

SILENT = "+@all -config -info"


@contextlib.asynccontextmanager
async def redis_with(server: Server, policy: str, rights: str) -> AsyncIterator[Store]:
    """An empty Redis of this policy, seen by a user of these rights."""
    owner = emptied(server)
    await owner.command("CONFIG", "SET", "maxmemory-policy", policy)
    await owner.command("ACL", "SETUSER", "bot", "reset", "on", ">pw", "~*", "&*", *rights.split())
    store = Store.open(server.url.replace("unix://", "unix://bot:pw@"))
    try:
        yield store
    finally:
        await owner.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
        await owner.command("ACL", "DELUSER", "bot")
        await store.close()
        await owner.close()


@pytest.mark.parametrize("rights", TELLING)
async def test_production_does_not_start_on_a_redis_that_evicts(each_server: Server, rights: str) -> None:
    async with redis_with(each_server, "allkeys-lru", rights) as store:
        with pytest.raises(ConfigurationError, match=r"is allkeys-lru.*set maxmemory-policy to noeviction") as refused:
            await memory.refuse_eviction([store], production=True)
    assert "your host's console" in str(refused.value)


@pytest.mark.parametrize("rights", TELLING)
async def test_development_starts_with_a_warning(each_server: Server, rights: str, caplog) -> None:
    async with redis_with(each_server, "volatile-ttl", rights) as store:
        await memory.refuse_eviction([store], production=False)
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.WARNING, "redis.evicts")]


@pytest.mark.parametrize("production", [True, False])
async def test_a_policy_that_nobody_tells_is_a_warning(each_server: Server, production: bool, caplog) -> None:
    async with redis_with(each_server, "noeviction", SILENT) as store:
        await memory.refuse_eviction([store], production=production)
        assert await memory.look(store) == memory.Memory()
    [record] = caplog.records
    assert (record.levelno, record.message) == (logging.WARNING, "redis.policy_unknown")


@pytest.mark.parametrize("rights", TELLING)
async def test_a_redis_that_keeps_everything_starts_without_a_word(each_server: Server, rights: str, caplog) -> None:
    async with redis_with(each_server, "noeviction", rights) as store:
        await memory.refuse_eviction([store], production=True)
        seen = await memory.look(store)
    assert (seen.policy, seen.limit, seen.share) == ("noeviction", 0, 0.0)
    assert caplog.records == []
