"""Everybody's keys move to another number of shards, and nobody notices but by the names."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Any

import pytest
from conftest import Server, binary, emptied
from deployments import Cluster, Ground
from pipeline import Redis
from protocol import a_topology
from waiting import until

from ingress.append import Arrival
from ingress.appenders import Appenders
from streams import layout, tallies
from streams.buckets import Calendar
from streams.connection import Store, entries, order
from streams.doors import Doors
from streams.effects import Effects, Output, Tally, Turn, Write, handler
from streams.errors import Bury, ConfigurationError, Unavailable
from streams.index import Index
from streams.keys import TABLE, shard_of
from streams.mover import Mover
from streams.stores import Stores
from streams.worker import Worker

PEOPLE = [f"+5917000{number:04}" for number in range(30)]
TOPOLOGY = a_topology()
NOW_MS = int(time.time() * 1000)
SPOKEN = ("conversation", "conversation_meta", "own")
OTHERS = [kind for kind, row in TABLE.items() if row.pattern.endswith(":<user>") and kind not in SPOKEN]
"""Keys of a person that are written in other ways."""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody runs who would have to be waited for."""
    monkeypatch.setattr(layout, "EVERY", 0.001)


@handler(recall=("conversation",))
async def remember(turn: Turn) -> Effects:
    """Says what it is told, remembers it, and cannot stand `poison`."""
    said = b" ".join([turn.state["conversation"] or b"", *(message.body for message in turn.messages)])
    if b"poison" in turn.messages[-1].body:
        raise Bury("poison")
    return Effects(
        outputs=[Output(stream="outbound", type="reply", body={"to": turn.id})],
        writes=[Write(kind=kind, value=said, ttl_seconds=1000) for kind in SPOKEN],
        tallies=[Tally(at_ms=NOW_MS, counts={"said": len(turn.messages)}, distinct={"people": turn.key})],
    )


class Bot:
    """One bot at some number of shards."""

    def __init__(self, server: Redis, shards: int) -> None:
        self.stores = Stores.open(server.url, shards=shards, namespace="bot")

    async def say(self, text: str, people: list[str]) -> list[tuple[str, str]]:
        """Everybody says it, with the text as message_id; outcome and entry."""
        front = Appenders(self.stores, TOPOLOGY)
        told = await front.append([
            Arrival(stream="inbound", key=person, type="text", body=f'"{text}"'.encode(), message_id=text, text=text)
            for person in people
        ])  # fmt: skip
        await front.close()
        return [(each.outcome, each.entry_id) for each in told]

    async def work(self) -> None:
        """Workers for as long as there is something to do."""
        await layout.agree(self.stores)
        workers = [Worker(store, TOPOLOGY, TOPOLOGY.groups["g"], remember) for store in self.stores]
        running = [asyncio.create_task(worker.run(5)) for worker in workers]
        for store in self.stores:
            await until(lambda store=store: self._settled(store))  # type: ignore[misc]
        for worker in workers:
            worker.stop()
        await asyncio.gather(*running)

    async def _settled(self, store: Store) -> bool:
        newest, cursor, pending = await store.pipeline([
            ("XREVRANGE", store.keys.stream("inbound"), "+", "-", "COUNT", 1),
            ("GET", store.keys.group("cursor", "g")), ("XPENDING", store.keys.stream("inbound"), "g"),
        ])  # fmt: skip
        return bool(cursor) and (not newest or newest[0][0] == cursor) and pending[0] == 0

    def of(self, person: str, kind: str) -> tuple[Store, str]:
        """Where a key of somebody's lies, and its name."""
        store = self.stores.of(person)
        return store, store.keys.state(kind, "g", person)

    async def meet(self) -> None:
        """What no handler of these tests writes: somebody is paused and has a rate, and the webhook is down."""
        for person, kind in itertools.product(PEOPLE[:7], OTHERS):
            store, name = self.of(person, kind)
            await store.command("SET", name, person, "PX", 1_000_000)
        first = self.stores.first
        await first.command("HSET", first.keys.of("breaker", "1"), "state", "open")

    async def kept(self) -> dict[tuple[str, str], bytes | None]:
        """Everything that is kept of people, and lives on."""
        found = {}
        for person, kind in itertools.product(PEOPLE, (*SPOKEN, *OTHERS)):
            store, name = self.of(person, kind)
            found[person, kind] = value = await store.command("GET", name)
            assert not value or 900_000 < await store.command("PTTL", name) <= 1_000_000
        return found

    async def stream(self, name: str) -> dict[str, list[dict[str, bytes]]]:
        """Of each person what is on the stream, in its order."""
        found: dict[str, list[dict[str, bytes]]] = {}
        for store in self.stores:
            key = store.keys.dead(name[:-5]) if name.endswith(".dead") else store.keys.stream(name)
            read = entries(await store.command("XRANGE", key, "-", "+"))
            assert [order(id) for id, _ in read] == sorted({order(id) for id, _ in read})
            for _, fields in read:
                assert shard_of(fields["key"].decode(), len(self.stores)) == store.keys.shard
                found.setdefault(fields["key"].decode(), []).append(fields)
        return found

    async def known(self, text: str) -> None:
        """Whoever says it again is told so, and which entry theirs is."""
        for person, (outcome, entry) in zip(PEOPLE, await self.say(text, PEOPLE), strict=True):
            store = self.stores.of(person)
            assert outcome == "duplicate"
            [(_, fields)] = entries(await store.command("XRANGE", store.keys.stream("inbound"), entry, entry))
            assert (fields["key"].decode(), fields["body"]) == (person, f'"{text}"'.encode())

    async def counted(self) -> list[tuple[int, int]]:
        """How much was said and by how many, of the minute, the hour and the day; each of which has an end."""
        found = []
        for bucket in Calendar().around(NOW_MS):
            shards = [(await tallies.read(store, "g", [bucket]))[0] for store in self.stores]
            said = sum(each.counts["said"] for each in shards)
            found.append((said, sum(each.distinct.get("people", 0) for each in shards)))
            people = [await tallies.distinct(store, "g", "people", [bucket]) for store in self.stores]
            assert sum(people) == found[-1][1]
        for store in self.stores:
            whole = await tallies.distinct(store, "g", "people", Calendar().around(NOW_MS))
            assert whole == await tallies.distinct(store, "g", "people", Calendar().around(NOW_MS)[:1])
            async for names in store.scan("*:g:20*"):
                assert all([await store.command("PTTL", name) > 0 for name in names])
        return found

    async def all(self) -> list[Any]:
        """Everything that a move must not change."""
        streams = ("inbound", "outbound", "inbound.dead")
        first = self.stores.first
        breaker = await first.command("HGETALL", first.keys.of("breaker", "1"))
        return [await self.kept(), await self.counted(), breaker, *[await self.stream(name) for name in streams]]

    async def close(self) -> None:
        await self.stores.close()


