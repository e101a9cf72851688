"""One person erased: nothing of them is left, not a byte, and nobody else loses anything."""

from __future__ import annotations

import asyncio
import base64
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Server, binary
from deployments import Cluster, Ground
from protocol import bodies, end, ids, redis_ms

from streams import topology
from streams.commands import new
from streams.connection import Store
from streams.deadletters import redrive
from streams.doors import Doors
from streams.effects import Answer, Effects, Handler, Metering, Output, Turn, Write
from streams.erasure.erase import Erasure, Receipt
from streams.erasure.traces import Traces
from streams.keys import shard_of
from streams.settings import Settings
from streams.stores import Stores
from streams.survey import survey
from streams.topology import Topology
from streams.turns import Grant, Turns
from streams.watch import Consumer, Watch

ANA, LUIS, EVA = "+59112345678", "+59187654321", "web-eva"
WAMID = "wamid." + base64.b64encode(b"\x11\x18\x0b59112345678\x15\x02\x00").decode()
BYTES = [b"59112345678", WAMID.encode(), b"NTkxMTIzNDU2Nz", b"U5MTEyMzQ1Njc4", b"1OTExMjM0NTY3O", b"secreto de Ana"]
"""The number, in base64 at each of three places where it may begin, her message's id, and her words."""


async def nothing(turn: Turn) -> None: ...


def a_topology(**tables: Any) -> Topology:
    """Who answers, who delivers, and one without order who reads along; handlers from this very file."""
    here = {"handler": "test_erase:quiet", "debounce": "0s"}
    groups: dict[str, Any] = {
        "answers": {"reads": "inbound", "writes": ["outbound"], **here},
        "archive": {"reads": "inbound", "order": "none", "writes": ["notes"], **here},
        "egress": {"reads": "outbound", "turn_max": 1, **here},
    }
    streams: dict[str, Any] = {"inbound": {}, "outbound": {}, "statuses": {}, "notes": {}}
    file = topology.parse({"streams": streams, "groups": groups | tables.pop("groups", {}), **tables})
    file.path = Path(__file__).with_name("streams.toml")
    return file


quiet = Handler(handle=nothing)


async def erase(store: Store, person: str = ANA, top: Topology | None = None, **settings: Any) -> Receipt:
    told = Settings(**{"data_dir": Path("/nowhere")} | settings)
    return await Erasure(Stores.alone(store), top or a_topology(), told, person, heard=0).run()


async def say(store: Store, person: str, text: str, stream: str = "inbound", **body: Any) -> str:
    told = json.dumps({"user_id": person, "message_id": WAMID if person == ANA else "w1", "text": text, **body})
    fields = ["key", person, "type", "text", "body", told]
    return str((await store.command("XADD", store.keys.stream(stream), "*", *fields)).decode())


HANDLERS = {
    "answers": Handler(
        handle=nothing,
        recall=("conversation", "own"),
        metering=Metering(kind="rate_limit", window_seconds=60),
    ),
    "archive": quiet,
    "egress": quiet,
}


async def a_worker(store: Store, group: str, top: Topology | None = None) -> Turns:
    top = top or a_topology()
    turns = Turns(store, top, top.groups[group], HANDLERS[group])
    await turns.open()
    return turns


async def its_turn(turns: Turns, person: str) -> Grant:
    """The next turn of somebody; what comes before it stays in work."""
    for _ in range(20):
        for grant in (await turns.take(1, 1, 1)).grants:
            if person in bodies(grant)[0]:
                return grant
    raise AssertionError(f"{turns.group.name} has no turn of {person}")


