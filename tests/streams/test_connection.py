"""The one place that knows redis-py, on a real Redis: what is cancelled, stalled or cut on the way."""

from __future__ import annotations

import asyncio
import signal

import pytest
from conftest import Server
from redis.exceptions import ResponseError

from streams.connection import Store, code_of
from streams.errors import Unavailable


@pytest.mark.parametrize("steps", range(16))
async def test_a_call_ends_when_it_is_cancelled_wherever_it_is(store: Store, steps: int) -> None:
    async def for_ever() -> None:
        while True:
            await store.command("PING")

    # Given a loop that calls Redis without a pause
    calling = asyncio.create_task(for_ever())
    await store.ping()
    for _ in range(steps):
        await asyncio.sleep(0)
    # When it is cancelled at some step of a call
    calling.cancel()
    ended, _ = await asyncio.wait({calling}, timeout=5)
    # Then it ends, and the connection that it used gives nobody another's answer
    assert ended
    assert [await store.command("ECHO", f"{n}") for n in range(3)] == [b"0", b"1", b"2"]


async def test_a_redis_that_does_not_answer_is_away_and_then_back(own_server: Server, monkeypatch) -> None:
    monkeypatch.setattr("streams.connection.SILENCE", 0.1)
    store = Store.open(own_server.url, patience=0.0)
    await store.ping()
    assert own_server.process is not None
    own_server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await store.command("ECHO", "lost")
    finally:
        own_server.process.send_signal(signal.SIGCONT)
    store.patience = 5
    assert await store.command("ECHO", "found") == b"found"
    await store.close()


async def test_a_follower_whose_answer_came_too_late_starts_anew(own_server: Server, monkeypatch) -> None:
    monkeypatch.setattr("streams.connection.SILENCE", 0.1)
    store = Store.open(own_server.url)
    follower = store.follower()
    first = (await store.command("XADD", "s", "*", "n", "1")).decode()
    assert own_server.process is not None
    own_server.process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(Unavailable):
            await follower.read({"s": "0-0"}, block_ms=10)
    finally:
        own_server.process.send_signal(signal.SIGCONT)
    # Then the late answer to the first read is not taken for the answer to the next one
    monkeypatch.undo()
    second = (await store.command("XADD", "s", "*", "n", "2")).decode()
    found = await follower.read({"s": first}, block_ms=10)
    assert [(name, [id for id, _ in entries]) for name, entries in found] == [("s", [second])]
    assert await follower.read({"s": second}, block_ms=10) == []
    await follower.close()
    await store.close()


@pytest.mark.parametrize("told", [
    "NOREPLICAS Not enough good replicas to write.", "MISCONF Redis is configured to save RDB snapshots",
    "ERR Error running script (call to f_1): @user_script:27: -READONLY You can't write against a read only replica.",
    "BUSY Redis is busy running a script.",
])  # fmt: skip
def test_a_server_that_takes_no_writes_now_is_worth_asking_again(told: str) -> None:
    assert code_of(ResponseError(told, status_code="ERR")) in ("NOREPLICAS", "MISCONF", "READONLY", "BUSY")


@pytest.mark.parametrize("told", ["BUSYGROUP Consumer Group name already exists", "WRONGTYPE Operation against a key"])
def test_an_error_of_the_call_itself_is_not(told: str) -> None:
    assert code_of(ResponseError(told)) == ""


async def test_a_write_waits_for_a_master_that_has_lost_its_replicas(each_own_server: Server) -> None:
    store = Store.open(each_own_server.url)
    await store.command("CONFIG", "SET", "min-replicas-to-write", "1")
    writing = asyncio.create_task(store.command("SET", "k", "v"))
    assert await store.command("GET", "k") is None
    await store.command("CONFIG", "SET", "min-replicas-to-write", "0")
    assert await writing == b"OK"
    await store.command("CONFIG", "SET", "min-replicas-to-write", "1")
    store.patience = 0
    with pytest.raises(Unavailable, match="takes no writes now"):
        await store.command("SET", "k", "w")
    await store.close()
