"""The log in a file and back: everything that was said, once, and with other people in it where that is asked for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from clinic import ANA, EVA, LUIS, Clinic
from conftest import Server, emptied
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from protocol import redis_ms

from processors.inference.handler import reply
from streams.commands import transfer
from streams.commands.lab import Asked
from streams.connection import Store, entries
from streams.errors import Bury, ConfigurationError
from streams.lab import carry, logbook
from streams.lab.carry import Carrier, Full
from streams.lab.logbook import File, Logged
from streams.stores import Stores

WAMID = "wamid.HBgLNTkxNzExMTExMTEVAgASGBQzQTY="


@pytest.fixture
def clinic(store: Store, any_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    return Clinic(store, any_server, tmp_path, monkeypatch)


def some(count: int, stream: str = "inbound") -> list[Logged]:
    """Entries of long ago."""
    fields = {"type": b"text", "body": b"{}", "v": b"1", "now": b"1"}
    return [
        Logged(stream, f"{1_700_000_000_000 + n}-0", {"key": b"+%d" % (n % 3), **fields, "trace": b"00-%d" % n})
        for n in range(count)
    ]


def carrier(store: Store, name: str = "file", *, most: int = 10_000, keep_ids: bool = True) -> Carrier:
    return Carrier(Stores.alone(store), name, {"inbound": most}, keep_ids=keep_ids)


async def there(store: Store) -> list[tuple[str, dict[str, bytes]]]:
    return entries(await store.command("XRANGE", "inbound", "-", "+"))


async def test_what_is_appended_is_as_it_was_marked_and_with_its_id(each_store: Store) -> None:
    await carrier(each_store).append(some(3), lambda count: None)
    kept = {"key": b"+0", "type": b"text", "body": b"{}", "v": b"1", "trace": b"00-0", "replayed": b"1"}
    assert (await there(each_store))[0] == ("1700000000000-0", kept)
    assert [id for id, _ in await there(each_store)] == [logged.id for logged in some(3)]


async def test_behind_what_is_newer_it_gets_new_ids_and_keeps_its_old_ones_as_origin(each_store: Store) -> None:
    await each_store.command("XADD", "inbound", "*", "key", "+1", "type", "text", "body", "{}")
    assert await carrier(each_store).append(some(2), lambda count: None) == (2, 0, 2)
    found = await there(each_store)
    assert [fields.get("origin") for _, fields in found] == [None, b"1700000000000-0", b"1700000000001-0"]
    assert [id for id, _ in found] == sorted({id for id, _ in found}, key=lambda id: (len(id), id))


async def test_two_of_the_same_id_both_keep_their_time_and_so_does_all_that_comes_after(each_store: Store) -> None:
    # Given what two shards held
    first, second, third = some(3)
    twice = second._replace(id=first.id)
    assert await carrier(each_store).append([first, twice, third], lambda count: None) == (3, 0, 0)
    assert [(id, fields.get("origin")) for id, fields in await there(each_store)] == [
        ("1700000000000-0", None), ("1700000000000-1", b"1700000000000-0"), ("1700000000002-0", None),
    ]  # fmt: skip


async def test_however_often_it_is_tried_each_entry_is_appended_once(each_store: Store, monkeypatch) -> None:
    monkeypatch.setattr(carry, "BATCH", 10)
    steps: list[int] = []

    def cut_off(count: int) -> None:
        steps.append(count)
        if len(steps) == 2:
            raise KeyboardInterrupt

    # Given somebody who is cut off after two of three batches, and tries again, twice
    with pytest.raises(KeyboardInterrupt):
        await carrier(each_store, keep_ids=False).append(some(25), cut_off)
    assert await carrier(each_store, keep_ids=False).append(some(25), lambda count: None) == (5, 20, 0)
    assert await carrier(each_store, keep_ids=False).append(some(25), lambda count: None) == (0, 25, 0)
    assert [fields["origin"].decode() for _, fields in await there(each_store)] == [logged.id for logged in some(25)]
    # And another file is another matter
    assert await carrier(each_store, "other", keep_ids=False).append(some(5), lambda count: None) == (5, 0, 0)


async def test_a_stream_that_is_full_takes_no_batch_in_part(each_store: Store, monkeypatch) -> None:
    monkeypatch.setattr(carry, "BATCH", 10)
    with pytest.raises(Full, match="max_len of 25"):
        await carrier(each_store, most=25).append(some(30), lambda count: None)
    assert len(await there(each_store)) == 20
    assert await carrier(each_store, most=30).append(some(30), lambda count: None) == (10, 20, 0)


async def test_what_was_said_is_replayed_elsewhere_from_a_file(clinic: Clinic, monkeypatch, any_server) -> None:
    # Given people who said who they are, in one way or another
    async with clinic.open():
        await clinic.say(ANA, "Soy Ana, del 591 7111-1111", message_id=WAMID)
        await clinic.say("US.13491208655302741918", "quiero una cita el 2026-12-24")
        await clinic.say("luisa@example.com", "quiero hablar con una persona")
        await clinic.say("luisa@example.com", "¿Hola?")
        await clinic.say(ANA, "Gracias", context={"id": WAMID, "from": "59171111111"})
    plain, invented = clinic.folder / "plain.jsonl", clinic.folder / "invented.jsonl"
    await transfer.export(clinic.place, Asked(), plain, pseudonyms=False)
    await transfer.export(clinic.place, Asked(), invented, pseudonyms=True)
    assert plain.stat().st_mode & 0o777 == 0o600
    # Then nobody is found in the file with pseudonyms, and the other has them
    for gone in ("71111111", "7111-1111", WAMID, "13491208655302741918", "luisa", "Ana", "Pérez"):
        assert gone not in invented.read_text(), gone
        assert gone in plain.read_text(), gone
    # And both are replayed without any Redis
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    for file in (plain, invented):
        outcome = await clinic.replay(file=str(file))
        assert outcome.verdicts == ["same"] * 5
        assert len({row["person"] for row in outcome["rows"]}) == 3
    # And on a machine where it was imported
    store = emptied(any_server)
    monkeypatch.setenv("REDIS_URL", any_server.url)
    for _ in range(2):
        assert await transfer.bring(clinic.place, invented, yes=True) == 0
    assert await store.command("XLEN", "inbound") == 5
    assert (await clinic.replay()).verdicts == ["same"] * 5
    # Where no group takes it for something new
    async with clinic.open():
        pass
    assert await store.command("XLEN", "outbound") == 5
    await store.close()


async def test_what_people_said_before_goes_along_and_is_not_replayed(clinic: Clinic) -> None:
    async with clinic.open():
        await clinic.say(ANA, "Hola")
        await clinic.say(LUIS, "Hola")
        last = await clinic.say(ANA, "Gracias")
    await clinic.write(ANA, "nobody has answered this")
    file = clinic.folder / "some.jsonl"
    await transfer.export(clinic.place, Asked(since=last), file, pseudonyms=False)
    said = [json.loads(line)["body"]["text"] for line in file.read_text().splitlines()[1:] if '"inbound"' in line]
    assert said == ["Hola", "Gracias"]
    outcome = await clinic.replay(file=str(file))
    assert outcome.texts() == ["Gracias"]
    assert outcome["cut"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("pseudonyms", [False, True], ids=["as it was", "with pseudonyms"])
async def test_what_was_one_turn_is_one_wherever_it_is_carried(clinic: Clinic, any_server, pseudonyms) -> None:
    # Given messages of hours ago that an outage had answered together, with nothing that would tell: with silence, and
    # by burying them
    async def silent(turn: Any) -> Any:
        if turn.key == LUIS:
            raise Bury("poison")

    now = await redis_ms(clinic.store)
    for hour in range(3):
        for number, person in enumerate((ANA, LUIS)):
            await clinic.write(person, str(hour), at=f"{now - 9_000_000 + hour * 3_600_000 + number}-0")
    async with clinic.open(replace(reply, handle=silent, buried=None)):
        pass
    file = clinic.folder / "some.jsonl"
    await transfer.export(clinic.place, Asked(), file, pseudonyms=pseudonyms)
    clinic.handler("return None")

    async def turns(**asked: Any) -> list[tuple[str, list[str]]]:
        outcome = await clinic.replay(changes={"handler": "mine:handle"}, **asked)
        return [(row["verdict"], row["said"]) for row in outcome["rows"]]

    # Then they are one turn each in the file
    together = [("same", ["0", "1", "2"]), ("mended", ["0", "1", "2"])]
    assert await turns(file=str(file)) == together
    # Where that was imported, with their ids or behind what is newer
    store = emptied(any_server)
    for name in ("one", "two"):
        await transfer.bring(clinic.place, file, name=name, yes=True)
        assert await turns() == together
        await store.command("XADD", "inbound", "*", "key", "+9", "type", "text", "body", "{}")
        await store.command("XTRIM", "inbound", "MAXLEN", 0)
    # And a file of before, which does not tell, is what it was: the window makes three of them
    fields = [json.loads(line) for line in file.read_text().splitlines()]
    older = clinic.folder / "older.jsonl"
    lines = ({name: value for name, value in each.items() if name != "turn"} for each in fields)
    older.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [said for _, said in await turns(file=str(older))] == [[hour] for hour in "001122"]
    await store.close()


async def test_of_nobody_no_file_is_written(clinic: Clinic, capsys) -> None:
    async with clinic.open():
        await clinic.say(ANA, "Hola")
    file = clinic.folder / "nobody.jsonl"
    assert await transfer.export(clinic.place, Asked(people=("nobody",)), file, pseudonyms=False) == 3
    assert "nothing of inbound is in this range" in capsys.readouterr().err
    assert not file.exists()


async def test_dead_letters_are_carried_too(clinic: Clinic, capsys) -> None:
    async def poisoned(turn: Any) -> Any:
        raise Bury("poison")

    async with clinic.open(replace(reply, handle=poisoned)):
        await clinic.say(EVA, "veneno")
    file = clinic.folder / "dead.jsonl"
    await transfer.export(clinic.place, Asked(dead=True), file, pseudonyms=True)
    assert "1 person" in capsys.readouterr().out
    outcome = await clinic.replay(file=str(file), dead=True)
    assert outcome.texts() == ["veneno"]


async def test_a_range_goes_into_another_stream_for_a_group_of_its_own(clinic: Clinic, capsys) -> None:
    async with clinic.open():
        first = await clinic.say(ANA, "uno")
        await clinic.say(LUIS, "dos")
    with (clinic.folder / "streams.toml").open("a") as file:
        file.write('\n[streams.trial]\n\n[groups.trial]\nreads = "trial"\nhandler = "nowhere:nothing"\n')
    assert await transfer.into(clinic.place, Asked(since=first, until=first), "trial", yes=True) == 0
    said = capsys.readouterr()
    assert "1 entry appended to trial" in said.out
    assert "group trial reads trial and has no `replay = true`" in " ".join(said.err.split())
    [(_, was)] = entries(await clinic.store.command("XRANGE", "inbound", first, first))
    [(_, now)] = entries(await clinic.store.command("XRANGE", "trial", "-", "+"))
    assert now == {**was, "replayed": b"1", "origin": first.encode()}
    # What is asked again of a range that is past is there already, also after a change of the table that was warned of
    with (clinic.folder / "streams.toml").open("a") as file:
        file.write("replay = true\n")
    assert await transfer.into(clinic.place, Asked(since=first, until=first), "trial", yes=True) == 0
    assert "0 entries appended to trial: all 1 of this range were appended" in capsys.readouterr().out
    assert await clinic.store.command("XLEN", "trial") == 1
    # Unless it is to be there once more, or the range is another each time
    assert await transfer.into(clinic.place, Asked(since=first, until=first), "trial", yes=True, anew=True) == 0
    for length in (4, 6):
        assert await transfer.into(clinic.place, Asked(since=first), "trial", yes=True) == 0
        assert await clinic.store.command("XLEN", "trial") == length
    for stream, why in (("inbound", "the stream that it comes from"), ("trail", "did you mean 'trial'")):
        with pytest.raises(ConfigurationError, match=why):
            await transfer.into(clinic.place, Asked(), stream, yes=True)
    with pytest.raises(ConfigurationError, match="nothing of inbound in this range"):
        await transfer.into(clinic.place, Asked(since="3h", until="2h"), "trial", yes=True)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "none that `cauce export` wrote"),
        (b"[]\n", "none that `cauce export` wrote"),
        (b'{"name":"x","group":"g","streams":[],"first":"0","last":"1","form":99}\n', "another form"),
        (b'{"name":"x","group":"g","streams":[],"first":"0","last":"1"}\nhello\n', "line 2 is no entry"),
        (
            b'{"name":"x","group":"g","streams":[],"first":"0","last":"1"}\n{"stream":"a","id":"x"}\n',
            "line 2 is no entry",
        ),
    ],
)
def test_another_file_is_refused_with_the_line(content, why, tmp_path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=why):
        list(File(path).read())


def test_a_file_that_is_there_is_never_written_over(tmp_path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text("mine")
    head = logbook.Head(name="x", group="g", streams=[], first="0", last="1")
    with pytest.raises(ConfigurationError, match="is there already"):
        carry.write(path, head, [], None, lambda count: None)
    assert [each.name for each in tmp_path.iterdir()] == ["x.jsonl"]


FIELDS = st.dictionaries(st.sampled_from(["key", "type", "body", "trace", "v", "x"]), st.binary(max_size=30))
BODIES = st.one_of(
    st.binary(max_size=40), st.dictionaries(st.text(max_size=5), st.integers() | st.text()).map(msgspec.json.encode)
)  # fmt: skip


@given(FIELDS, BODIES)
def test_a_line_holds_an_entry_byte_for_byte(fields, body) -> None:
    logged = Logged("inbound", "1700000000000-1", {**fields, "body": body})
    line = logbook.line_of(logged)
    assert b"\n" not in line
    assert logbook.logged_of(line) == logged


GOOD = {"stream": "inbound", "id": "1700000000000-0", "key": "+1", "type": "text", "body": {"text": "Hola"}}


def a_file(clinic: Clinic, *lines: dict[str, Any] | str) -> Path:
    path = clinic.folder / "some.jsonl"
    head = {"name": "x", "group": "inference", "streams": ["inbound", "outbound"], "first": "0", "last": "1"}
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in (head, *lines)))
    return path


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"stream": None}, "line 3 is no entry: stream is missing"),
        ({"stream": "statuses"}, "stream 'statuses' is none of those that the first line names: inbound, outbound"),
        ({"id": None}, "id is missing"),
        ({"id": "5-x"}, "line 3 is no entry: id '5-x' is none; write <milliseconds>-<number>"),
        ({"id": "abc-0"}, "id 'abc-0' is none; write <milliseconds>-<number>"),
        ({"id": "0-0"}, "id '0-0' is none; write <milliseconds>-<number>"),
        ({"id": "99999999999999999999-0"}, "id '99999999999999999999-0' is none"),
        ({"stream": "inbound.dead"}, "id '' is none"),
        ({"key": None}, "key is missing"),
        ({"key": ""}, "key is missing"),
        ({"key": {"base64": "/w=="}}, "key is no UTF-8"),
        ({"type": None}, "type is missing"),
        ({"typo": "text"}, "there is no field 'typo'; did you mean 'type'?"),
        ({"v": "2"}, "v is '2', and this release knows '1'; update Cauce"),
        ({"turn": "yesterday"}, "turn 'yesterday' is none; write <group>"),
        ({"origin": "yesterday"}, "origin 'yesterday' is no entry's id"),
        ({"body": None}, "body is missing"),
        ({"body": "{"}, "body is no JSON"),
        ({"body": [1]}, "body is no JSON object, but [1]"),
        ({"body": 7}, "body is no JSON object, but 7"),
    ],
)
async def test_of_a_file_with_a_broken_line_nothing_is_imported(clinic: Clinic, wrong, why) -> None:
    line = {name: value for name, value in {**GOOD, **wrong}.items() if value is not None}
    with pytest.raises(ConfigurationError, match="line 3 is no entry") as refused:
        await transfer.bring(clinic.place, a_file(clinic, GOOD, line), yes=True)
    assert why in str(refused.value)
    assert await clinic.store.command("EXISTS", "inbound") == 0


async def test_of_a_packed_file_that_is_broken_off_nothing_is_imported(clinic: Clinic) -> None:
    lines = [{**GOOD, "id": f"{1_700_000_000_000 + number}-0", "trace": uuid4().hex} for number in range(2000)]
    packed = clinic.folder / "some.jsonl.gz"
    packed.write_bytes(gzip.compress(a_file(clinic, *lines).read_bytes())[:-1000])
    with pytest.raises(ConfigurationError, match="broken off, or damaged"):
        await transfer.bring(clinic.place, packed, yes=True)
    assert await clinic.store.command("EXISTS", "inbound") == 0


async def test_a_file_that_was_imported_is_passed_over_unless_it_has_another_name(clinic: Clinic, capsys) -> None:
    file = a_file(clinic, GOOD, {**GOOD, "id": "1700000000001-0"})

    async def told(**how: Any) -> list[str]:
        assert await transfer.bring(clinic.place, file, yes=True, **how) == 0
        return capsys.readouterr().out.splitlines()

    assert await told() == ["2 entries appended, marked as replayed"]
    assert await told() == [
        "0 entries appended, marked as replayed",
        "2 entries passed over, appended before under the name x; to append all of it again: --as NAME, another one",
    ]
    # Again by another name, and then behind what is there
    assert await told(name="again") == [
        "2 entries appended, marked as replayed",
        "2 entries could not keep id and time, for the streams hold newer ones: they come last, with what they had as "
        "`origin`",
    ]
    assert [fields.get("origin") for _, fields in await there(clinic.store)] == [
        None, None, b"1700000000000-0", b"1700000000001-0",
    ]  # fmt: skip