async def everything(store: Store, person: str) -> None:
    """All that there can be of somebody: answered, waiting, in work, dead, paused, remembered, and at a door."""
    answers, archive = await a_worker(store, "answers"), await a_worker(store, "archive")
    egress = await a_worker(store, "egress")
    words = f"secreto de {'Ana' if person == ANA else 'Luis'}"
    first = await say(store, person, words)
    until = await redis_ms(store) + 60_000
    await store.command("HSET", "waiting:inbound", first, f"{until}|ingress-1|t1")
    body = {"user_id": person, "message": words, "in_reply_to": [WAMID if person == ANA else "w1"]}
    writes = [
        Write(kind="conversation", value=json.dumps(body).encode(), ttl_seconds=60),
        Write(kind="conversation_meta", value=json.dumps(body).encode(), ttl_seconds=60),
        Write(kind="own", value=words.encode(), ttl_seconds=60),
        Write(kind="paused", value=b"2030", ttl_seconds=60),
    ]
    outputs = [Output(stream="outbound", type="reply", body=body, answers=True)]
    effects = Effects(outputs=outputs, writes=writes, answer=Answer(status="replied", body=body))
    assert (await end(answers, await its_turn(answers, person), effects))[0]
    # Read along, with an entry of a stream of its own that names the person in its body alone
    noted = Effects(outputs=[Output(stream="notes", type="note", body=body)])
    assert (await end(archive, await its_turn(archive, person), noted))[0]
    # In work at who delivers, with what it has done so far kept
    delivered = await its_turn(egress, person)
    assert (await end(egress, delivered, delay_ms=60_000, progress=words))[0]
    # Dead, in work, parked, and not read
    await say(store, person, words)
    assert (await end(answers, await its_turn(answers, person), bury="why " + person))[0]
    await say(store, person, words)
    await its_turn(answers, person)
    assert (await end(archive, await its_turn(archive, person), delay_ms=60_000, progress=words))[0]
    await say(store, person, words)
    await say(store, person, "sent", "statuses", recipient_id=person)
    await store.command("SET", f"own:dropped:{person}", words, "EX", 60)


def contents(server: Server | Cluster) -> bytes:
    """All that the server has on its disk."""
    files = [path for path in server.folder.rglob("*") if path.is_file()]
    return b"".join(path.read_bytes() for path in files)


async def remembered(store: Store) -> bytes:
    """All that it has in its keys, names and values, as it would be dumped."""
    names = await store.command("KEYS", "*")
    return b"\n".join([*names, *[await store.command("DUMP", name) for name in names]])


def of_ana(data: bytes) -> list[bytes]:
    return [each for each in BYTES if each in data]


@pytest.fixture
def on_disk(each_binary: str) -> Iterator[Server]:
    server = Server(each_binary, "--appendonly", "yes")
    yield server
    server.stop()


async def test_nothing_is_left_of_a_person_not_a_byte(on_disk: Server) -> None:
    store = Store.open(on_disk.url)
    # Given two of whom there is everything, side by side, and snapshots that are made now and then
    await store.command("CONFIG", "SET", "save", "3600 1")
    for person in (LUIS, ANA, EVA):
        await everything(store, person)
    await store.command("SAVE")
    assert of_ana(contents(on_disk)) != []
    # When one is erased
    receipt = await erase(store)
    # Then no byte is left of her, in memory, in what would be dumped now, and on the disk as it is
    assert (receipt.status, receipt.left) == ("erased", [])
    assert of_ana(await remembered(store)) == []
    assert of_ana(contents(on_disk)) == []
    await store.command("SAVE")
    assert of_ana(contents(on_disk)) == []
    # And the receipt counts what there was, and does not tell whose
    assert of_ana(json.dumps([receipt.counts, receipt.left, receipt.notes, receipt.digest]).encode()) == []
    assert receipt.counts.pop("turns_in_work") >= 1
    assert receipt.counts == {
        "inbound": 4, "inbound.dead": 1, "outbound": 1, "outbound.dead": 0, "statuses": 1, "statuses.dead": 0,
        "notes": 1, "notes.dead": 0, "conversation": 1, "conversation_meta": 1, "paused": 1, "rate_limit": 1,
        "own": 2, "door": 1, "requests_waiting": 0,
    }  # fmt: skip
    await store.close()


