"""Whatever is thrown at it gets the contract's error, and the server lives on."""

from __future__ import annotations

import asyncio
import io
import json
from typing import Any

import pytest

from streams.connection import Store
from tests.ingress.front import ANA, Front, a_topology, entries, front

JSON = {"Content-Type": "application/json"}


async def alive(door: Front) -> None:
    assert (await door.say("sigues ahí"))["http"] == 202


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"role":"system","user_id":"a","message":"b"} x',
        b"NaN",
        b'{"user_id":"a","message":"b","metadata":{"x":NaN}}',
        b'{"user_id":"a","message":"b","metadata":{"x":Infinity}}',
        b"\xff\xfe",
        b'{"user_id":"a","message":"\xff"}',
        b'{"user_id":"a","message":"\x00"}',
        b"\x00",
        b'{"user_id":"a","message":"b',
        b'{"role":"system","user_id":"a","message":"b","metadata":{"a":' + b"[" * 60_000,
        b'{"user_id":"a","message":"\\ud83d","metadata":{"a":' + b"[" * 30_000 + b"]" * 30_000 + b"}}",
        b"{'user_id': 'a'}",
        b"user_id=a&message=b",
        b"--boundary\r\n",
    ],
)
@pytest.mark.parametrize("path", ["/chat", "/whatsapp", f"/chat/{ANA}/messages"])
async def test_what_is_no_json_is_called_so(store: Store, path, body) -> None:
    async with front(store) as door:
        status, answer = await door.post(path, body)
        assert (status, answer["error"]) == (400, "malformed_json")
        assert list(answer) == ["error", "detail"]
        assert await entries(store) == []
        await alive(door)


async def test_numbers_beyond_any_and_keys_said_twice_do_no_harm(store: Store) -> None:
    async with front(store) as door:
        assert (await door.post("/chat", b'{"user_id":"a","message":"b","metadata":{"x":1e999}}'))[0] == 400
        big = b'{"user_id":"a","message":"b","metadata":{"x":123456789012345678901234567890}}'
        assert (await door.post("/chat", big))[0] == 202
        twice = b'{"user_id":"a","user_id":"b","message":"first","message":"last"}'
        assert (await door.post("/chat", twice))[1]["user_id"] == "b"
        await alive(door)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b"1e308", None),
        (b"1e309", "invalid_field"),
        (b"9" * 4300, None),
        (b"9" * 4301, "invalid_field"),
        (b"[" * 800 + b"]" * 800, None),
        (b"[" * 30_000 + b"]" * 30_000, "malformed_json"),
    ],
)
async def test_json_has_limits_for_meta_too_as_the_guide_says(store: Store, value, error) -> None:
    message = b'{"from":"59112345678","type":"text","text":{"body":"a"},"x":%s}' % value
    async with front(store) as door:
        status, answer = await door.post("/whatsapp", b'{"messages":[' + message + b"]}")
        assert (status, answer.get("error")) == (400 if error else 200, error)
        await alive(door)


@pytest.mark.parametrize(("path", "most"), [("/chat", 64 * 1024), ("/whatsapp", 3 * 1024 * 1024)])
async def test_too_much_is_refused_before_it_is_held(store: Store, path, most) -> None:
    async with front(store) as door:
        # Ten megabytes whose length is told, and as many whose is not
        for body in (io.BytesIO(b"x" * 10_000_000), _chunks(10_000_000)):
            status, answer, _ = await door.ask("POST", path, data=body, headers=JSON)
            assert (status, answer["error"], answer["most"]) == (413, "too_large", most)
        for size, error in ((most, "malformed_json"), (most + 1, "too_large")):
            _, answer, _ = await door.ask("POST", path, data=io.BytesIO(b" " * size), headers=JSON)
            assert answer["error"] == error
        await alive(door)


async def _chunks(size: int) -> Any:
    for _ in range(size // 50_000):
        yield b"x" * 50_000


async def test_a_length_that_is_told_too_large_is_refused_without_reading(store: Store) -> None:
    async with front(store) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999999999\r\n\r\n")
        assert b" 413 " in await reader.readline()
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(
            b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\nExpect: 100-continue\r\n\r\n"
        )
        # Not "100 Continue": who asks before sending need not send at all
        assert b" 413 " in await reader.readline()
        writer.close()
        await alive(door)


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/jsonp",
     "application/json; charset=latin-1", "application/xml"],
)  # fmt: skip
async def test_another_content_type_is_refused_with_the_right_one(store: Store, kind) -> None:
    async with front(store) as door:
        for path in ("/chat", "/whatsapp"):
            status, answer = await door.post(path, b'{"user_id":"a","message":"b"}', **{"Content-Type": kind})
            assert (status, answer["error"]) == (415, "not_json")
        zipped = {"Content-Encoding": "gzip"}
        assert (await door.post("/chat", b"\x1f\x8b", **zipped))[1]["error"] == "not_json"


