"""A connection of redis-py's, spoken over by us."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import subprocess
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop
from conftest import Server, binary
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import InvalidResponse, NoScriptError, ResponseError

from streams import routes
from streams.connection import Store
from streams.errors import Unavailable
from streams.line import Line
from streams.routes import connections


def soon() -> float:
    """Until when somebody waits, on the loop's clock."""
    return asyncio.get_running_loop().time() + 5


@contextlib.asynccontextmanager
async def serving(serve: Any) -> AsyncIterator[str]:
    """The address of a server of the test's own, of which nothing is left in the end."""
    here: set[asyncio.Task[Any]] = set()

    async def whole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        here.add(task)
        try:
            await serve(reader, writer)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    server = await asyncio.start_server(whole, "127.0.0.1", 0)
    yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()
    await asyncio.gather(*here, return_exceptions=True)


async def test_replies_come_as_they_were_sent_and_errors_in_their_place(any_server: Server) -> None:
    pool = connections(any_server.url)
    line = await pool.borrow(soon())
    replies = await line.ask(
        [("SET", "a", "é"), ("GET", "a"), ("LPUSH", "a", 1), ("EVALSHA", "0" * 40, 0), ("GET", "b")], soon()
    )
    assert replies[:2] == [b"OK", "é".encode()]
    assert isinstance(replies[2], ResponseError)
    assert str(replies[2]).startswith("WRONGTYPE")
    assert isinstance(replies[3], NoScriptError)
    assert replies[4] is None
    large = "x" * 300_000
    assert await line.ask([("SET", "a", large), ("GET", "a")], soon()) == [b"OK", large.encode()]
    pool.give_back(line)
    assert await pool.borrow(soon()) is line, "one that is open is lent again"
    await pool.disconnect()
    assert not line.open


async def test_one_that_the_server_has_closed_is_not_lent_again(any_server: Server) -> None:
    pool = connections(any_server.url)
    first, second = await pool.borrow(soon()), await pool.borrow(soon())
    [number] = await first.ask([("CLIENT", "ID")], soon())
    pool.give_back(first)
    await second.ask([("CLIENT", "KILL", "ID", number)], soon())
    pool.give_back(second)
    while first.open:  # noqa: ASYNC110 - it tells nobody
        await asyncio.sleep(0)
    assert await pool.borrow(soon()) is second
    assert await pool.borrow(soon()) not in (first, second)
    with pytest.raises(LostConnection):
        await first.ask([("PING",)], soon())
    await pool.disconnect()


async def test_however_many_ask_at_once_connections_are_no_more_than_so_many(
    any_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routes, "MOST", 3)
    pool = connections(any_server.url)

    async def ask() -> int:
        line = await pool.borrow(soon())
        [number] = await line.ask([("CLIENT", "ID")], soon())
        pool.give_back(line)
        return int(number)

    asking = [asyncio.create_task(ask()) for _ in range(50)]
    await asyncio.sleep(0)
    asking[10].cancel()  # one that waits for its turn
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(told.pop(10), asyncio.CancelledError)
    assert 1 <= len(set(told)) <= 3
    await pool.disconnect()


@pytest.mark.parametrize(
    ("said", "error"), [(b"", LostConnection), (b"?what\r\n", InvalidResponse), (b"+PONG\r\n+more\r\n", None)]
)
async def test_a_server_that_speaks_otherwise_is_hung_up_on(said: bytes, error: type[Exception] | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while b"PING" not in (got := await reader.read(4096)):
            writer.write(b"+OK\r\n" * got.count(b"*"))
        writer.write(said)

    async with serving(serve) as url:
        pool = connections(url)
        line = await pool.borrow(soon())
        if error is None:
            assert (await line.ask([("PING",)], soon()))[0] == b"PONG"
        else:
            with pytest.raises(error):
                await line.ask([("PING",)], soon())
        while line.open:  # noqa: ASYNC110 - it tells nobody
            await asyncio.sleep(0)
        await pool.disconnect()


@pytest.mark.parametrize("word", ["LOADING Redis is loading the dataset in memory", "NOAUTH Authentication required."])
async def test_a_server_that_does_not_serve_yet_has_not_said_that_nothing_is_there(word: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while got := await reader.read(4096):
            hello = b"CLIENT" in got
            writer.write((b"+OK\r\n" if hello else f"-{word}\r\n".encode()) * got.count(b"*"))

    async with serving(serve) as url:
        store = Store.open(url, patience=0)
        with pytest.raises(Unavailable):
            await store.pipeline([("XLEN", "s"), ("GET", "a")])
        follower = store.follower()
        with pytest.raises(Unavailable):
            await follower.read_then({"s": "$"}, 1, ("GET", "a"))
        await follower.close()
        await store.close()


async def test_one_that_is_made_while_the_others_are_closed_is_closed_too(any_server: Server) -> None:
    pool = connections(any_server.url)
    borrowing = asyncio.create_task(pool.borrow(soon()))
    await asyncio.sleep(0)
    await pool.disconnect()
    line = await borrowing
    assert not line.open
    pool.give_back(line)


async def test_one_that_is_silent_is_lost(any_server: Server) -> None:
    pool = connections(any_server.url)
    line = await pool.borrow(soon())
    with pytest.raises(TimeoutError):
        await line.ask([("BLPOP", "nobody", 0)], asyncio.get_running_loop().time())
    assert not line.open
    pool.give_back(line)
    assert await pool.borrow(soon()) is not line
    await pool.disconnect()


@pytest.mark.slow
async def test_nothing_is_left_of_one_that_was_closed(any_server: Server) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        gc.collect()  # what others have left
        warnings.simplefilter("error")
        pool = connections(any_server.url)
        line: Line | None = await pool.borrow(soon())
        assert line is not None
        asking = asyncio.create_task(line.ask([("BLPOP", "nobody", 0)], soon()))
        await asyncio.sleep(0)
        line.close()
        with pytest.raises(LostConnection):
            await asking
        pool.give_back(line)
        line = asking = None  # type: ignore[assignment]
        gc.collect()


@pytest.fixture
def encrypted(short_path: Path) -> Iterator[str]:
    """The address of a server that speaks TLS only, to a user with a password."""
    key, certificate = short_path / "key.pem", short_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)]
    user = ["--user", "ana", "on", ">secreto", "~*", "&*", "+@all"]
    server = Server(binary("redis-server"), "--tls-port", str(port), "--tls-auth-clients", "no", *files, *user)
    yield f"rediss://ana:secreto@localhost:{port}/3?ssl_ca_certs={certificate}"
    server.stop()


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
def test_it_is_spoken_through_tls_as_well(encrypted: str, run: Any) -> None:
    async def speak() -> None:
        pool = connections(encrypted)
        line = await pool.borrow(soon())
        large = "x" * 300_000
        replies = await line.ask([("ACL", "WHOAMI"), ("SET", "a", large), ("GET", "a"), ("CLIENT", "INFO")], soon())
        assert replies[:3] == [b"ana", b"OK", large.encode()]
        assert b" db=3 " in replies[3]
        await pool.disconnect()

    run(speak())