@pytest.mark.slow
async def test_no_master_of_a_cluster_keeps_what_has_moved_on() -> None:
    with Ground(binary("redis-server")) as ground:
        cluster = Cluster(ground, "appendonly yes", "rdbcompression no", replicas=False)
        stores = Stores.open(cluster.url, shards=4)
        store = stores.of(ANA)
        # Given what she wrote, and what was said of her under another number, which another master has
        other = next(
            name for name in (f"+5215591{number:04}" for number in range(99))
            if cluster.owner(stores.of(name).keys.stream("inbound")) is not cluster.owner(store.keys.stream("inbound"))
        )  # fmt: skip
        await say(store, ANA, "secreto de Ana", wa_id=other[1:])
        await say(stores.of(other), other, "secreto de Ana", "statuses")
        # And that her slot has moved since
        was = cluster.owner(store.keys.stream("inbound"))
        await asyncio.to_thread(cluster.move, store.keys.stream("inbound"))
        assert of_ana(contents(cluster)) != []
        # When she is erased
        told = Settings(data_dir=Path("/nowhere"))
        receipt = await Erasure(stores, a_topology(), told, ANA, heard=0).run()
        # Then nothing of her is left on any disk, nor is her other number
        assert (receipt.status, receipt.left) == ("erased", [])
        assert (receipt.counts["inbound"], receipt.counts["statuses"]) == (1, 1)
        for node in cluster.masters:
            assert node.ask("SAVE") == "OK"
        data = contents(cluster)
        assert (of_ana(data), other[1:].encode() in data) == ([], False)
        assert cluster.owner(store.keys.stream("inbound")) is not was
        await stores.close()


async def test_nobody_else_loses_anything(each_store: Store) -> None:
    for person in (LUIS, ANA, EVA):
        await everything(each_store, person)
    before, top = {name: await others(each_store, name) for name in STREAMS}, a_topology()
    pending = {name: await in_hand(each_store, name) for name in top.groups}
    await erase(each_store)
    # Each entry of the others is where it was, and to each group as it was
    assert {name: await others(each_store, name) for name in STREAMS} == before
    for name, was in pending.items():
        left = {row[0] for row in await in_hand(each_store, name)}
        assert [row for row in await in_hand(each_store, name)] == [row for row in was if row[0] in left]
        assert len(left) > 0
    for kind in ("conversation", "conversation_meta", "rate_limit", "paused", "own:answers"):
        assert await each_store.command("EXISTS", f"{kind}:{LUIS}") == 1
    # And whoever takes over what is left has all of it
    for group in ("answers", "archive", "egress"):
        await everybody_dies(each_store, group)
        heir, found = await a_worker(each_store, group), 0
        while grants := (await heir.take(100, 100, 100)).grants:
            for grant in grants:
                assert ANA not in bodies(grant)[0]
                assert (await end(heir, grant))[0]
                found += 1
            await due_now(each_store, group)
        assert found > 0
    views = await survey(Stores.alone(each_store), top)
    assert {name: (view.lag, view.pending) for name, view in views.items()} == dict.fromkeys(top.groups, (0, 0))


STREAMS = [f"{name}{dead}" for name in ("inbound", "outbound", "statuses", "notes") for dead in ("", ".dead")]


async def others(store: Store, stream: str) -> list[Any]:
    """What lies there that is not Ana's."""
    rows = await store.command("XRANGE", stream, "-", "+")
    return [row for row in rows if not any(ANA.encode() in part for part in row[1])]


async def in_hand(store: Store, group: str) -> list[list[Any]]:
    """What is pending at a group: id, consumer, deliveries."""
    rows = await store.command("XPENDING", a_topology().groups[group].reads, group, "-", "+", 100)
    return [[id, consumer, count] for id, consumer, _, count in rows]


async def everybody_dies(store: Store, group: str) -> None:
    for name in await store.command("HKEYS", f"group:{group}:consumers"):
        await store.command("DEL", f"group:{group}:heartbeat:{name.decode()}")
        assert await Watch(store, a_topology()).sweep(Consumer(group, name.decode())) is not None
    await due_now(store, group)


