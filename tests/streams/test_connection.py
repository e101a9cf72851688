"""The one place that knows redis-py, on a real Redis: what is cancelled, stalled or cut on the way."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import Any

import pytest
import uvloop
from conftest import Server
from redis.exceptions import ResponseError

from streams.connection import Store, code_of
from streams.errors import Unavailable
from tests.faults.proxy import Proxy


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


@pytest.mark.parametrize("after", [0, 1, 7])
async def test_a_call_cancelled_in_the_middle_of_its_reply_leaves_nothing_for_the_next_one(
    any_server: Server, after: int
) -> None:
    async with Proxy(any_server.socket) as wire:
        store = Store.open(wire.redis_url)
        # Given a reply of which only some bytes have come
        await store.ping()
        stopped = wire.hold(after)
        calling = asyncio.create_task(store.command("ECHO", "Ana's"))
        await stopped.wait()
        # When whoever asked is gone, and the rest comes
        calling.cancel()
        await asyncio.wait({calling})
        wire.heal()
        # Then everybody gets their own
        assert calling.cancelled()
        assert [await store.command("ECHO", f"{n}") for n in range(3)] == [b"0", b"1", b"2"]
        await store.close()


async def test_a_command_whose_reply_was_lost_is_repeated_here_and_by_nobody_else(any_server: Server) -> None:
    async with Proxy(any_server.socket) as wire:
        store, alone = Store.open(wire.redis_url), Store.open(wire.redis_url, patience=0)
        await store.command("DEL", "counted")
        # Given that two replies are swallowed: it is executed a third time, and no more
        wire.spoil(2, of="INCR")
        assert await store.command("INCR", "counted") == 3
        # And whoever does not repeat has done it once, and is told that it may be done
        wire.spoil(1, of="INCR")
        with pytest.raises(Unavailable) as lost:
            await alone.command("INCR", "counted")
        assert lost.value.maybe_written
        assert await store.command("GET", "counted") == b"4"
        await store.close()
        await alone.close()


@pytest.mark.slow
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("steps", [0, 3, 30])
def test_a_connection_that_was_reset_while_it_was_idle_is_replaced(any_server: Server, run: Any, steps: int) -> None:
    async def story() -> None:
        async with Proxy(any_server.socket) as wire:
            store, alone = Store.open(wire.redis_url), Store.open(wire.redis_url, patience=0)
            follower = store.follower()
            try:
                # Given connections that have been used, and were reset
                await asyncio.gather(store.ping(), alone.ping(), follower.read({"s": "0-0"}, block_ms=1))
                wire.reset()
                for _ in range(steps):  # at whatever step of noticing it
                    await asyncio.sleep(0)
                # Then the next call goes over a new one, and whoever has no patience is told what it is
                assert await store.command("ECHO", "found") == b"found"
                with contextlib.suppress(Unavailable):
                    assert await alone.command("ECHO", "found") == b"found"
                with contextlib.suppress(Unavailable):
                    await follower.read({"s": "0-0"}, block_ms=1)
                assert await follower.read({"s": "0-0"}, block_ms=1) == []
            finally:
                await follower.close()
                await store.close()
                await alone.close()

    run(story())


@pytest.mark.slow
@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("steps", range(8))
def test_a_follower_that_is_closed_wherever_it_is_says_so(any_server: Server, run: Any, steps: int) -> None:
    async def story() -> None:
        store = Store.open(any_server.url)
        follower = store.follower()
        # Given a read that is on its way, its connection made or not
        reading = asyncio.create_task(follower.read({"s": "$"}, block_ms=5_000))
        for _ in range(steps):
            await asyncio.sleep(0)
        # When somebody else closes it
        await follower.close()
        # Then the read ends, and the next one works
        if steps:
            with pytest.raises(Unavailable):
                await reading
        reading.cancel()
        await asyncio.wait({reading})
        assert await follower.read({"s": "$"}, block_ms=1) == []
        await follower.close()
        await store.close()

    run(story())


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