async def lived_in(server: Server, shards: int) -> Bot:
    """A bot in an empty Redis, to whom everybody has spoken."""
    await emptied(server).close()
    return await spoken_to(Bot(server, shards))


async def spoken_to(bot: Bot) -> Bot:
    """Everybody has said something twice, and some of them badly; nothing is left to do."""
    await bot.say("hola", PEOPLE)
    await bot.say("poison", PEOPLE[:5])
    await bot.work()
    await bot.say("otra vez", PEOPLE)
    await bot.work()
    await bot.meet()
    return bot


async def moved(bot: Bot, server: Redis, shards: int) -> Bot:
    other = Bot(server, shards)
    try:
        await Mover(bot.stores, other.stores, TOPOLOGY, lambda _what, _more: None).run()
    except ConfigurationError:
        await other.close()
        raise
    await bot.close()
    return other


@pytest.mark.slow
@pytest.mark.parametrize("way", [(1, 3), (3, 2), (4, 1), (2, 5, 3)])
async def test_everybody_is_found_again_wherever_they_were_moved(each_server: Server, way: tuple[int, ...]) -> None:
    # Given a bot that has been spoken to
    bot = await lived_in(each_server, way[0])
    before = await bot.all()
    assert all(before)
    await bot.known("hola")
    # When it is moved
    for shards in way[1:]:
        bot = await moved(bot, each_server, shards)
    # Then nothing of anybody is lost, in whatever order
    assert await bot.all() == before
    # But journals and index, which tell of entries by ids that may be others' now
    assert not [store for store in bot.stores if await store.command("EXISTS", store.keys.group("journal", "g"))]
    assert not [store for store in bot.stores if (await Index.open(store, TOPOLOGY)).since]
    # And who repeats a message is known
    await bot.known("hola")
    # And nothing is done twice, and what is new is answered
    said = await bot.stream("outbound")
    await bot.say("nueva", PEOPLE)
    await bot.work()
    answered = await bot.stream("outbound")
    assert {person: len(replies) for person, replies in answered.items()} == {
        person: len(replies) + 1 for person, replies in said.items()
    }
    await bot.close()


@pytest.mark.slow
async def test_on_a_cluster_they_move_from_master_to_master() -> None:
    with Ground(binary("redis-server")) as ground:
        cluster = Cluster(ground, replicas=False)
        bot = await spoken_to(Bot(cluster, 1))
        before = await bot.all()
        bot = await moved(bot, cluster, 4)
        assert {cluster.owner(store.keys.stream("inbound")).port for store in bot.stores} == {
            node.port for node in cluster.masters
        }
        assert await bot.all() == before
        await bot.known("hola")
        await bot.close()