async def due_now(store: Store, group: str) -> None:
    """What waits for a retry waits no longer."""
    for key in await store.command("ZRANGE", f"group:{group}:due", 0, -1):
        await store.command("ZADD", f"group:{group}:due", 1, key)


async def test_what_a_worker_was_granted_is_forgotten_though_it_is_of_an_older_version(each_store: Store) -> None:
    answers = await a_worker(each_store, "answers")
    for person in (ANA, LUIS):
        await say(each_store, person, "hola")
    await answers.take(2, 2, 1)
    older = msgspec.msgpack.encode({"call": 7, "grants": [[ANA, "a"], [LUIS, "b"]]})
    await each_store.command("HSET", "group:answers:consumers", "older", older)
    await erase(each_store)
    old, new = await each_store.command("HMGET", "group:answers:consumers", "older", answers.consumer)
    assert msgspec.msgpack.decode(old) == {"call": 7, "grants": [[LUIS, "b"]]}
    assert (ANA.encode() in new, LUIS.encode() in new) == (False, True)


async def test_a_turn_in_work_is_refused_and_what_is_written_next_is_a_new_conversation(each_store: Store) -> None:
    answers = await a_worker(each_store, "answers")
    await say(each_store, ANA, "before")
    old = await its_turn(answers, ANA)
    await say(each_store, ANA, "before, not read")
    await erase(each_store)
    await say(each_store, ANA, "after")
    # Its worker is told with the next beat, and may not end it, nor say that it is writing
    remember = Effects(writes=[Write(kind="conversation", value=b"before", ttl_seconds=60)])
    await answers.ahead(old, Output(stream="outbound", type="typing", body={"user_id": ANA}))
    assert await end(answers, old, remember) == (False, -1)
    assert await end(answers, old, delay_ms=0, progress="before") == (False, -1)
    assert (await answers.beat([old.token])).lost == {old.token}
    assert await ids(each_store, "outbound") == []
    # What comes now is answered, with nothing known of what was before
    new = await its_turn(answers, ANA)
    assert [json.loads(body)["text"] for body in bodies(new)] == ["after"]
    assert new.turn.state == {"conversation": None, "own": None}
    assert new.turn.messages[0].count == 1
    assert await end(answers, new, remember) == (True, -1)
    assert (await survey(Stores.alone(each_store), a_topology()))["answers"].lag == 0


async def test_what_was_not_read_is_passed_over_before_it_is_found(each_store: Store) -> None:
    answers, top = await a_worker(each_store, "answers"), a_topology()
    await say(each_store, ANA, "before")
    await say(each_store, LUIS, "his")
    await Traces(each_store, top, ANA, lambda _what, _more: None).tombstone()
    await say(each_store, ANA, "after")
    found = (await answers.take(9, 100, 1)).grants
    assert [json.loads(body)["text"] for grant in found for body in bodies(grant)] == ["his", "after"]
    for grant in found:
        assert (await end(answers, grant))[0]
    view = (await survey(Stores.alone(each_store), top))["answers"]
    assert (view.lag, view.pending) == (0, 0)


async def test_progress_goes_also_where_its_entry_was_deleted_by_hand(each_store: Store) -> None:
    answers = await a_worker(each_store, "answers")
    id = await say(each_store, ANA, "hola")
    assert (await end(answers, await its_turn(answers, ANA), delay_ms=60_000, progress="secreto de Ana"))[0]
    await each_store.command("XDEL", "inbound", id)
    await erase(each_store)
    assert of_ana(await remembered(each_store)) == []


