"""Several processes behind one port: all serve, one that goes is missed by nobody, and all stop together."""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import psutil
import pytest
from conftest import Server
from pipeline import Pipeline, pipeline
from waiting import until

from bench.ports import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere nobody helps a frozen process"),
]

TWO = {"INGRESS_WORKERS": "2", "RATE_LIMIT_PER_MINUTE": "0"}


def workers(whole: Pipeline) -> list[psutil.Process]:
    return psutil.Process(whole.processes["ingress"].child.pid).children()


@contextmanager
def frozen(worker: psutil.Process) -> Iterator[None]:
    worker.suspend()
    try:
        yield
    finally:
        worker.resume()


async def counted(whole: Pipeline, metric: str) -> float:
    async with whole.session.get(f"{whole.url}/metrics") as answer:
        found = re.search(rf"^{re.escape(metric)} (\S+)$", await answer.text(), re.MULTILINE)
        return float(found[1]) if found else 0.0


async def test_connections_are_divided_and_either_serves_while_the_other_does_not(own_server: Server) -> None:
    async with pipeline(own_server, "ingress", **TWO) as whole:
        # Given connections that are kept open
        kept = [await asyncio.open_connection("127.0.0.1", whole.port) for _ in range(60)]
        for reader, writer in kept:
            writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
        # Then both have their share of them
        shares = [sum(each.laddr[1] == whole.port for each in one.net_connections()) for one in workers(whole)]
        assert sum(shares) >= 60
        assert min(shares) > 10
        # And new ones are served with only one of them awake, whichever that is
        for worker in workers(whole):
            with frozen(worker):
                async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
                    for number in range(20):
                        body = {"user_id": "ana", "message": "Hola", "message_id": f"{worker.pid}.{number}"}
                        async with session.post(f"{whole.url}/chat", json=body) as answer:
                            assert answer.status == 202

        # And the metrics of either are those of both, once the other has told what it counted
        async def all_are_counted() -> bool:
            return await counted(whole, 'cauce_messages_total{outcome="accepted"}') == 40

        await until(all_are_counted)
        assert await counted(whole, "cauce_ingress_workers") == 2
        assert await whole.store.command("XLEN", "inbound") == 40
        for _, writer in kept:
            writer.close()


async def talk(
    session: aiohttp.ClientSession, whole: Pipeline, name: str, heard: Counter[str], over: asyncio.Event
) -> None:
    """Say one thing after another, each over a connection of its own; what was not answered is said again."""
    for number in itertools.count():
        if over.is_set():
            return
        body = {"user_id": name, "message": "Hola", "message_id": f"m{number}"}
        while True:
            try:
                async with session.post(f"{whole.url}/chat", json=body) as answer:
                    await answer.read()
                    heard[str(answer.status)] += 1
                    break
            except aiohttp.ClientConnectorError:
                heard["refused"] += 1
            except (aiohttp.ClientError, OSError):
                heard["broken"] += 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_one_that_ends_is_replaced_and_nobody_is_refused_meanwhile(own_server: Server, number) -> None:
    heard, over = Counter[str](), asyncio.Event()
    async with (
        pipeline(own_server, "ingress", **TWO) as whole,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session,
    ):
        clients = [asyncio.create_task(talk(session, whole, f"c{name}", heard, over)) for name in range(8)]

        async def more() -> bool:
            return heard["202"] > before + 50

        for _ in range(3):
            before = heard["202"]
            await until(more)
            # When one of them is ended under load
            victim, other = workers(whole)
            victim.send_signal(number)

            async def replaced(pair: set[int] = {victim.pid, other.pid}) -> bool:  # noqa: B006 - of this round
                now = {worker.pid for worker in workers(whole)}
                return len(now) == 2 and now != pair and await counted(whole, "cauce_ingress_workers") == 2

            # Then another takes its place, while the one that is left serves
            await until(replaced)
            before = heard["202"]
            await until(more)
        over.set()
        await asyncio.gather(*clients)
        # And nobody was refused; one that was told to end has answered whoever it had let in
        assert heard.keys() <= ({"202", "broken"} if number == signal.SIGKILL else {"202"}), heard
        # And what was accepted is there, once
        assert await whole.store.command("XLEN", "inbound") == heard["202"]