async def test_where_two_shards_numbered_alike_nobody_gets_what_is_anothers(each_server: Server) -> None:
    # Given two people of two shards whose messages have one id, with a mark and a reply kept for each
    await emptied(each_server).close()
    bot = Bot(each_server, 2)
    await layout.agree(bot.stores)
    ana, eva = (next(each for each in PEOPLE if shard_of(each, 2) == shard) for shard in (0, 1))
    for person in (ana, eva):
        store = bot.stores.of(person)
        await store.command("XADD", store.keys.stream("inbound"), "1728123450000-0", "key", person, "body", "{}")
        await store.command("SET", store.keys.of("seen", f"of-{person}"), "1728123450000-0|text|call", "PX", 9_000)
        door = store.keys.of("door", "1728123450000-0")
        await store.command("HSET", door, "key", person, "state", "http", "status", "replied", "answer", person)
    # When they come into one shard, and go home again
    for shards in (1, 3, 1, 2):
        bot = await moved(bot, each_server, shards)
        marked = {}
        for person in (ana, eva):
            store = bot.stores.of(person)
            mark = store.keys.of("seen", f"of-{person}")
            told, lives = await store.pipeline([("GET", mark), ("PTTL", mark)])
            marked[person] = told.decode().partition("|")[0]
            assert told.endswith(b"|text|call")
            assert 0 < lives <= 9_000
            # Then each one's mark names that one's message, and the reply that it leads to is nobody else's
            [(_, fields)] = entries(await store.command("XRANGE", store.keys.stream("inbound"), *[marked[person]] * 2))
            assert fields["key"].decode() == person
            claim = await Doors(store, TOPOLOGY, "inbound").claim(person, marked[person], "ticket")
            assert claim.answer.decode() in (person, "{}")
        assert len(set(marked.values())) == 2  # once they have met
    await bot.close()


async def test_nothing_is_left_where_no_shard_is_any_more(each_server: Server) -> None:
    bot = await moved(await lived_in(each_server, 1), each_server, 2)
    names = await bot.stores.layout.command("KEYS", "*")
    tagged = [name for name in names if b":{0}" in name or b":{1}" in name]
    assert sorted(set(names) - set(tagged)) == [b"bot:layout"]
    await bot.close()


@pytest.mark.slow
async def test_a_move_that_is_cut_off_anywhere_goes_on_when_it_is_run_again(each_server: Server) -> None:
    calls = cut = 0

    class Cut(Store):
        async def _repeat(self, *given: Any, **more: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == cut:
                raise Unavailable("the line was cut")
            return await super()._repeat(*given, **more)

    def fragile(stores: Stores) -> Stores:
        for store in [*stores, stores.layout]:
            store.__class__ = Cut
        return stores

    done = False
    while not done:
        bot = await lived_in(each_server, 2)
        before = await bot.all()
        other = Bot(each_server, 3)
        calls, cut = 0, cut + 23
        try:
            await Mover(fragile(bot.stores), fragile(other.stores), TOPOLOGY, lambda _what, _more: None).run()
            done = True
        except Unavailable:
            # When it was cut off, Then nobody else may run
            calls = -(10**9)
            with pytest.raises(ConfigurationError):
                await layout.agree(bot.stores)
            # And once it is run again everything is there
            await Mover(bot.stores, other.stores, TOPOLOGY, lambda _what, _more: None).run()
        calls = -(10**9)
        assert await other.all() == before
        await bot.close()
        await other.close()
    assert cut > 5 * 23


async def test_what_is_under_way_is_not_moved(each_server: Server) -> None:
    bot = await lived_in(each_server, 1)
    before = await bot.all()
    await bot.say("pendiente", PEOPLE[:1])
    with pytest.raises(ConfigurationError, match="group g has not settled all"):
        await moved(bot, each_server, 2)
    # Then it goes on as before
    await bot.work()
    assert (await bot.all())[0].keys() == before[0].keys()
    worker = Worker(bot.stores.first, TOPOLOGY, TOPOLOGY.groups["g"], remember)
    running = asyncio.create_task(worker.run(5))
    await worker.opened.wait()
    with pytest.raises(ConfigurationError, match="group g has a worker"):
        await moved(bot, each_server, 2)
    worker.stop()
    await running
    await bot.close()


async def test_a_process_with_another_layout_refuses_to_run(each_server: Server) -> None:
    await emptied(each_server).close()
    one, two = Bot(each_server, 1), Bot(each_server, 2)
    await layout.agree(one.stores)
    with pytest.raises(ConfigurationError, match="shards = 2, but what lies in this Redis is in 1"):
        await layout.agree(two.stores)
    # And one that runs already ends when somebody else changes it
    watching = asyncio.create_task(layout.watch(one.stores))
    name = one.stores.layout.keys.of("layout")
    await one.stores.layout.command("SET", name, b'{"shards":2,"tagged":true}')
    with pytest.raises(ConfigurationError):
        await watching
    # And what an earlier release wrote, which knew one way only, is known for what it is
    await one.stores.layout.command("DEL", name)
    await one.stores.first.command("HSET", one.stores.first.keys.of("groups"), "g", "{}")
    with pytest.raises(ConfigurationError, match="in this Redis is in 1"):
        await layout.agree(two.stores)
    await one.close()
    await two.close()
