"""What comes over a connection is bounded: in bytes, in time, in what is asked ahead, in connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator

import pytest

from ingress import __main__ as program
from ingress import access
from ingress.protocol import AHEAD, PIECE
from streams.connection import Store
from tests.ingress.front import ANA, Front, entries, front

LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEAD = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def post(text: str) -> bytes:
    body = json.dumps({"user_id": ANA, "message": text}).encode()
    return HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body


@contextlib.asynccontextmanager
async def connected(door: Front) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def the_rest(reader: asyncio.StreamReader) -> bytes:
    """Until the connection ends, in whichever way."""
    whole = b""
    with contextlib.suppress(ConnectionResetError):
        while part := await reader.read(1 << 16):
            whole += part
    return whole


@pytest.mark.slow
@pytest.mark.parametrize(
    "begun",
    [b"P", HEAD, HEAD + b"Content-Length: 100\r\n\r\n{", HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n"],
)
async def test_a_request_that_does_not_come_in_time_is_told_so_however_it_dawdles(store: Store, begun) -> None:
    async with front(store, ingress_timeout=0.2) as door, connected(door) as (reader, writer):
        writer.write(begun)
        rest = asyncio.create_task(the_rest(reader))
        # When it says something all the time, but never all
        while not rest.done():
            writer.write(b"x" if begun == HEAD else b"")
            await asyncio.wait([rest], timeout=0.02)
        head, _, body = rest.result().partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["error"] == "request_timeout"
        assert (await door.say("sigues ahí"))["http"] == 202


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"\r\n\r\n\r\n"])
async def test_who_says_nothing_is_hung_up_on_without_a_word(store: Store, sent) -> None:
    async with front(store, ingress_timeout=0.1) as door, connected(door) as (reader, writer):
        writer.write(sent)
        assert await the_rest(reader) == b""


@pytest.mark.slow
@pytest.mark.parametrize("behind", [b"\r\n", LIVE[:20]])
async def test_a_request_that_is_here_may_wait_for_its_reply_as_long_as_it_likes(store: Store, behind) -> None:
    async with front(store, ingress_timeout=0.1) as door, connected(door) as (reader, writer):
        writer.write(post("Hola").replace(b"Host", b"Prefer: wait=1\r\nHost"))
        while not await entries(store):
            pass  # Redis is asked again
        # What old browsers sent behind a body; or half of the next request, for which it is no time yet
        writer.write(behind)
        assert b" 202 " in await reader.readline()


async def test_between_two_requests_a_connection_may_rest(store: Store) -> None:
    async with front(store, ingress_timeout=0.1) as door, connected(door) as (reader, writer):
        writer.write(LIVE)
        assert b" 200 " in await reader.readuntil(b"}")
        await asyncio.wait([asyncio.create_task(reader.read(1))], timeout=0.3)
        writer.write(LIVE)
        assert not reader.at_eof()


@pytest.mark.parametrize(
    "begun",
    [
        b"GET / HTTP/1.1\r\nX: ",
        b"GET / HTTP/1.1\r\n",
        b"GET /",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nX: ",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;",
        b"",
    ],
)
async def test_what_never_ends_is_refused_long_before_it_fills_the_memory(store: Store, begun) -> None:
    async with front(store) as door, connected(door) as (reader, writer):
        writer.write(begun)
        rest = asyncio.create_task(the_rest(reader))
        sent = 0
        while not rest.done() and sent < 8 << 20:
            with contextlib.suppress(ConnectionError):
                writer.write(b"a" * 65536 if begun else b"\r\n" * 32768)
                await writer.drain()
            sent += 65536
            await asyncio.sleep(0)
        assert sent < 8 << 20, "it took all of it"
        assert (await door.say("sigues ahí"))["http"] == 202


async def test_an_answer_comes_before_the_complaint_about_what_follows_it(store: Store) -> None:
    async with front(store) as door, connected(door) as (reader, writer):
        writer.write(post("Hola") + post("¿Hay alguien?") + b"nonsense\r\n\r\n")
        assert re.findall(rb"HTTP/1.1 (\d+) ", await the_rest(reader)) == [b"202", b"202", b"400"]
        assert len(await entries(store)) == 2


async def test_requests_ahead_of_their_answers_are_looked_at_a_few_at_a_time(store: Store) -> None:
    async with front(store) as door, connected(door) as (reader, writer):
        ask = post("Hola").replace(b"Host", b"X: " + b"y" * 1000 + b"\r\nHost")
        writer.write(ask * 1000 + ask.replace(b"Host", b"Connection: close\r\nHost"))
        rest, queued, held = asyncio.create_task(the_rest(reader)), 0, 0
        while not rest.done():
            for each in door.server.server_state.connections:
                queued, held = max(queued, len(each.pipeline)), max(held, len(each._unparsed))
            await asyncio.sleep(0)
        assert rest.result().count(b"HTTP/1.1 202 ") == 1001
        assert 0 < queued <= AHEAD + PIECE // len(ask) + 1
        # No more than what one read of the socket brings, of 1.2 MB
        assert 0 < held <= 300_000


async def test_where_there_are_too_many_connections_those_that_rest_make_room(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(program, "MOST_CONNECTIONS", 5)
    async with front(store) as door, contextlib.AsyncExitStack() as stack:
        idle = [await stack.enter_async_context(connected(door)) for _ in range(20)]
        reader, writer = await stack.enter_async_context(connected(door))
        writer.write(post("Hola"))
        assert b" 202 " in await reader.readline()
        # The eldest went, and without a word
        assert [await the_rest(reader) for reader, _ in idle[:15]] == [b""] * 15


async def test_where_all_are_being_answered_the_next_one_is_told_to_come_back(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(program, "MOST_CONNECTIONS", 3)
    async with front(store) as door, contextlib.AsyncExitStack() as stack:
        for number in range(3):
            _, writer = await stack.enter_async_context(connected(door))
            writer.write(post(f"{number}").replace(b"Host", b"Prefer: wait=30\r\nHost"))
        while len(await entries(store)) < 3:
            pass  # Redis is asked again
        reader, _ = await stack.enter_async_context(connected(door))
        head, _, body = (await the_rest(reader)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1" in head
        assert json.loads(body)["error"] == "busy"


async def test_who_asks_ahead_and_goes_is_missed_by_the_request_that_waits(store: Store) -> None:
    async with front(store) as door:
        async with connected(door) as (_, writer):
            writer.write(post("Hola").replace(b"Host", b"Prefer: wait=30\r\nHost") + LIVE)
            while not await store.command("HLEN", "waiting:inbound"):
                pass  # Redis is asked again
        # The registration is withdrawn, so that the reply goes by the webhook
        async with asyncio.timeout(5):
            while await store.command("HLEN", "waiting:inbound"):
                pass


async def test_large_bodies_are_read_a_few_at_a_time_and_small_ones_always(store: Store, monkeypatch) -> None:
    monkeypatch.setattr(access, "MOST_LARGE", 2)
    large = {"object": "whatsapp_business_account", "entry": [], "x": "y" * 100_000}
    async with front(store) as door:
        async with connected(door) as (_, one), connected(door) as (_, two):
            for writer in (one, two):
                writer.write(HEAD.replace(b"/chat", b"/whatsapp") + b"Content-Length: 200000\r\n\r\n" + b" " * 100_000)
            while len(access._large) < 2:  # noqa: ASYNC110 - the ingress alone knows
                await asyncio.sleep(0)
            status, answer, headers = await door.ask("POST", "/whatsapp", json=large)
            assert (status, answer["error"], headers["retry-after"]) == (503, "busy", "5")
            assert (await door.say("Hola"))["http"] == 202
        # Both have gone, and their places are free
        async with asyncio.timeout(5):
            while access._large:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0)
        assert (await door.post("/whatsapp", large))[0] == 200


@pytest.mark.slow
@pytest.mark.parametrize("behind", [post("dos") + LIVE, LIVE])
async def test_what_was_asked_before_the_end_is_answered_after_what_is_in_work(store: Store, behind: bytes) -> None:
    async with front(store) as door, connected(door) as (reader, writer):
        writer.write(LIVE)
        await reader.readuntil(b"}")
        await store.command("CLIENT", "PAUSE", 500, "WRITE")
        writer.write(post("uno") + behind)
        [connection] = door.server.server_state.connections
        while not connection.pipeline:  # noqa: ASYNC110 - uvicorn tells nobody
            await asyncio.sleep(0)
        door.server._on_signal()
        told = await the_rest(reader)
    statuses = re.findall(rb"HTTP/1.1 (\d+)", told)
    assert statuses == [b"202"] * behind.count(b"POST") + [b"202", b"200"]
    assert told.count(b"connection: close") == 1