async def test_all_answer_what_they_have_received_and_end_together(own_server: Server) -> None:
    people = [f"p{number}" for number in range(16)]
    async with pipeline(own_server, "ingress", **TWO) as whole:
        waiting = [asyncio.create_task(whole.say(person, "Hola", "m1", Prefer="wait=30")) for person in people]

        async def registered() -> bool:
            return bool(await whole.store.command("HLEN", "waiting:inbound") == len(people))

        await until(registered)
        ingress, both = whole.processes["ingress"], workers(whole)
        await whole.stop("ingress")
        assert [answer["status"] for answer in await asyncio.gather(*waiting)] == ["accepted"] * len(people)
        assert not [worker for worker in both if worker.is_running()]
        assert sum("ingress.draining" in line for line in ingress.lines) == 2
        # And what was said of the start was said once
        for event in ("redis.connected", "ingress.listening"):
            assert sum(f'"{event}"' in line for line in ingress.lines) == 1


async def test_a_second_signal_stops_all_at_once(own_server: Server) -> None:
    async with pipeline(own_server, "ingress", SHUTDOWN_GRACE="600", **TWO) as whole:
        await whole.store.command("CLIENT", "PAUSE", 15_000, "WRITE")
        asking = [asyncio.create_task(whole.post("/chat", {"user_id": "a", "message": "b"})) for _ in range(8)]
        async with whole.session.get(f"{whole.url}/health/live") as alive:
            assert alive.status == 200
        ingress, both = whole.processes["ingress"], workers(whole)
        ingress.child.send_signal(signal.SIGTERM)
        await ingress.says("ingress.draining")
        assert await ingress.end(signal.SIGTERM) == 0
        assert not [worker for worker in both if worker.is_running()]
        await asyncio.gather(*asking, return_exceptions=True)
        await whole.store.command("CLIENT", "UNPAUSE")


async def test_whoever_watches_over_them_takes_them_along_when_killed(own_server: Server) -> None:
    async with pipeline(own_server, "ingress", **TWO) as whole:
        both = workers(whole)
        await whole.kill("ingress")
        assert not psutil.wait_procs(both, timeout=20)[1]
        await whole.start("ingress")


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"REDIS_URL": "unix:///nowhere/redis.sock"}, "Redis cannot be reached"),
        ({"INGRESS_HOST": "192.0.2.1", "INGRESS_TOKENS": "t" * 24}, "nothing can listen on 192.0.2.1"),
        ({"INGRESS_HOST": "::"}, "would let anybody in"),
        ({"INGRESS_WORKERS": "many"}, "INGRESS_WORKERS = 'many' should be a whole number from 1 to 64"),
    ],
)
async def test_what_keeps_them_from_starting_is_said_once(own_server: Server, environment, says) -> None:
    async with pipeline(own_server, "ingress", **TWO) as whole:
        whole.own["ingress2"] = {"INGRESS_PORT": str(free_port()), **environment}
        with pytest.raises(AssertionError):
            await whole.start("ingress2")
        failed = whole.processes.pop("ingress2")
        assert await failed.child.wait() == 2
        assert [says in line for line in failed.lines if line.startswith("cauce: ")] == [True]
        assert not any("Traceback" in line for line in failed.lines)


async def test_a_second_ingress_on_the_same_port_is_refused_and_not_let_in_beside(own_server: Server) -> None:
    async with pipeline(own_server, "ingress", **TWO) as whole:
        with pytest.raises(AssertionError, match="nothing can listen"):
            await whole.start("ingress2")
        assert await whole.processes.pop("ingress2").child.wait() == 2
