"""What may be asked for is found without looking through the stream, and what is nowhere is known not to be."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from typing import Any

import pytest
from conftest import Server, emptied
from protocol import a_consumer, a_topology, end
from protocol import say as add

from ingress.append import Appender, Arrival
from ingress.appenders import Appenders
from streams import deadletters, marks, topology, wire
from streams.connection import Store
from streams.erasure.erase import Erasure
from streams.index import KEPT, SPAN_MS
from streams.lab.carry import Carrier
from streams.lab.logbook import Logged
from streams.settings import Settings
from streams.stores import Stores
from streams.story import finding

ANA, LUIS = "+59112345678", "+59187654321"
STRANGERS = "4bf92f3577b34da6a3ce929d0e0e4736"
TOP = topology.parse({"streams": {"inbound": {}, "outbound": {}, "statuses": {}}, "groups": {}})


def arrival(person: str, name: str, trace: str = "", **more: Any) -> Arrival:
    body = wire.encode({"user_id": person, "message_id": name})
    made = {"trace": f"00-{trace}-00f067aa0ba902b7-01"} if trace else {}
    return Arrival(stream="inbound", key=person, type="text", body=body, message_id=name, **made, **more)


async def say(store: Store | Stores, *arrivals: Arrival) -> list[str]:
    """The entries that became of them."""
    front = Appender(store, TOP) if isinstance(store, Store) else Appenders(store, TOP)
    told = await front.append(arrivals)
    await front.close()
    return [each.entry_id for each in told]


async def by_hand(store: Store, person: str, name: str, *fields: str, id: str = "*") -> str:
    """An entry of which the index knows nothing."""
    body = wire.encode({"user_id": person, "message_id": name}).decode()
    added = await store.command("XADD", "inbound", id, "key", person, "type", "text", "body", body, *fields)
    return str(added.decode())


class Asked:
    """Asks, and counts what was looked through for it."""

    def __init__(self, stores: Stores | Store, top: topology.Topology = TOP) -> None:
        self.looked: list[int] = []
        self._stores, self._top = Stores.alone(stores) if isinstance(stores, Store) else stores, top

    def _finder(self) -> finding.Finder:
        self.looked.clear()
        return finding.Finder(self._stores, self._top, self.looked.append)

    async def message(self, id: str) -> str:
        return (await self._finder().message(id)).id

    async def of(self, person: str, count: int = 20, since_ms: int = 0) -> list[str]:
        return [place.id async for place in self._finder().of(person, since_ms=since_ms, count=count)]


async def parts(store: Store) -> list[bytes]:
    return sorted(await store.command("KEYS", "index:*"))


async def lines(store: Store) -> list[str]:
    return [line for part in await parts(store) for line in (await store.command("GET", part)).decode().splitlines()]


async def test_a_foreign_trace_a_person_and_an_id_are_found_with_nothing_looked_through(each_store: Store) -> None:
    # Given many people's messages, among them two of Ana's, one of which another program began
    others = [arrival(f"+1{n % 500}", f"m{n}") for n in range(2_000)]
    [first, second] = [await say(each_store, arrival(ANA, "a1", STRANGERS)), await say(each_store, arrival(ANA, "a/2"))]
    entries = await say(each_store, *others)
    asked = Asked(each_store)
    # When somebody asks for them, then they are found
    assert await asked.message(STRANGERS) == first[0]
    assert await asked.message(f"00-{STRANGERS}-00f067aa0ba902b7-01") == first[0]
    assert await asked.message("a/2") == second[0]
    assert await asked.message("m1234") == entries[1234]
    assert await asked.of(ANA) == [second[0], first[0]]
    assert await asked.of(ANA, count=1) == [second[0]]
    assert await asked.of("+1499") == [entries[n] for n in (1999, 1499, 999, 499)]
    assert sum(asked.looked) == 0
    # And what is not there is known not to be
    assert await asked.of(LUIS) == []
    for unknown in ("5" + STRANGERS[1:], "wamid.none", "m2000"):
        with pytest.raises(finding.Unknown, match=r"in the index of inbound"):
            await asked.message(unknown)
        assert sum(asked.looked) == 0


@pytest.mark.parametrize("ahead_s", [0, 40, -40])
async def test_a_line_says_the_same_whether_the_ingress_or_redis_makes_it(
    each_store: Store, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    # Given an ingress whose clock is right, for which it makes the lines, or is not
    real = time.time
    monkeypatch.setattr("ingress.append.time.time", lambda: real() + ahead_s)
    # When a message comes whose names tell no time, and one whose trace and id do
    made = marks.made(int(real() * 1000))
    await say(each_store, arrival(ANA, "a1", STRANGERS), arrival(LUIS, made, wire.new_trace()[3:35]))
    # Then the first is listed under all three, the second under its person alone
    key = await each_store.command("GET", "digest")
    digests = [
        [hashlib.sha1(key + name.encode()).hexdigest()[:8] for name in names]  # noqa: S324 - as Redis has it
        for names in ([ANA, STRANGERS, "a1"], [LUIS])
    ]
    assert [line.split()[1:] for line in await lines(each_store)] == digests


async def test_what_was_there_before_the_index_is_looked_for_in_the_stream_as_ever(store: Store) -> None:
    # Given what nobody has listed, and behind it what is
    old = await by_hand(store, ANA, "a1", "trace", f"00-{STRANGERS}-00f067aa0ba902b7-01")
    for number in range(50):
        await by_hand(store, LUIS, f"l{number}")
    [new] = await say(store, arrival(ANA, "a2"))
    asked = Asked(store)
    # Then both are found, and of what is nowhere it is said how far it was looked for
    assert await asked.of(ANA) == [new, old]
    assert await asked.message(STRANGERS) == old
    assert await asked.message("a1") == old
    with pytest.raises(
        finding.Unknown, match=r"in the index of inbound; through the 51 entries of inbound before that"
    ):
        await asked.message("a3")


async def test_where_a_group_writes_to_the_stream_itself_the_index_is_not_believed(store: Store) -> None:
    [listed] = await say(store, arrival(ANA, "a1"))
    unlisted = await by_hand(store, ANA, "a2")
    tables = {"streams": {"inbound": {}, "statuses": {}}}
    writes = {"g": {"reads": "statuses", "writes": ["inbound"], "handler": "x:y"}}
    asked = Asked(store, topology.parse({**tables, "groups": writes}))
    assert await asked.of(ANA) == [unlisted, listed]
    assert await asked.message("a2") == unlisted


async def test_a_name_that_tells_its_time_is_listed_only_where_that_is_not_true(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time_ns()
    ours, said = wire.new_trace()[3:35], marks.made(now // 1_000_000)
    monkeypatch.setattr("time.time_ns", lambda: now - 3_600_000_000_000)
    askew, long_ago = wire.new_trace()[3:35], marks.made(now // 1_000_000 - 3_600_000)
    monkeypatch.setattr("time.time_ns", lambda: now)
    [near, far] = await say(store, arrival(ANA, said, ours), arrival(ANA, long_ago, askew))
    assert [len(line.split()) for line in await lines(store)] == [2, 4]
    asked = Asked(store)
    for name, entry in ((ours, near), (said, near), (askew, far), (long_ago, far)):
        assert await asked.message(name) == entry


async def test_a_repeat_is_not_listed_again_and_a_call_that_is_run_again_lists_nothing(each_store: Store) -> None:
    front, call = Appender(each_store, TOP), each_store.run

    async def twice(*given: Any, **more: Any) -> Any:
        await call(*given, **more)
        return await call(*given, **more)

    each_store.run = twice  # type: ignore[method-assign]
    for _ in range(2):
        await front.append([arrival(ANA, "a1"), arrival(ANA, "a2")])
    assert len(await lines(each_store)) == 2
    await front.close()


async def test_a_status_is_not_listed(store: Store) -> None:
    await say(store, Arrival(stream="statuses", key=ANA, type="sent", body=b"{}", message_id="wamid.x:sent"))
    assert await parts(store) == []


async def test_the_index_goes_with_its_stream_and_after_eight_days(each_store: Store) -> None:
    # Given parts of long ago, to one of which the stream still goes back
    now = int(time.time() * 1000) // SPAN_MS
    await by_hand(each_store, LUIS, "l1", id=f"{(now - 2) * SPAN_MS}-0")
    for number in (now - KEPT, now - 3, now - 2, now - 1):
        await each_store.command("SET", f"index:{number}", f"{number * SPAN_MS}-0 00000000\n")
    # When the next one begins, then those go of which nothing is left
    await say(each_store, arrival(ANA, "a1"))
    there = [int(name.rpartition(b":")[2]) for name in await parts(each_store)]
    assert there[:2] == [now - 2, now - 1]
    assert len(there) == 3
    assert 0 < await each_store.command("PTTL", f"index:{there[2]}") <= 8.1 * 86_400_000


async def test_a_letter_that_is_put_back_is_found_when_what_it_was_has_gone(each_store: Store) -> None:
    # Given a message that was buried, its entry trimmed, and others listed since
    turns = await a_consumer(each_store)
    trace = f"00-{STRANGERS}-00f067aa0ba902b7-01"
    await add(each_store, ANA, '{"message_id":"a1"}', trace=trace)
    [grant] = (await turns.take(5, 100, 1)).grants
    assert await end(turns, grant, bury="no") == (True, -1)
    [letter] = [one async for one in deadletters.letters(each_store, "inbound", deadletters.Wanted())]
    await each_store.command("XTRIM", "inbound", "MAXLEN", 0)
    await say(each_store, arrival(LUIS, "l1"))
    # When it is put back
    [done] = await deadletters.redrive(each_store, "inbound", [[letter.id]], max_len=100)
    # Then whoever asks for it is told of that
    asked = Asked(each_store, a_topology())
    assert await asked.message("a1") == await asked.message(STRANGERS) == done.detail
    assert await asked.of(ANA) == []
    assert sum(asked.looked) == 0


@pytest.mark.parametrize("keep_ids", [True, False])
async def test_what_is_imported_is_listed(each_store: Store, keep_ids: bool) -> None:
    [known] = await say(each_store, arrival(ANA, "a1"))
    id = f"{int(known.partition('-')[0]) + 1}-0"
    fields = {"key": ANA.encode(), "body": b'{"message_id":"a2"}', "trace": f"00-{STRANGERS}-1-01".encode()}
    carrier = Carrier(Stores.alone(each_store), "file", {"inbound": 100}, keep_ids=keep_ids)
    carried = await carrier.append([Logged("inbound", id, fields)], lambda _: None)
    assert carried.appended == 1
    [(imported, _)] = await each_store.command("XREVRANGE", "inbound", "+", "-", "COUNT", 1)
    asked = Asked(each_store)
    assert await asked.message("a2") == await asked.message(STRANGERS) == imported.decode()
    assert await asked.of(ANA) == [imported.decode(), known]
    assert sum(asked.looked) == 0


async def test_of_who_is_erased_nothing_is_left_in_the_index_and_all_others_are(each_store: Store) -> None:
    # Given two people, one of whose messages has been trimmed already
    await say(each_store, arrival(ANA, "a1"))
    await each_store.command("XTRIM", "inbound", "MAXLEN", 0)
    [_, luis, _] = await say(each_store, arrival(ANA, "a2"), arrival(LUIS, "l1"), arrival(ANA, "a3", STRANGERS))
    digest, before = await each_store.command("GET", "digest"), await lines(each_store)
    # When one is erased
    await Erasure(Stores.alone(each_store), TOP, Settings(), ANA, heard=0).run()
    # Then only the other's line tells of anybody
    after = await lines(each_store)
    assert [line for line in after if "-" not in line.split()[1]] == [before[2]]
    assert [len(line) for line in after] == [len(line) for line in before]
    asked = Asked(each_store)
    assert await asked.of(ANA) == []
    assert await asked.of(LUIS) == [luis]
    # And what is said from now on is found
    [again] = await say(each_store, arrival(ANA, "a4"))
    assert await asked.of(ANA) == [again]
    assert await each_store.command("GET", "digest") == digest
    assert sum(asked.looked) == 0


async def test_nothing_comes_back_of_a_part_that_goes_while_somebody_is_erased(store: Store) -> None:
    await say(store, arrival(ANA, "a1"))
    await store.command("XTRIM", "inbound", "MAXLEN", 0)
    call = store.run

    async def late(script: Any, keys: Sequence[str], args: Sequence[Any], **more: Any) -> Any:
        if script.name == "unlist":
            await store.command("UNLINK", *keys)
        return await call(script, keys, args, **more)

    store.run = late  # type: ignore[method-assign]
    await Erasure(Stores.alone(store), TOP, Settings(), ANA, heard=0).run()
    assert await parts(store) == []


async def test_it_is_found_in_whatever_shard_it_is(each_server: Server) -> None:
    await emptied(each_server).close()
    stores, people = Stores.open(each_server.url, shards=3, namespace="bot"), [f"+591700{n:05}" for n in range(20)]
    entries = await say(stores, *[arrival(person, f"of {person}", f"{n:032x}") for n, person in enumerate(people, 1)])
    asked = Asked(stores)
    for number, person in enumerate(people):
        assert await asked.of(person) == [entries[number]]
        assert await asked.message(f"{number + 1:032x}") == entries[number]
        assert await asked.message(f"of {person}") == entries[number]
        assert sum(asked.looked) == 0
    await stores.close()