async def test_without_order_what_was_in_work_or_waited_is_dropped_before_it_is_found(each_store: Store) -> None:
    # Given entries in work and waiting for a retry, at a group whose leases do not say whose they are
    archive = await a_worker(each_store, "archive")
    for text in ("in work", "again later", "not read"):
        await say(each_store, ANA, text)
    working, later = (await archive.take(2, 2, 1)).grants
    assert (await end(archive, later, delay_ms=1))[0]
    await say(each_store, LUIS, "his")
    # When her tombstone is up, and the streams have not been looked at yet
    top = a_topology()
    await Traces(each_store, top, ANA, lambda _what, _more: None).tombstone()
    # Then nothing of hers is ended, nor started
    assert await end(archive, working, Effects(outputs=[Output(stream="notes", type="x", body={})])) == (False, -1)
    await due_now(each_store, "archive")
    found = []
    for _ in range(4):
        found += (await archive.take(5, 100, 1)).grants
    assert [json.loads(bodies(grant)[0])["text"] for grant in found] == ["his"]
    assert await ids(each_store, "notes") == []
    await erase(each_store)
    assert (await end(archive, found[0]))[0]
    await archive.beat([])
    assert (await survey(Stores.alone(each_store), top))["archive"].lag == 0


async def test_a_request_that_waits_is_told_and_so_is_a_repeat(each_store: Store) -> None:
    top = a_topology()
    first, asleep = await say(each_store, ANA, "answered"), await say(each_store, ANA, "not read")
    his = await say(each_store, LUIS, "his")
    until = await redis_ms(each_store) + 60_000
    for number, entry in enumerate((first, asleep, his)):
        await each_store.command("HSET", "waiting:inbound", entry, f"{until}|ingress-1|t{number}")
    answers, doors = await a_worker(each_store, "answers"), Doors(each_store, top, "inbound")
    told = Effects(
        outputs=[Output(stream="outbound", type="reply", body={}, answers=True)],
        answer=Answer(status="replied", body={"reply": "secreto de Ana"}),
    )
    assert (await end(answers, (await answers.take(1, 1, 1)).grants[0], told))[0]
    # When her tombstone is up
    tombstone = await Traces(each_store, top, ANA, lambda _what, _more: None).tombstone()
    # Then who still waits is rung for, and neither it nor who has not fetched the reply yet is given any
    rung = await each_store.command("XRANGE", "bell:ingress-1", "-", "+")
    assert [row[1] for row in rung[1:]] == [[b"ticket", b"t1", b"entry", asleep.encode()]]
    assert tombstone.requests == 1
    for entry, ticket in ((first, "t0"), (asleep, "t1")):
        assert (await doors.claim(ANA, entry, ticket)).state == "erased"
    await erase(each_store)
    assert (await doors.claim(ANA, first, "t9", stop=True)).state == "erased"
    # While another's goes on waiting
    assert (await doors.claim(LUIS, his, "t2")).state == "pending"
    assert await each_store.command("HKEYS", "waiting:inbound") == [his.encode()]


async def test_what_is_put_back_from_the_dead_while_somebody_is_erased_stays_dead(each_store: Store) -> None:
    await everything(each_store, ANA)
    [letter] = await ids(each_store, "inbound.dead")
    await Traces(each_store, a_topology(), ANA, lambda _what, _more: None).tombstone()
    assert [each.outcome for each in await redrive(each_store, "inbound", [[letter]], max_len=100)] == ["gone"]


async def test_again_it_finds_nothing_and_of_strangers_neither(each_store: Store) -> None:
    await everything(each_store, ANA)
    await everything(each_store, LUIS)
    first, again = await erase(each_store), await erase(each_store)
    assert sum(first.counts.values()) > 10
    assert (again.status, sum(again.counts.values()), again.digest) == ("erased", 0, first.digest)
    stranger = await erase(each_store, "+59100000000")
    assert (stranger.status, sum(stranger.counts.values())) == ("erased", 0)
    assert await each_store.command("PTTL", "erased") > 8 * 86_400_000 - 60_000


