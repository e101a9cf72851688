"""Stories gathered from a real Redis, where journals are cut, entries gone, or several shards have them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from conftest import Server, binary, emptied
from deployments import Cluster, Ground
from protocol import a_consumer, a_topology, end, nothing, say
from waiting import until

from ingress.append import Arrival
from ingress.appenders import Appenders
from streams import deadletters, topology, wire
from streams.connection import Store, order
from streams.effects import Effects, Handler, Output, Turn
from streams.errors import Retry
from streams.stores import Stores
from streams.story import finding
from streams.story.finding import Unknown
from streams.story.stories import Teller
from streams.story.timeline import Timeline
from streams.topology import Topology
from streams.turns import Turns
from streams.wire import Inbound
from streams.worker import Worker

PEOPLE = [f"+5917000{number:04}" for number in range(12)]


async def ask(stores: Stores, id: str, **more: str) -> Timeline:
    told = await finding.tell(stores, a_topology(), id, since_seconds=3600, count=5, **more)
    assert isinstance(told, Timeline)
    return told


def kinds(told: Timeline) -> list[str]:
    return [step.kind for step in told.steps]


async def answer(turn: Turn) -> Effects:
    name = f"reply_{turn.id}" if turn.shard is None else f"reply_{turn.id}.s{turn.shard}"
    turn.note("thought")
    return Effects(outputs=[Output(stream="outbound", type="reply", body={"id": name, "message": "¡Hola!"})])


async def spoken(stores: Stores, top: Topology) -> dict[str, str]:
    """Everybody says something, all in one request, and is answered; person → entry."""
    front = Appenders(stores, top)
    trace = wire.new_trace()
    arrivals = [
        Arrival(stream="inbound", key=person, type="text", message_id="m1", trace=trace,
                body=wire.encode(Inbound(user_id=person, message_id="m1", text="hola")))
        for person in PEOPLE
    ]  # fmt: skip
    appended = await front.append(arrivals)
    await front.close()
    workers = [Worker(store, top, top.groups["g"], Handler(handle=answer)) for store in stores]
    running = [asyncio.create_task(worker.run(5)) for worker in workers]

    async def answered() -> bool:
        return sum([await store.command("XLEN", store.keys.stream("outbound")) for store in stores]) == len(PEOPLE)

    await until(answered)
    for worker in workers:
        worker.stop()
    await asyncio.gather(*running)
    return {person: one.entry_id for person, one in zip(PEOPLE, appended, strict=True)}


async def each_has_a_story_of_their_own(stores: Stores) -> None:
    entries = await spoken(stores, a_topology())
    for person, entry in entries.items():
        told = await ask(stores, "m1", user=person)
        # One request brought all of them under one trace, and yet each is told its own reply
        assert (await ask(stores, told.trace, user=person)).entry == entry
        assert (told.entry, told.person) == (entry, person)
        assert kinds(told) == ["received", "appended", "taken", "thought", "committed", "replied"]
        [reply] = [step.facts["id"] for step in told.steps if step.kind == "replied"]
        # Which leads back to it
        assert (await ask(stores, reply)).person == person
        assert not told.gaps
    # And who does not say whose is meant is told the newest, and that there are others
    told = await ask(stores, "m1")
    assert told.entry == max(entries.values(), key=order)
    [gap] = told.gaps
    assert "what other people have sent under this id" in gap
    assert "--user" in gap
    # But nobody is told another's, where the one that is meant has sent none
    with pytest.raises(Unknown):
        await ask(stores, "m1", user="+59170009999")


async def test_a_redrive_for_a_group_beside_does_not_change_what_came_of_a_message(store: Store) -> None:
    # Given a message that its group has buried, and so has another that only reads
    top = topology.parse({
        "streams": {"inbound": {}, "outbound": {}},
        "groups": {
            "g": {"reads": "inbound", "writes": ["outbound"], "handler": "nowhere:nothing"},
            "poison": {"reads": "inbound", "handler": "nowhere:nothing"},
        },
    })  # fmt: skip
    ours, side = (Turns(store, top, top.groups[name], Handler(handle=nothing)) for name in ("g", "poison"))
    for turns in (ours, side):
        await turns.open()
    entry = await say(store, "+1")
    await end(ours, (await ours.take(5, 100, 1)).grants[0], bury="no")
    await end(side, (await side.take(5, 100, 1)).grants[0], bury="no")

    async def told() -> Timeline:
        return await Teller(Stores.alone(store), top).tell(store, "inbound", entry)

    before = await told()
    # When the other's letter is put back, and handled
    [letter] = [each async for each in deadletters.letters(store, "inbound", deadletters.Wanted(group="poison"))]
    await deadletters.redrive(store, "inbound", [[letter.id]], max_len=100, told_seconds=600)
    assert (await told()).outcome == before.outcome == "dead"
    await end(side, (await side.take(5, 100, 1)).grants[0])
    # Then what came of the message, and when, is what it was
    after = await told()
    assert (after.outcome, after.took_ms) == (before.outcome, before.took_ms)
    assert [kinds(each).count("redriven") for each in (before, after)] == [0, 1]


async def test_each_person_of_one_request_has_a_story_of_their_own(each_server: Server) -> None:
    await emptied(each_server).close()
    for shards in (1, 3):
        stores = Stores.open(each_server.url, shards=shards, namespace=f"bot{shards}")
        await each_has_a_story_of_their_own(stores)
        await stores.close()


@pytest.mark.slow
async def test_so_they_have_on_a_cluster() -> None:
    with Ground(binary("redis-server")) as ground:
        stores = Stores.open(Cluster(ground, replicas=False).url, shards=4)
        await each_has_a_story_of_their_own(stores)
        await stores.close()


async def test_without_a_journal_the_streams_tell_what_they_know(store: Store) -> None:
    stores = Stores.alone(store)
    entry = (await spoken(stores, a_topology()))[PEOPLE[0]]
    await store.command("DEL", store.keys.group("journal", "g"))
    told = await ask(stores, entry)
    assert kinds(told) == ["received", "appended", "replied"]
    assert told.gaps == [f"the journal of g does not tell how {entry} ended"]


async def test_an_entry_that_is_gone_is_told_by_its_journal(store: Store) -> None:
    stores = Stores.alone(store)
    entry = (await spoken(stores, a_topology()))[PEOPLE[0]]
    await store.command("XDEL", "inbound", entry)
    told = await ask(stores, entry)
    assert kinds(told) == ["appended", "taken", "thought", "committed"]
    assert told.gaps == [f"{entry} has gone from inbound"]
    # Until that is gone as well
    await store.command("DEL", store.keys.group("journal", "g"))
    with pytest.raises(Unknown, match="in the journals of the groups that read them"):
        await ask(stores, entry)


async def test_of_what_was_replayed_it_is_told_that_nobody_handles_it(store: Store) -> None:
    turns = await a_consumer(store)
    body = wire.encode(Inbound(user_id="+591", message_id="m1", text="Hola"))
    fields = ("key", "+591", "type", "text", "body", body, "v", "1", "trace", "", "replayed", "1")
    entry = (await store.command("XADD", store.keys.stream("inbound"), "*", *fields)).decode()
    assert not (await turns.take(5, 100, 1)).grants
    told = await ask(Stores.alone(store), entry)
    assert kinds(told) == ["appended"]
    [gap] = told.gaps
    assert "it is of a replay or an import, which only groups with `replay = true` handle" in gap


async def test_what_was_carried_here_under_a_new_id_has_a_story_of_its_own(store: Store) -> None:
    # Given two whose messages had one id in two shards, carried to a server where the second has another
    for id, person, more in (("100-0", "+591", ()), ("100-1", "+592", ("origin", "100-0"))):
        for stream, told in (("inbound", Inbound(user_id=person, message_id="m1", text="Hola")), ("outbound", None)):
            body = wire.encode(told or {"id": "reply_100-0", "in_reply_to": ["m1"]})
            fields = ("key", person, "type", "text", "body", body, "v", "1", "replayed", "1", *more)
            await store.command("XADD", stream, id, *fields)
    stores = Stores.alone(store)
    for id, person in (("100-0", "+591"), ("100-1", "+592")):
        found = await Teller(stores, a_topology()).tell(store, "inbound", id)
        assert (found.entry, found.person, kinds(found)) == (id, person, ["appended"])
    # And nobody's reply is told as another's
    assert (await Teller(stores, a_topology()).tell(store, "outbound", "100-1")).person == "+592"


async def test_what_a_message_waits_for_is_told(each_store: Store) -> None:
    stores, top = Stores.alone(each_store), a_topology()
    turns = Turns(each_store, top, top.groups["g"], Handler(handle=nothing))
    entry = await say(each_store, "+1")
    assert kinds(await ask(stores, entry)) == ["appended", "unread"]
    await turns.open()
    [grant] = (await turns.take(5, 100, 1)).grants
    told = await ask(stores, entry)
    assert kinds(told) == ["appended", "in_work"]
    assert told.steps[-1].facts == {"attempt": 1, "worker": turns.consumer}
    await end(turns, grant, delay_ms=60_000)
    told = await ask(stores, entry)
    assert kinds(told) == ["appended", "waiting"]
    assert told.steps[-1].facts["attempts"] == 1
    assert 50_000 < told.steps[-1].facts["due_ms"] <= 60_000
    assert told.outcome == "waiting"


async def test_what_failed_before_is_told_while_it_is_tried_again(store: Store) -> None:
    top = a_topology(backoff=[600])
    failed = asyncio.Event()

    async def fail(turn: Turn) -> None:
        failed.set()
        raise Retry("the model is away")

    worker = Worker(store, top, top.groups["g"], Handler(handle=fail))
    running = asyncio.create_task(worker.run(5))
    entry = await say(store, "+1", msgspec.json.encode({"message_id": "m1"}).decode())
    await failed.wait()
    await until(lambda: parked(store))
    told = await ask(Stores.alone(store), entry)
    assert kinds(told) == ["appended", "taken", "parked", "waiting"]
    assert told.steps[2].facts["why"] == "the model is away"
    worker.stop()
    await running


async def parked(store: Store) -> bool:
    return bool(await store.command("EXISTS", store.keys.group("journal", "g")))
