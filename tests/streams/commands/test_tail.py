"""Following streams: what is there in the order of its time, what comes as it comes, and only what was asked for."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from conftest import Server
from protocol import redis_ms
from waiting import until

from streams import topology
from streams.commands import tail
from streams.connection import Store
from streams.errors import ConfigurationError, Unavailable
from streams.stores import Stores

TOPOLOGY = topology.parse({"streams": {"inbound": {}, "outbound": {}}})
ANA, LUIS = "+59112345678", "+59187654321"


async def put(store: Store, stream: str, id: str, person: str = ANA, type: str = "text", text: str = "Hola") -> None:
    body = json.dumps({"text": text})
    await store.command("XADD", store.keys.stream(stream), id, "key", person, "type", type, "body", body)


async def followed(
    stores: Stores, capsys: pytest.CaptureFixture[str], count: int, *names: str, since: str = "start", **wanted: Any
) -> list[dict[str, Any]]:
    """So many entries, as JSON."""
    form = tail.Form(as_json=True, full=True, streams=names, zone=wanted.get("zone"))
    which = tail.Wanted.of(wanted.get("user"), wanted.get("types", ()), TOPOLOGY)
    async with asyncio.timeout(20):
        await tail.follow(stores, names, since=since, count=count, form=form, wanted=which)
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def ids(shown: Sequence[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in shown]


async def test_several_streams_are_read_in_the_order_of_their_time(each_store: Store, capsys, monkeypatch) -> None:
    monkeypatch.setattr(tail, "_PAGE", 2)  # so that one stream's page ends long before the other's
    for stream, id in (("inbound", "1-0"), ("inbound", "2-0"), ("inbound", "9-0"), ("outbound", "3-0"),
                       ("outbound", "4-0"), ("outbound", "5-0"), ("outbound", "10-0")):  # fmt: skip
        await put(each_store, stream, id)
    shown = await followed(Stores.alone(each_store), capsys, 7, "inbound", "outbound")
    assert ids(shown) == ["1-0", "2-0", "3-0", "4-0", "5-0", "9-0", "10-0"]
    assert [each["stream"] for each in shown] == ["inbound", "inbound", *["outbound"] * 3, "inbound", "outbound"]


async def test_of_one_stream_an_entry_is_as_it_lies_there(store: Store, capsys) -> None:
    await put(store, "inbound", "1-0")
    [shown] = await followed(Stores.alone(store), capsys, 1, "inbound")
    assert shown == {"id": "1-0", "key": ANA, "type": "text", "body": {"text": "Hola"}}


def test_times_are_no_numbers_of_anybody() -> None:
    times = {"received": "1795931636254", "first_ms": "1795931268081", "last_ms": "1795931268082"}
    fields = {name: value.encode() for name, value in {**times, "key": ANA}.items()}
    shown = json.loads(tail.Form(as_json=True).entry("1795931636255-0", fields))
    assert shown == {"id": "1795931636255-0", **times, "key": "+591…678", "body": None}


async def test_shards_are_read_as_one(any_server: Server, store: Store, capsys) -> None:
    stores = Stores.open(any_server.url, shards=3)
    for number in range(1, 10):
        await put(list(stores)[number % 3], "inbound", f"{number}-0")
    shown = await followed(stores, capsys, 9, "inbound")
    assert ids(shown) == [f"{number}-0" for number in range(1, 10)]
    await stores.close()


async def test_only_what_was_asked_for_is_shown_and_counted(store: Store, capsys) -> None:
    for id, person, type in (("1-0", LUIS, "text"), ("2-0", ANA, "audio"), ("3-0", ANA, "text"), ("4-0", ANA, "image")):
        await put(store, "inbound", id, person, type)
    await put(store, "inbound.dead", "5-0", ANA, "audio")
    stores, both = Stores.alone(store), ("inbound", "inbound.dead")
    assert ids(await followed(stores, capsys, 4, *both, user="591 123-45678")) == ["2-0", "3-0", "4-0", "5-0"]
    assert ids(await followed(stores, capsys, 3, *both, types=["audio", "image"])) == ["2-0", "4-0", "5-0"]
    assert ids(await followed(stores, capsys, 2, *both, user=ANA, types=["audio"])) == ["2-0", "5-0"]


async def test_from_when_is_told_as_to_a_replay(store: Store, capsys) -> None:
    now = await redis_ms(store)
    hours = [f"{now - hours * 3_600_000}-0" for hours in (3, 2, 1)]
    for id in hours:
        await put(store, "inbound", id)
    stores = Stores.alone(store)
    assert ids(await followed(stores, capsys, 1, "inbound", since="90m")) == hours[2:]
    assert ids(await followed(stores, capsys, 2, "inbound", since="150m")) == hours[1:]
    # From a point in time, and after an entry
    at = datetime.fromtimestamp((now - 5_400_000) / 1000, ZoneInfo("America/La_Paz")).strftime("%Y-%m-%dT%H:%M:%S")
    assert ids(await followed(stores, capsys, 1, "inbound", since=at, zone=ZoneInfo("America/La_Paz"))) == hours[2:]
    assert ids(await followed(stores, capsys, 2, "inbound", since=hours[1].removesuffix("-0"))) == hours[1:]
    assert ids(await followed(stores, capsys, 1, "inbound", since=hours[1])) == hours[2:]
    with pytest.raises(ConfigurationError, match="--from 'yesterday' is no time: write 2h, 7d"):
        await followed(stores, capsys, 1, "inbound", since="yesterday")


async def test_what_comes_later_is_shown_as_it_comes_wherever(any_server: Server, store: Store, capsys) -> None:
    stores = Stores.open(any_server.url, shards=2)
    one, other = stores
    await put(one, "inbound", "1-0")
    following = asyncio.create_task(followed(stores, capsys, 3, "inbound", "outbound", since="$"))
    blocked = "blocked_clients:2"

    async def listens() -> bool:
        return blocked in (await store.command("INFO", "clients")).decode()

    await until(listens)
    await put(other, "outbound", "2-0")
    await put(one, "outbound", "3-0")
    await put(one, "inbound", "4-0")
    assert sorted(ids(await following)) == ["2-0", "3-0", "4-0"]
    await stores.close()


async def test_a_redis_that_goes_away_ends_it(own_server: Server, capsys) -> None:
    stores = Stores.open(own_server.url, patience=0.2)
    await put(stores.first, "inbound", "1-0")
    following = asyncio.create_task(followed(stores, capsys, 2, "inbound"))

    async def shown() -> bool:
        return "1-0" in capsys.readouterr().out

    await until(shown)
    own_server.kill()
    with pytest.raises(Unavailable):
        await following
    await stores.close()


def test_on_a_terminal_a_line_is_coloured_and_holds_nobody_elses_escape_sequences() -> None:
    fields = {"key": ANA.encode(), "type": b"text", "body": b'{"text":"a\\u001b[2Jb"}', "reason": b"503", "group": b"g"}
    names = ["inbound.dead", "outbound"]
    coloured = tail.Form(colour=True, streams=names).entry("1728123456789-0", fields, "outbound")
    plain = tail.Form(streams=names).entry("1728123456789-0", fields, "outbound")
    assert "\x1b[31m503\x1b[0m" in coloured
    assert "\x1b[2J" not in coloured
    assert "\x1b" not in plain
    assert re.search(r"outbound +1728123456789-0  \+591…678  text  ", plain)


def test_a_user_that_is_nobody_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--user"):
        tail.Wanted.of(" ", (), TOPOLOGY)