async def test_a_dry_run_counts_and_leaves_everything(each_store: Store) -> None:
    await everything(each_store, LUIS)
    await everything(each_store, ANA)
    before = [sorted(await each_store.command("KEYS", "*")), [await ids(each_store, name) for name in STREAMS]]
    counted = await Erasure(Stores.alone(each_store), a_topology(), Settings(data_dir=Path("/nowhere")), ANA).count()
    after = [sorted(await each_store.command("KEYS", "*")), [await ids(each_store, name) for name in STREAMS]]
    assert after == before
    assert (counted.status, counted.digest) == ("found", None)
    done = (await erase(each_store)).counts
    assert {what: counted.counts[what] for what in done.keys() & counted.counts.keys()} == {
        what: done[what] for what in done.keys() & counted.counts.keys()
    }
    assert counted.counts["inbound"] == 4


@pytest.mark.slow
async def test_cut_off_after_any_step_the_same_again_ends_it(each_store: Store) -> None:
    """Whatever call to Redis is the last one before the process dies."""
    steps = 1
    while True:
        await each_store.command("FLUSHALL")
        await everything(each_store, LUIS)
        await everything(each_store, ANA)
        cut: Any = Cut(each_store, steps)
        try:
            await Erasure(Stores.alone(cut), a_topology(), Settings(data_dir=Path("/nowhere")), ANA, heard=0).run()
        except Died:
            pass
        else:
            break
        receipt = await erase(each_store)
        assert receipt.left == []
        assert of_ana(await remembered(each_store)) == [], steps
        assert len(await others(each_store, "inbound")) == 4
        steps += 7
    assert steps > 50


class Died(BaseException):
    pass