@pytest.mark.parametrize(
    "kind",
    ["application/json", "application/json; charset=utf-8", "Application/JSON;charset=UTF-8", "application/ld+json"],
)
async def test_json_is_json_however_it_is_called(store: Store, kind) -> None:
    async with front(store) as door:
        assert (await door.post("/chat", b'{"user_id":"a","message":"b"}', **{"Content-Type": kind}))[0] == 202


async def test_wrong_methods_are_told_the_right_ones(store: Store) -> None:
    async with front(store) as door:
        for method, path, allowed in (
            ("GET", "/chat", "POST"),
            ("PUT", "/whatsapp", "GET, HEAD, POST"),
            ("OPTIONS", "/whatsapp", "GET, HEAD, POST"),
            ("DELETE", f"/chat/{ANA}/pause", "POST"),
            ("POST", f"/chat/{ANA}", "DELETE"),
            ("POST", "/health", "GET, HEAD"),
            ("GET", "/redis/clear", "DELETE"),
        ):
            status, answer, headers = await door.ask(method, path)
            assert (status, answer["error"], headers["allow"]) == (405, "method_not_allowed", allowed)
        status, nothing, headers = await door.ask("HEAD", "/chat")
        assert (status, nothing) == (405, "")
        assert headers["content-type"] == "application/json"
        await alive(door)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/chat/", "//chat", "/chat/a/b/c", "/chat/history/a%2Fb", "/health/", "/docs",
             "/..%2f..%2fetc", "/timeline", "/analytics/1", "/%ff", "/" + "x" * 30_000]
)  # fmt: skip
async def test_unknown_routes_are_not_found_in_json(store: Store, path) -> None:
    async with front(store) as door:
        for method in ("GET", "POST", "DELETE"):
            status, answer, _ = await door.ask(method, path)
            assert (status, answer["error"]) == (404, "not_found")
        await alive(door)


