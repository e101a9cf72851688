"""
Clients that mean no good, or no longer anything, against a running ingress: others are served meanwhile, and what they
took is given back.

`.venv/bin/python -m pytest -s tests/faults/test_hostile_clients.py` prints the figures of docs/guarantees.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import statistics
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import psutil
import pytest
from conftest import Server
from pipeline import Pipeline, pipeline
from waiting import until

pytestmark = pytest.mark.slow

TIMEOUT = 2
"""INGRESS_TIMEOUT here: after it a dawdler is cut off."""

MIB = 1 << 20
POST = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
IDLE = 10_000
REDIS = 128
"""Descriptors that its pool of connections to Redis may grow by."""


class Door:
    """One ingress and somebody who only wants to write to it."""

    def __init__(self, whole: Pipeline) -> None:
        self.whole, self.port = whole, whole.port
        self.process = psutil.Process(whole.processes["ingress"].child.pid)
        self.accepted = 0

    @contextlib.contextmanager
    def connections(self, count: int) -> Iterator[list[socket.socket]]:
        """So many connections of a client that blocks; for a thread of its own."""
        with contextlib.ExitStack() as stack:
            yield [
                stack.enter_context(socket.create_connection(("127.0.0.1", self.port), timeout=30))
                for _ in range(count)
            ]

    async def posts(self, count: int) -> list[float]:
        """Messages one after the other, each on a connection of its own as n8n does it; the seconds each took."""
        taken = []
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
            for _ in range(count):
                start = time.perf_counter()
                body = {"user_id": "+59112345678", "message": f"{self.accepted}"}
                async with session.post(f"{self.whole.url}/chat", json=body) as response:
                    assert response.status == 202, await response.text()
                taken.append(time.perf_counter() - start)
                self.accepted += 1
        return taken

    async def during(self, attack: Any) -> list[float]:
        """Post for as long as the attack goes on, and ten times at least."""
        attacking = asyncio.create_task(asyncio.to_thread(attack))
        taken = await self.posts(10)
        while not attacking.done():
            taken += await self.posts(1)
        await attacking
        return taken

    def open(self) -> int:
        """Connections of clients that the ingress holds."""
        held = self.process.net_connections("tcp")
        return sum(each.laddr.port == self.port and each.status != psutil.CONN_LISTEN for each in held)

    async def until_all_have_gone(self, within: float) -> None:
        async def gone() -> bool:
            return not self.open()

        await until(gone, within=within)


@contextlib.asynccontextmanager
async def attacked(server: Server, *, mib: float = 64, **environment: str) -> AsyncIterator[Door]:
    """An ingress.  In the end all it took is there, no connection is left, and its memory grew by `mib` at most."""
    async with pipeline(server, "ingress", **{"INGRESS_TIMEOUT": str(TIMEOUT), **environment}) as whole:
        door = Door(whole)
        await door.posts(20)
        descriptors, memory = door.process.num_fds(), door.process.memory_info().rss
        yield door
        await door.posts(5)
        await door.until_all_have_gone(TIMEOUT + 8)
        assert door.process.num_fds() < descriptors + REDIS
        grown = (door.process.memory_info().rss - memory) / MIB
        print(f"\nmemory grew by {grown:.1f} MiB")  # noqa: T201 - the figure
        assert grown < mib
        assert await whole.store.command("XLEN", "inbound") >= door.accepted
        lines = whole.processes["ingress"].lines
        assert not [line for line in lines if "request.failed" in line or "Traceback" in line]


def answers(connection: socket.socket) -> bytes:
    """What still comes until the other side hangs up."""
    whole = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(1 << 16):
            whole += part
    return whole


def send(connection: socket.socket, sent: bytes) -> bool:
    """False once the other side has hung up."""
    try:
        connection.sendall(sent)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("begun", "drop"),
    [
        (b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
        (b"GET / HTTP/1.1\r\nX: ", b"y"),
        (POST + b"Content-Length: 60000\r\n\r\n", b"{"),
        (POST + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n"),
    ],
    ids=["headers", "one header", "body", "chunks"],
)
async def test_slow_loris_is_cut_off_in_time_and_holds_up_nobody(own_server: Server, begun, drop) -> None:
    async with attacked(own_server) as door:
        told = []

        def dawdle() -> None:
            with door.connections(500) as open_ones:
                for each in open_ones:
                    send(each, begun)
                start = time.monotonic()
                while time.monotonic() < start + TIMEOUT + 3 and any([send(each, drop) for each in open_ones]):
                    time.sleep(0.2)  # that is what it does
                told.extend(answers(each) for each in open_ones)

        await door.during(dawdle)
        # A last drop that crosses the answer may cost the answer
        assert all(each.startswith(b"HTTP/1.1 408 ") for each in told if each)
        assert sum(bool(each) for each in told) > 250


@pytest.mark.parametrize("head", [b"Content-Length: 1000000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
@pytest.mark.parametrize("path", [b"/chat", b"/whatsapp", b"/nowhere"])
async def test_bodies_without_measure_are_refused_and_not_held(own_server: Server, path, head) -> None:
    async with attacked(own_server) as door:
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n" if b"chunked" in head else b"x" * 65536

        def pour() -> None:
            with door.connections(20) as open_ones:
                for each in open_ones:
                    send(each, POST.replace(b"/chat", path) + head)
                for _ in range(160):  # 10 MiB each
                    for each in open_ones:
                        send(each, piece)
                for each in open_ones:
                    each.settimeout(TIMEOUT + 5)
                    assert answers(each)[:13] in (b"", b"HTTP/1.1 404 ", b"HTTP/1.1 413 ")

        await door.during(pour)


@pytest.mark.parametrize(
    "piece",
    [b"X-%d: y\r\n" * 2000, b"X: " + b"y" * 60_000 + b"\r\n", b"y" * 60_000],
    ids=["count", "size", "one without end"],
)
async def test_floods_of_headers_are_refused(own_server: Server, piece) -> None:
    async with attacked(own_server) as door:

        def flood() -> None:
            for _ in range(10):
                with door.connections(20) as open_ones:
                    for each in open_ones:
                        send(each, b"GET / HTTP/1.1\r\nX: ")
                    for _ in range(20):
                        for each in open_ones:
                            send(each, piece)
                    for each in open_ones:
                        assert answers(each)[:13] in (b"", b"HTTP/1.1 400 ")

        await door.during(flood)


async def test_a_flood_of_requests_on_one_connection_is_answered_bit_by_bit(own_server: Server) -> None:
    async with attacked(own_server) as door:

        def flood() -> None:
            with door.connections(50) as open_ones:
                for each in open_ones:
                    each.settimeout(1)
                    send(each, b"GET /x HTTP/1.1\r\n\r\n" * 20_000)  # 380 kB, of which much is never taken

        await door.during(flood)


async def test_garbage_behind_a_request_costs_that_request_nothing(own_server: Server) -> None:
    async with attacked(own_server) as door:
        body = b'{"user_id":"web-1","message":"Hola"}'
        good = POST + b"Content-Length: %d\r\n\r\n" % len(body) + body

        def pester() -> None:
            for garbage in (b"\x00" * 5000, b"\x16\x03\x01\x02\x00\x01\x00", b"}" * 5000, b"\r\n" * 100_000):
                with door.connections(50) as open_ones:
                    for each in open_ones:
                        send(each, good + garbage)
                    for each in open_ones:
                        assert answers(each)[:13] in (b"", b"HTTP/1.1 202 ")

        await door.during(pester)
        door.accepted += 200  # taken, all of them, also where the garbage cost the answer


async def test_connections_that_were_half_closed_or_cut_are_given_back_at_once(own_server: Server) -> None:
    async with attacked(own_server, INGRESS_TIMEOUT="60") as door:

        def leave() -> None:
            for begun in (
                b"",
                b"GET / HT",
                POST + b"Content-Length: 500\r\n\r\n{",
                b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            ):
                with door.connections(300) as open_ones:
                    for each in open_ones:
                        send(each, begun)
                        each.shutdown(socket.SHUT_WR)
                    for each in open_ones:
                        answers(each)

        await door.during(leave)


async def test_who_never_reads_the_answers_is_cut_off(own_server: Server) -> None:
    async with attacked(own_server) as door:
        deaf: list[socket.socket] = []

        def ask() -> None:
            for _ in range(100):
                each = socket.socket()
                each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                each.connect(("127.0.0.1", door.port))
                each.settimeout(0.2)
                deaf.append(each)
                send(each, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n" * 500)

        await door.during(ask)
        try:
            # While they are still there, and still do not read
            await door.until_all_have_gone(TIMEOUT + 8)
        finally:
            for each in deaf:
                each.close()


async def test_a_thousand_who_wait_for_a_reply_hold_up_nobody(own_server: Server) -> None:
    async with attacked(own_server, mib=96) as door:
        url = f"{door.whole.url}/chat"

        async def wait(session: aiohttp.ClientSession, number: int) -> int:
            body = {"user_id": f"web-{number}", "message": "Hola"}
            async with session.post(url, json=body, headers={"Prefer": "wait=8"}) as response:
                return response.status

        async def everybody() -> bool:
            return bool(await door.whole.store.command("HLEN", "waiting:inbound") >= 1000)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            waiting = [asyncio.create_task(wait(session, number)) for number in range(1000)]
            await until(everybody, within=30)
            taken = await door.posts(100)
            assert not any(each.done() for each in waiting)
            print(f"\namong 1,000 who wait: {told(taken)}")  # noqa: T201 - the figure
            # Nobody answers here, so the webhook would
            assert set(await asyncio.gather(*waiting)) == {202}
        door.accepted += 1000


async def test_ten_thousand_idle_connections_cost_memory_and_nothing_else(own_server: Server) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    count = IDLE if hard == resource.RLIM_INFINITY else min(IDLE, hard - 512)
    if count < IDLE:
        print(f"\nonly {count} connections: the system grants {hard} descriptors (ulimit -Hn)")  # noqa: T201 - said clearly
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 512, hard))
    async with attacked(own_server, mib=96, INGRESS_TIMEOUT="60") as door:
        without, empty = await door.posts(300), door.process.memory_info().rss
        for kind, sent in (("silent", b""), ("between two requests", b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n")):
            with door.connections(count) as idle:
                for each in idle:
                    send(each, sent)
                for each in idle:
                    assert not sent or each.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
                taken = await door.posts(300)
                assert door.process.num_fds() > count
                each_kib = (door.process.memory_info().rss - empty) / count / 1024
                print(f"\n{count} idle connections ({kind}): {told(taken)}; {each_kib:.1f} KiB each")  # noqa: T201 - the figure
        print(f"without them: {told(without)}")  # noqa: T201 - the figure


def told(taken: list[float]) -> str:
    cuts = statistics.quantiles(taken, n=100)
    return f"p50 {cuts[49] * 1000:.1f} ms, p99 {cuts[98] * 1000:.1f} ms"
