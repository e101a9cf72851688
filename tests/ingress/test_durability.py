"""What an accepted message has reached before its sender is told so."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from conftest import Server, binary
from deployments import Ground

from ingress.append import MOST, Appender, Arrival
from ingress.durability import Durability
from streams import topology
from streams.connection import Store
from streams.errors import ConfigurationError, Unavailable


def a_topology(durability: str) -> topology.Topology:
    return topology.parse({"durability": durability, "streams": {"inbound": {}}})


def a_message(id: str) -> Arrival:
    return Arrival(stream="inbound", key="+591700000001", type="text", body=b"{}", message_id=id)


@pytest.fixture
def ground() -> Iterator[Ground]:
    with Ground(binary("redis-server")) as ground:
        yield ground


@pytest.mark.slow
async def test_a_message_no_replica_has_is_not_acknowledged_and_its_repeat_is_once_one_has_it(ground: Ground) -> None:
    # Given a master without a replica
    master = ground.node("repl-diskless-sync-delay 0")  # nobody else is going to ask for a copy
    store = Store.open(f"redis://127.0.0.1:{master.port}")
    front = Appender(store, a_topology("replica"))
    # When somebody says something, Then they are told to repeat it
    with pytest.raises(Unavailable, match="no replica") as refused:
        await front.append([a_message("a")])
    assert refused.value.maybe_written
    # And so is whoever repeats it: that it was here before is not enough
    with pytest.raises(Unavailable, match="no replica"):
        await front.append([a_message("a")])
    # When there is one, Then the repeat is taken for what it is
    replica = ground.node(f"replicaof 127.0.0.1 {master.port}")
    replica.follows()
    [appended] = await front.append([a_message("a")])
    assert appended.outcome == "duplicate"
    assert replica.ask("XLEN", "inbound") == 1
    await front.close()
    await store.close()


async def test_where_no_replica_is_there_one_try_answers_for_all_who_wait(store: Store) -> None:
    # Given far more requests than one write carries, and nobody who would have a copy
    durability = Durability("replica")
    durability.command = ("WAIT", 1, 50)
    front = Appender(store, a_topology("replica"), durability=durability)
    told = await asyncio.gather(*(front.append([a_message(f"{n}")]) for n in range(5 * MOST)), return_exceptions=True)
    # Then those behind the first write are refused with it, and nothing of theirs is there
    assert all(isinstance(each, Unavailable) for each in told)
    assert [each.maybe_written for each in told if isinstance(each, Unavailable)] == [True] * MOST + [False] * 4 * MOST
    assert await store.command("XLEN", "inbound") == MOST
    await front.close()


async def test_a_disk_that_is_to_have_it_wants_an_append_only_file(each_store: Store) -> None:
    with pytest.raises(ConfigurationError, match="appendonly yes"):
        await Durability("fsync").prepare(each_store)


@pytest.fixture(params=["always", "everysec"])
def on_disk(request: pytest.FixtureRequest, each_binary: str) -> Iterator[tuple[str, Server]]:
    server = Server(each_binary, "--appendonly", "yes", "--appendfsync", request.param)
    yield request.param, server
    server.stop()


async def test_a_disk_has_it_by_waitaof_or_because_the_server_always_waits_for_it(on_disk: tuple[str, Server]) -> None:
    fsync, server = on_disk
    store = Store.open(server.url)
    durability = Durability("fsync")
    [known] = await store.command("COMMAND", "INFO", "WAITAOF")
    if known is None and fsync != "always":
        with pytest.raises(ConfigurationError, match="appendfsync always"):
            await durability.prepare(store)
    else:
        await durability.prepare(store)
        assert (durability.command is None) == (known is None)
        front = Appender(store, a_topology("fsync"), durability=durability)
        [appended] = await front.append([a_message("a")])
        assert appended.outcome == "new"
        await front.close()
    await store.close()


async def test_a_server_that_can_keep_its_word_no_longer_makes_a_refusal_that_tells_the_id(
    on_disk: tuple[str, Server],
) -> None:
    _, server = on_disk
    store, durability = Store.open(server.url), Durability("fsync")
    if (await store.command("COMMAND", "INFO", "WAITAOF"))[0] is None:
        await store.close()
        pytest.skip("it has no WAITAOF, and is not asked")
    await durability.prepare(store)
    front = Appender(store, a_topology("fsync"), durability=durability)
    # Given a server on which somebody has switched off the append-only file since
    await store.command("CONFIG", "SET", "appendonly", "no")
    with pytest.raises(Unavailable, match="appendonly is disabled") as refused:
        await front.append([a_message("a")])
    # Then it is no fault of ours: who repeats it with its id is told once it is kept
    assert refused.value.maybe_written
    await store.command("CONFIG", "SET", "appendonly", "yes")
    [appended] = await front.append([a_message("a")])
    assert appended.outcome == "duplicate"
    await front.close()
    await store.close()