class Cut:
    """A shard whose process dies at a call of its own choosing."""

    def __init__(self, store: Store, calls: int) -> None:
        self._store, self._left = store, calls

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._store, name)
        if name not in ("run", "command", "pipeline"):
            return value

        async def call(*args: Any, **how: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise Died
            return await value(*args, **how)

        return call


async def test_with_another_number_at_whatsapp_that_one_is_erased_too(each_store: Store) -> None:
    """Mexico: messages come from 521…, and statuses are of 52…."""
    here, there = "+5215512345678", "+525512345678"
    await say(each_store, here, "hola", wa_id=there[1:])
    await say(each_store, there, "delivered", "statuses", recipient_id=there)
    await say(each_store, LUIS, "hola", wa_id=LUIS[1:])
    receipt = await erase(each_store, here)
    assert (receipt.counts["inbound"], receipt.counts["statuses"]) == (1, 1)
    assert b"12345678" not in await remembered(each_store)
    assert len(await ids(each_store)) == 1


@pytest.mark.parametrize("namespace", ["", "bot2"])
async def test_in_several_shards_and_under_a_namespace(any_server: Server, namespace: str) -> None:
    top = a_topology(shards=3)
    stores = Stores.open(any_server.url, namespace=namespace, shards=3)
    await stores.first.command("FLUSHALL")
    people = [f"+591700{number * 7919:06}" for number in range(12)]
    for person in people:
        await say(stores.of(person), person, "secreto")
        store = stores.of(person)
        await store.command("SET", store.keys.of("conversation", person), "secreto")
        await store.command("SET", store.keys.state("own", "answers", person), "secreto")
    gone = people[4]
    receipt = await Erasure(stores, top, Settings(data_dir=Path("/nowhere")), gone, heard=0).run()
    assert (receipt.counts["inbound"], receipt.counts["conversation"], receipt.counts["own"]) == (1, 1, 1)
    left = await remembered(stores.first)
    assert [person for person in people if person.encode() not in left] == [gone]
    assert {shard_of(person, 3) for person in people} == {0, 1, 2}
    await stores.close()


async def test_a_group_deletes_what_it_has_written_elsewhere(each_store: Store, tmp_path: Path) -> None:
    module = f"archiving_{tmp_path.name}"  # modules are imported once for all tests
    (tmp_path / f"{module}.py").write_text(ARCHIVING, "utf-8")
    (tmp_path / "kept").write_text(f"{ANA} hola\n{LUIS} hola\n{ANA} adiós\n", "utf-8")
    top = a_topology(groups={"archive": {"reads": "inbound", "order": "none", "handler": f"{module}:write"}})
    top.path = tmp_path / "streams.toml"
    del top.groups["answers"], top.groups["egress"]
    receipt = await erase(each_store, top=top)
    assert (receipt.status, receipt.counts["archive.lines"]) == ("erased", 2)
    assert (tmp_path / "kept").read_text("utf-8") == f"{LUIS} hola\n"
    # Where it cannot, the receipt says so, and the same again does it
    (tmp_path / "kept").rename(tmp_path / "away")
    receipt = await erase(each_store, top=top)
    assert receipt.status == "incomplete"
    assert receipt.left == ["group archive could not delete what it has written: FileNotFoundError"]
    (tmp_path / "away").rename(tmp_path / "kept")
    assert (await erase(each_store, top=top)).status == "erased"


async def test_a_group_that_streams_toml_has_no_more_deletes_it_too(each_store: Store, tmp_path: Path) -> None:
    module = f"archiving_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(ARCHIVING, "utf-8")
    (tmp_path / "kept").write_text(f"{ANA} hola\n{LUIS} hola\n", "utf-8")
    top = a_topology(groups={"archive": {"reads": "inbound", "order": "none", "handler": f"{module}:write"}})
    top.path = tmp_path / "streams.toml"
    await a_worker(each_store, "archive", top)
    top.groups.clear()
    receipt = await erase(each_store, top=top)
    assert (receipt.status, receipt.counts["archive.lines"]) == ("erased", 1)
    assert (tmp_path / "kept").read_text("utf-8") == f"{LUIS} hola\n"
    # Where its code has gone too, the receipt says so
    (tmp_path / "elsewhere").mkdir()
    top.path = tmp_path / "elsewhere" / "streams.toml"
    table = {"reads": "inbound", "handler": f"gone_{module}:write"}
    await each_store.command("HSET", each_store.keys.of("groups"), "archive", json.dumps(table))
    receipt = await erase(each_store, top=top)
    assert receipt.status == "incomplete"
    assert receipt.left[0].startswith("group archive could not be asked what it keeps elsewhere: ")


ARCHIVING = """
from pathlib import Path
from streams import Turn, handler

KEPT = Path(__file__).with_name("kept")

async def forget(person, group, topology, settings):
    lines = KEPT.read_text("utf-8").splitlines()
    kept = [line for line in lines if not line.startswith(person)]
    KEPT.write_text("".join(f"{line}\\n" for line in kept), "utf-8")
    return {"lines": len(lines) - len(kept)}

@handler(outside=True, forget=forget)
async def write(turn: Turn) -> None: ...
"""


async def test_a_dry_run_counts_what_groups_have_written_elsewhere_and_says_where_it_cannot(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given groups that can count what they keep, that cannot, and one whose database is away
    (tmp_path / "counting.py").write_text(COUNTING, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    text = "".join(
        f'[groups.{name}]\nreads = "inbound"\nhandler = "counting:{name}"\n' for name in ("counts", "silent", "away")
    )
    top = topology.parse(tomllib.loads(f"[streams.inbound]\n{text}"))
    counted = await Erasure(Stores.alone(store), top, Settings(data_dir=tmp_path), ANA).count()
    assert counted.counts["counts.rows"] == 7
    assert counted.notes == ["what group silent has written elsewhere, of which it does not say how much"]
    assert counted.left == ["group away could not count what it has written: ConnectionRefusedError"]


async def test_of_what_could_be_done_in_part_the_receipt_has_both(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "counting.py").write_text(COUNTING, "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    top = topology.parse(
        tomllib.loads('[streams.inbound]\n[groups.partly]\nreads = "inbound"\nhandler = "counting:partly"\n')
    )
    receipt = await Erasure(Stores.alone(store), top, Settings(data_dir=tmp_path), ANA, heard=0).run()
    assert (receipt.status, receipt.counts["partly.rows"]) == ("incomplete", 3)
    assert receipt.left == ["group partly could not delete all of what it has written: the file is being read"]


async def test_a_group_that_writes_elsewhere_and_cannot_forget_is_named(store: Store, tmp_path: Path) -> None:
    # Given the group that `cauce new group --batch` begins with, and egress, whose webhooks are told of anyhow
    (tmp_path / "streams.toml").write_text("[streams.inbound]\n[streams.outbound]\n", "utf-8")
    module = f"ledger_{tmp_path.name}".replace("-", "_")
    new.group(topology.load(tmp_path / "streams.toml"), module, reads="inbound", batch=True, write=True)
    with (tmp_path / "streams.toml").open("a", encoding="utf-8") as file:
        file.write('[groups.egress]\nreads = "outbound"\nhandler = "processors.egress.handler:deliver"\n')
    top, told = topology.load(tmp_path / "streams.toml"), Settings(data_dir=tmp_path)
    beyond = [f"what group {module} has written elsewhere: its handler has no `forget`"]
    # Then it is beyond reach, when only counted too
    assert (await Erasure(Stores.alone(store), top, told, ANA).count()).notes == beyond
    receipt = await Erasure(Stores.alone(store), top, told, ANA, heard=0).run()
    assert (receipt.status, receipt.left, receipt.notes[:1]) == ("erased", [], beyond)
    assert "egress" not in str(receipt.notes)


COUNTING = """
from streams import Turn, handler
from streams.errors import Partly

async def seven(person, group, topology, settings):
    return {"rows": 7}

async def refused(person, group, topology, settings):
    raise ConnectionRefusedError("of +59112345678")

async def some(person, group, topology, settings):
    raise Partly("the file is being read", {"rows": 3})

@handler(outside=True, forget=seven, kept=seven)
async def counts(turn: Turn) -> None: ...

@handler(outside=True, forget=seven)
async def silent(turn: Turn) -> None: ...

@handler(outside=True, forget=refused, kept=refused)
async def away(turn: Turn) -> None: ...

@handler(outside=True, forget=some)
async def partly(turn: Turn) -> None: ...
"""


async def test_files_of_replays_go_whoever_is_in_them(each_store: Store, tmp_path: Path) -> None:
    folder = tmp_path / "replays"
    folder.mkdir()
    for name in ("one.db", "one.db-wal"):
        (folder / name).write_text("hola", "utf-8")
    receipt = await erase(each_store, data_dir=tmp_path)
    assert (receipt.counts["replays"], list(folder.iterdir())) == (2, [])


async def test_what_the_server_refuses_the_receipt_says(each_binary: str) -> None:
    """A hosted Redis: its user may neither rewrite the append-only file nor make a snapshot."""
    server = Server(each_binary, "--appendonly", "yes")
    own = Store.open(server.url)
    await everything(own, ANA)
    await own.command("ACL", "SETUSER", "guest", "on", ">p", "~*", "&*", "+@all", "-bgrewriteaof", "-bgsave", "-config")
    guest = Store.open(f"unix://guest:p@{server.socket}")
    receipt = await erase(guest)
    assert receipt.status == "incomplete"
    assert [line.partition(":")[0] for line in receipt.left] == [
        "the append-only file still holds it", "the snapshot (RDB) still holds it",
    ]  # fmt: skip
    assert of_ana(await remembered(own)) == []
    # And by whoever may, the same again ends it
    assert (await erase(own)).status == "erased"
    assert of_ana(contents(server)) == []
    await guest.close()
    await own.close()
    server.stop()


async def test_a_full_redis_erases_and_says_what_it_had_no_room_for(each_store: Store) -> None:
    await everything(each_store, ANA)
    await each_store.command("CONFIG", "SET", "maxmemory", "1")
    try:
        receipt = await erase(each_store)
    finally:
        await each_store.command("CONFIG", "SET", "maxmemory", "0")
    assert receipt.status == "incomplete"
    assert receipt.left[0].startswith("what was deleted from inbound is in Redis's memory until it is trimmed")
    assert [await ids(each_store, stream) for stream in STREAMS] == [[]] * len(STREAMS)
    assert (await erase(each_store)).status == "erased"
    assert of_ana(await remembered(each_store)) == []
