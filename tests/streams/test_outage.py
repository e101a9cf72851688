"""What one process says of a Redis that is away: once that it is lost, once that it is back, whoever finds it so."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Server

from streams import log
from streams.connection import Store
from streams.errors import Unavailable
from streams.settings import Settings
from streams.stores import Stores


class Heard:
    """The lines of our own log, as programs read them."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, text: str) -> None:
        self.lines += [json.loads(line) for line in text.splitlines()]

    def flush(self) -> None:
        pass

    def isatty(self) -> bool:
        return False

    @property
    def events(self) -> list[str]:
        return [line["event"] for line in self.lines if line["event"].startswith("redis.")]


@pytest.fixture
def heard() -> Iterator[Heard]:
    root = logging.getLogger()
    before, heard = root.handlers[:], Heard()
    log.configure(Settings(log_format="json"), heard)
    yield heard
    root.handlers[:] = before


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.connection.LOST_AFTER", 0.0)


@pytest.mark.slow
async def test_of_all_who_find_redis_away_one_says_so_and_one_that_it_is_back(own_server: Server, heard: Heard) -> None:
    stores = Stores.open(own_server.url, shards=3, patience=0.1)
    for store in stores:
        await store.ping()
    own_server.kill()
    for _ in range(3):
        found = await asyncio.gather(*(store.ping() for store in stores), return_exceptions=True)
        assert all(isinstance(error, Unavailable) and error.told for error in found)
    own_server.start()
    await asyncio.gather(*(store.ping() for store in stores))
    await stores.first.ping()
    assert heard.events == ["redis.lost", "redis.back"]
    assert heard.lines[0]["level"] == "warning"
    assert heard.lines[-1]["after_s"] >= 0.1
    await stores.close()


async def test_a_redis_that_was_never_there_is_not_lost(own_server: Server, heard: Heard) -> None:
    own_server.kill()
    store = Store.open(own_server.url, patience=0.1)
    with pytest.raises(Unavailable):
        await store.ping()
    assert heard.events == []


@pytest.mark.slow
async def test_a_process_that_was_stopped_has_not_lost_redis(
    own_server: Server, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streams.connection.SILENCE", 0.3)
    monkeypatch.setattr("streams.connection.OVERSLEPT", 0.2)
    monkeypatch.setattr("streams.connection.LOST_AFTER", 0.2)
    store = Store.open(own_server.url, patience=0.2)
    await store.ping()
    # Given a call that is under way
    assert own_server.process is not None
    own_server.process.send_signal(signal.SIGSTOP)
    asking = asyncio.create_task(store.command("PING"))
    await asyncio.sleep(0.05)  # on its way
    # When this process is stopped for longer than it waits for an answer, which comes meanwhile
    own_server.process.send_signal(signal.SIGCONT)
    time.sleep(0.8)  # noqa: ASYNC251 - that is the stop
    # Then it has its answer, and Redis was never away
    assert await asking == b"PONG"
    assert heard.events == []
    await store.close()


async def test_a_redis_that_only_reads_is_lost_until_it_writes_again(own_server: Server, heard: Heard) -> None:
    store = Store.open(own_server.url, patience=0.1)
    await store.ping()
    await store.command("REPLICAOF", "127.0.0.1", "1")
    for _ in range(2):
        with pytest.raises(Unavailable, match="takes no writes"):
            await store.command("HSET", "h", "f", "v")
        await store.ping()  # what only reads is answered all the while
    assert heard.events == ["redis.lost"]
    await store.command("REPLICAOF", "NO", "ONE")
    await store.command("HSET", "h", "f", "v")
    assert heard.events == ["redis.lost", "redis.back"]
    await store.close()


async def test_one_bad_connection_is_no_outage_where_others_are_answered(store: Store, heard: Heard) -> None:
    await store.ping()
    since = asyncio.get_running_loop().time()
    await store.ping()
    store._outage.fails("PING", since - 1, "its own connection was bad", readable=False)
    assert heard.events == []


async def test_connections_to_a_server_that_was_demoted_are_left(own_server: Server) -> None:
    """Behind one address: who was connected to the old master would be refused by it for ever."""
    store = Store.open(own_server.url, patience=0.1)
    follower = store.follower()
    names = {await _name(store), await _followed(store, follower)}
    await store.command("REPLICAOF", "127.0.0.1", "1")
    with pytest.raises(Unavailable, match="takes no writes"):
        await store.command("SET", "k", "v")
    await store.command("REPLICAOF", "NO", "ONE")
    assert not names & {await _name(store), await _followed(store, follower)}
    await follower.close()
    await store.close()


async def _name(store: Store) -> bytes:
    return bytes(str(await store.command("CLIENT", "ID")), "ascii")


async def _followed(store: Store, follower: Any) -> bytes:
    """The id of the follower's connection, as the server lists it."""
    await follower.read({"s": "0-0"}, block_ms=1)
    rows = (await store.command("CLIENT", "LIST")).decode().splitlines()
    [row] = [row for row in rows if " cmd=xread " in row]
    return row.split()[0].removeprefix("id=").encode()