async def raw(door: Front, sent: bytes) -> tuple[bytes, bytes]:
    """Head and body of what comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    writer.write(sent)
    whole = await reader.read()
    writer.close()
    head, _, body = whole.partition(b"\r\n\r\n")
    return head, body


@pytest.mark.parametrize(
    "sent",
    [
        b"nonsense\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS
        b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /chat HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"POST /chat HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % n for n in range(9000)) + b"\r\n",
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)  # fmt: skip
async def test_what_is_no_http_is_answered_in_json_and_hung_up_on(store: Store, sent) -> None:
    async with front(store) as door:
        head, body = await raw(door, sent)
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(body)["error"] in ("malformed_http", "malformed_json")
        await alive(door)


async def test_a_connection_that_wants_another_protocol_is_answered_in_this_one(store: Store) -> None:
    upgrade = (
        b"GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    async with front(store) as door:
        reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
        writer.write(upgrade)
        assert b" 200 " in await reader.readline()
        writer.close()
        await alive(door)


@pytest.mark.parametrize("cut", [0, 40, 120, 200, 230])
@pytest.mark.parametrize(
    ("version", "connection"),
    [(b"1.1", b"Upgrade, HTTP2-Settings"), (b"1.1", b"Upgrade, close"), (b"1.0", b"Upgrade")],
)
async def test_a_body_that_comes_with_the_wish_for_http_2_is_read(store: Store, version, connection, cut) -> None:
    body = b'{"user_id":"web-1","message":"de curl --http2"}'
    head = (
        b"POST /chat HTTP/" + version + b"\r\nHost: localhost\r\nConnection: " + connection + b"\r\nUpgrade: h2c\r\n"
        b"HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Type: application/json\r\n"
    )
    whole = head + b"Content-Length: %d\r\n\r\n" % len(body) + body
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    async with front(store) as door:
        for sent in (whole, chunked) if version == b"1.1" else (whole,):
            reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(sent[:cut])
            await asyncio.sleep(0)
            writer.write(sent[cut:])
            assert b" 202 " in await reader.readline()
            writer.close()
        assert {json.loads(entry["body"])["text"] for entry in await entries(store)} == {"de curl --http2"}


async def test_a_request_behind_one_that_wanted_another_protocol_is_a_request_still(store: Store) -> None:
    wish = b"Connection: Upgrade\r\nUpgrade: h2c\r\n"
    health = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n"
    # A body that looks like a request is a body
    hidden = health + b"\r\n"
    post = b"POST /chat HTTP/1.1\r\nHost: localhost\r\n" + wish + b"Content-Length: %d\r\n\r\n" % len(hidden) + hidden
    async with front(store) as door:
        head, rest = await raw(door, post + (health + wish + b"\r\n") * 3000 + health + b"Connection: close\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert rest.count(b"HTTP/1.1 200 ") == 3001
        head, _ = await raw(door, b"CONNECT localhost:80 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert head[:9] == b"HTTP/1.1 "
        await alive(door)


async def test_requests_on_one_connection_are_answered_in_their_order(store: Store) -> None:
    async with front(store) as door:
        many = b""
        for number in range(20):
            body = json.dumps({"user_id": "web-1", "message": f"{number}"}).encode()
            many += b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            many += b"Content-Length: %d\r\n\r\n" % len(body) + body
        whole = (await raw(door, many + b"GET /health/live HTTP/1.0\r\n\r\n"))[1]
        assert whole.count(b"202 Accepted") == 19  # the first one's head was cut off
        assert [json.loads(entry["body"])["text"] for entry in await entries(store)] == list(map(str, range(20)))


async def test_a_client_that_goes_in_the_middle_of_its_body_leaves_nothing(store: Store) -> None:
    async with front(store) as door:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", door.port)
            writer.write(b'POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Length: 500\r\n\r\n{"user_id":')
            await writer.drain()
            writer.transport.abort()
        await alive(door)
        assert len(await entries(store)) == 1


@pytest.mark.slow
async def test_where_redis_is_away_the_answer_says_when_to_come_back(own_server: Any) -> None:
    store = Store.open(own_server.url, patience=0.05)
    async with front(store) as door:
        await alive(door)
        own_server.kill()
        for method, path, how in (
            ("POST", "/chat", {"json": {"user_id": ANA, "message": "x"}}),
            ("GET", f"/chat/history/{ANA}", {}),
            ("POST", f"/chat/{ANA}/pause", {}),
            ("GET", "/model/info", {}),
            ("GET", "/redis/test", {}),
        ):
            status, answer, headers = await door.ask(method, path, **how)
            assert (status, answer["error"]) == (503, "redis_unavailable")
            assert int(headers["retry-after"]) > 0
        assert (await door.get("/health/live"))[0] == 200
        assert (await door.get("/health/ready"))[1]["error"] == "not_ready"
        status, picture = await door.get("/health")
        assert (status, picture["status"], picture["redis"]) == (503, "degraded", "unreachable")
        assert (await door.get("/metrics"))[0] == 200
        assert (await door.get("/"))[0] == 200
        own_server.start()
        await alive(door)
    await store.close()


async def test_where_the_answer_was_lost_the_error_says_that_repeating_is_safe(store: Store) -> None:
    from streams.errors import Unavailable

    async def lost(*_: Any, **__: Any) -> Any:
        raise Unavailable("Redis cannot be reached", maybe_written=True)

    async with front(store, a_topology()) as door:
        whole = store.run
        store.run = lost  # type: ignore[method-assign]
        status, answer = await door.post("/chat", {"user_id": ANA, "message": "x"})
        store.run = whole  # type: ignore[method-assign]
        assert (status, answer["error"]) == (503, "redis_unavailable")
        assert "same message_id is safe" in answer["detail"]
        # which a client that had none is told
        assert (await door.say("x", answer["message_id"]))["http"] == 202


async def test_a_mistake_of_ours_is_a_500_without_a_traceback(store: Store) -> None:
    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError("secret detail")

    async with front(store) as door:
        whole, store.command = store.command, broken  # type: ignore[method-assign]
        status, answer = await door.get(f"/chat/history/{ANA}")
        store.command = whole  # type: ignore[method-assign]
        assert (status, answer) == (500, {"error": "internal", "detail": "a mistake of ours; the log has it"})
        await alive(door)
