"""What an idle worker sleeps on: the read that waits, and the take that lies behind it in Redis."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import pytest
import uvloop
from conftest import Server
from protocol import a_topology, say
from waiting import until

from streams import turns
from streams.bell import Bell
from streams.connection import Store
from streams.effects import Effects, Turn
from streams.worker import Worker
from tests.streams.test_worker import an_answer, replies, settled, working


class Seen:
    """A handler that says what it was given, and the takes that were made without waiting."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given = asyncio.Queue[list[str]]()
        self.at_once = 0
        run = Store.run

        async def counted(store: Store, script: Any, *args: Any, **how: Any) -> Any:
            self.at_once += script is turns._TAKE
            return await run(store, script, *args, **how)

        monkeypatch.setattr(Store, "run", counted)

    async def handle(self, turn: Turn) -> Effects:
        self.given.put_nowait([message.body.decode() for message in turn.messages])
        return an_answer(turn)


async def asleep(worker: Worker) -> None:
    await until(lambda: asyncio.sleep(0, worker._bell.asleep))


async def test_a_message_that_wakes_a_worker_is_taken_with_no_further_call(each_store: Store, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    async with working(each_store, seen.handle) as worker:
        await asleep(worker)
        before = seen.at_once
        for body in ("1", "2", "3"):
            await say(each_store, "+1", body)
            assert await seen.given.get() == [body]
            await until(settled(each_store))
            await asleep(worker)
        assert seen.at_once == before


async def test_what_redis_granted_and_nobody_heard_is_granted_again_at_once(each_store: Store, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    monkeypatch.setattr("streams.housekeeping.BEAT", 600)  # which would free it
    async with working(each_store, seen.handle) as worker:
        await asleep(worker)
        read, lost = worker._bell._follower.read_then, 0

        async def losing(*args: Any) -> Any:
            nonlocal lost
            found, _ = await read(*args)
            lost += 1
            return found, None

        worker._bell._follower.read_then = losing  # type: ignore[method-assign]
        await say(each_store, "+1", "first")  # the read under way is not yet a losing one
        assert await seen.given.get() == ["first"]
        await asleep(worker)
        await say(each_store, "+1", "second")
        assert await seen.given.get() == ["second"]
        await until(settled(each_store))
        assert lost
    assert len(await replies(each_store)) == 2


async def test_a_script_that_redis_has_forgotten_is_told_to_it_again(each_store: Store, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    async with working(each_store, seen.handle) as worker:
        await asleep(worker)
        await each_store.command("SCRIPT", "FLUSH")
        await say(each_store, "+1", "hola")
        assert await seen.given.get() == ["hola"]


async def test_who_waits_is_woken_by_a_connection_that_is_lost(each_store: Store, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    async with working(each_store, seen.handle) as worker:
        await asleep(worker)
        await each_store.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await say(each_store, "+1", "hola")
        assert await seen.given.get() == ["hola"]


async def test_a_ring_wakes_it_also_where_redis_takes_no_entry_for_it(each_own_server: Server, monkeypatch) -> None:
    # Given a sleeping worker, and a Redis that is full
    store = Store.open(each_own_server.url)
    seen = Seen(monkeypatch)
    monkeypatch.setattr("streams.bell.BLOCK_MS", 600_000)
    async with working(store, seen.handle) as worker:
        await say(store, "+1", "hola")
        await seen.given.get()
        await until(settled(store))
        await asleep(worker)
        await store.command("CONFIG", "SET", "maxmemory", "1")
        before = seen.at_once
        # When somebody in its process rings
        worker._bell.ring()
        # Then it looks
        await until(lambda: asyncio.sleep(0, seen.at_once > before))
        await store.command("CONFIG", "SET", "maxmemory", "0")
    await store.close()


async def test_a_key_whose_time_comes_ends_the_wait(each_store: Store, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    monkeypatch.setattr("streams.bell.BLOCK_MS", 600_000)
    monkeypatch.setattr("streams.housekeeping.BEAT", 600)
    async with working(each_store, seen.handle, debounce=0.2) as worker:
        await asleep(worker)
        await say(each_store, "+1", "hola")
        await say(each_store, "+1", "doctora")
        assert await seen.given.get() == ["hola", "doctora"]


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_times_that_have_come_ring_on_every_loop(any_server: Server, run: Any) -> None:
    async def story() -> None:
        store = Store.open(any_server.url, namespace=secrets.token_hex(4))  # others say something there
        bell = Bell(store, a_topology().groups["g"], "somebody")
        sleeping = asyncio.create_task(bell.wait("0-0", 1))
        try:
            await until(lambda: asyncio.sleep(0, bell.asleep))
            for ms in (500, 0, 0, 1, -1):
                bell.ring_in(ms)
            await asyncio.wait_for(sleeping, 1.5)
            assert bell.rung
        finally:
            await bell.close()
            await store.close()

    run(story())


async def test_a_sleeping_worker_stops_though_redis_is_gone(own_server: Server, monkeypatch) -> None:
    monkeypatch.setattr("streams.bell.BLOCK_MS", 600_000)
    store = Store.open(own_server.url, patience=0)
    async with working(store, Seen(monkeypatch).handle) as worker:
        await asleep(worker)
        own_server.stop()
    await store.close()
