"""Connections to a receiver, against real servers that say bytes nobody's HTTP library would."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import pytest
from yarl import URL

from processors.egress.answers import Answer, Closed, Unintelligible, Unreached
from processors.egress.connections import ANSWER_BYTES, Connections

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


class Server:
    """Says to each request, in turn, a piece after a piece; the last one for good."""

    def __init__(self, *answers: list[bytes], closes: bool = False) -> None:
        self.answers, self.closes = list(answers), closes
        self.connections, self.requests = 0, list[bytes]()
        self.heard, self.gone = asyncio.Event(), asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                self.requests.append(head + await reader.readexactly(size))
                self.heard.set()
                for piece in self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]:
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.gone.set()


@asynccontextmanager
async def leading_to(
    server: Server, *, patience: float = 10, host: str = "127.0.0.1", clock: Callable[[], float] | None = None
) -> AsyncIterator[Connections]:
    async with await asyncio.start_server(server.serve, host, 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        url = URL.build(scheme="http", host=host, port=port, path="/webhook/ñ", query={"q": "á b"})
        with closing(
            Connections(url, {"x-own": "a"}, timeout=patience, connect_timeout=5, idle=4, clock=clock)
        ) as made:
            yield made


async def test_a_request_is_what_http_says_it_is() -> None:
    server = Server([OK])
    async with leading_to(server) as to:
        await to.post(b'{"a":1}', {"webhook-id": "reply_1"})
    head, _, body = server.requests[0].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == "POST /webhook/%C3%B1?q=%C3%A1+b HTTP/1.1"
    assert headers[0].startswith("host: 127.0.0.1:")
    assert headers[1:] == ["x-own: a", "webhook-id: reply_1", "content-length: 7"]
    assert body == b'{"a":1}'


@pytest.mark.parametrize(
    ("pieces", "answer"),
    [
        ([OK], Answer(200, None, b"{}")),
        ([bytes([byte]) for byte in OK], Answer(200, None, b"{}")),
        ([b"HTTP/1.1 204 No Content\r\n\r\n"], Answer(204)),
        ([b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nlink: <x>\r\n\r\n" + OK], Answer(200, None, b"{}")),
        (
            [b"HTTP/1.1 503 No\r\nRetry-After: 7\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab", b"c\r\n0\r\n\r\n"],
            Answer(503, "7", b"abc"),
        ),
    ],
    ids=["plain", "byte by byte", "no body", "announced", "in chunks"],
)  # fmt: skip
async def test_an_answer_is_read_and_its_connection_kept(pieces, answer) -> None:
    server = Server(pieces)
    async with leading_to(server) as to:
        for _ in range(3):
            assert await to.post(b"{}", {}) == answer
        assert server.connections == 1


@pytest.mark.parametrize(
    "pieces",
    [
        [b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}"],
        [b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\n{}"],
        [OK + OK],
    ],
    ids=["closes", "as of old", "says too much"],
)
async def test_a_connection_that_will_not_do_again_is_not_used_again(pieces) -> None:
    server = Server(pieces)
    async with leading_to(server) as to:
        for _ in range(2):
            assert (await to.post(b"{}", {})).status == 200
        assert server.connections == 2


async def test_a_body_that_ends_with_its_connection_is_read_to_its_end() -> None:
    server = Server([b"HTTP/1.1 200 OK\r\n\r\n", b"as far", b" as it goes"], closes=True)
    async with leading_to(server) as to:
        assert await to.post(b"{}", {}) == Answer(200, None, b"as far as it goes")


async def test_of_a_long_body_the_first_bytes_are_read() -> None:
    server = Server([b"HTTP/1.1 400 No\r\ncontent-length: 10000000\r\n\r\n", b"y" * 200_000])
    async with leading_to(server) as to:
        assert await to.post(b"{}", {}) == Answer(400, None, b"y" * ANSWER_BYTES)
        await server.gone.wait()


@pytest.mark.parametrize(
    ("pieces", "error"),
    [
        ([b"SSH-2.0-OpenSSH_9.2\r\n"], Unintelligible),
        ([b"HTTP/1.1 200 OK\r\n", *[b"x-%d: %s\r\n" % (n, b"z" * 1000) for n in range(100)]], Unintelligible),
        ([b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"], Unintelligible),
        ([b"HTTP/1.1 200 OK\r\n"], Closed),
        ([], Closed),
    ],
    ids=["not http", "endless headers", "another protocol", "cut off", "silence"],
)
async def test_what_is_no_answer_says_what_it_was(pieces, error) -> None:
    server = Server(pieces, closes=error is Closed)
    async with leading_to(server) as to:
        with pytest.raises(error):
            await to.post(b"{}", {})
        await server.gone.wait()


async def test_a_slow_body_does_not_take_back_the_status() -> None:
    server = Server([b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc"])
    async with leading_to(server, patience=0.2) as to:
        assert await to.post(b"{}", {}) == Answer(200, None, b"abc")
        await server.gone.wait()


async def test_a_post_that_is_cancelled_closes_its_connection() -> None:
    server = Server([])
    async with leading_to(server) as to:
        posting = asyncio.create_task(to.post(b"{}", {}))
        await server.heard.wait()
        posting.cancel()
        await server.gone.wait()


async def test_unused_connections_are_closed_by_themselves() -> None:
    server = Server([OK])
    now = 0.0
    async with leading_to(server, clock=lambda: now) as to:
        await to.post(b"{}", {})
        now = 4.0
        to._drop_idle()
        await server.gone.wait()


async def test_an_address_of_the_sixth_version() -> None:
    server = Server([OK])
    async with leading_to(server, host="::1") as to:
        assert (await to.post(b"{}", {})).status == 200
    assert b"host: [::1]:" in server.requests[0]


@pytest.mark.parametrize("headers", [{"a": "b\r\nc: d"}, {"a": "b\nc"}, {"a\r": "b"}, {"a": "\0"}])
async def test_a_header_cannot_bring_another_one_along(headers) -> None:
    server = Server([OK])
    async with leading_to(server) as to:
        with pytest.raises(ValueError, match="line break"):
            await to.post(b"{}", headers)
    assert not server.connections


async def test_a_name_that_leads_nowhere_was_not_reached() -> None:
    with closing(Connections(URL("http://nobody.invalid/x"), {}, timeout=5, connect_timeout=5, idle=4)) as to:
        with pytest.raises(Unreached) as caught:
            await to.post(b"{}", {})
    assert isinstance(caught.value.__cause__, socket.gaierror)


def test_they_are_made_where_no_loop_runs_as_a_check_before_the_start_does() -> None:
    with closing(Connections(URL("http://n8n.invalid/webhook"), {}, timeout=5, connect_timeout=5, idle=4)):
        pass
