"""
SIGTERM of the ingress while requests are under way: each gets its answer, and nobody's connection is reset.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections import Counter

import aiohttp
import pytest
from conftest import Server
from pipeline import Pipeline, json_of, pipeline
from waiting import until

pytestmark = pytest.mark.slow

ANA, EVA = "+59112345678", "+59187654321"


async def test_the_ingress_answers_all_it_has_received_and_takes_no_more(own_server: Server) -> None:
    people = [f"+591700000{number:02}" for number in range(10)]
    async with pipeline(own_server, MODEL="echo?latency=3") as whole:
        # Given requests that wait for a reply, and others whose message Redis has not taken yet
        waiting = [asyncio.create_task(whole.say(person, "Hola", "m1", Prefer="wait=30")) for person in people[:5]]
        await until(lambda: _is(whole, 5, "HLEN", "waiting:inbound"))
        await whole.store.command("CLIENT", "PAUSE", 1000, "WRITE")
        appending = [asyncio.create_task(whole.say(person, "Hola", "m1")) for person in people[5:]]
        async with whole.session.get(f"{whole.url}/health/live") as alive:
            assert alive.status == 200  # by now the others have got through as well
        # When it is told to stop
        ingress = whole.processes["ingress"]
        stopping = asyncio.create_task(whole.stop("ingress"))
        await ingress.says("ingress.draining")
        # Then nobody new is let in, and all who are inside get their answer, long before their replies are there
        await until(lambda: _refused(whole.port), within=1)
        assert not any(task.done() for task in (*waiting, *appending))
        answers = await asyncio.gather(*waiting, *appending)
        assert [answer["status"] for answer in answers] == ["accepted"] * 10
        await stopping
        assert sorted(json_of(each)["user_id"] for each in await whole.sink.received(10)) == people


async def _is(whole: Pipeline, value: object, *command: str) -> bool:
    return bool(await whole.store.command(*command) == value)


async def _refused(port: int) -> bool:
    try:
        async with asyncio.timeout(0.2):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return True
    except TimeoutError:  # it knocked as the door was shut, and would knock again after a second
        return False
    except ConnectionResetError:  # it stood in line at the very moment when the door was closed: the next is refused
        return False
    writer.close()
    return False


async def test_who_has_connected_before_the_signal_is_heard_after_it(own_server: Server) -> None:
    async with pipeline(own_server) as whole:
        # Given a connection without a request, and one whose request the ingress has not even seen
        early = await Client.of(whole)
        ingress = whole.processes.pop("ingress")
        ingress.child.send_signal(signal.SIGSTOP)
        unseen = await Client.of(whole)
        await unseen.say(ANA)
        # When it is told to stop
        ingress.child.send_signal(signal.SIGTERM)
        ingress.child.send_signal(signal.SIGCONT)
        await ingress.says("ingress.draining")
        await early.say(EVA)
        # Then both are answered, and asked to come no more over this connection
        for client in (unseen, early):
            answer = (await client.reader.read()).lower()
            assert answer.startswith(b"http/1.1 202 ")
            assert b"connection: close" in answer
            client.writer.close()
        assert await ingress.child.wait() == 0
        assert {json_of(each)["user_id"] for each in await whole.sink.received(2)} == {ANA, EVA}


class Client:
    """One connection, byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def of(cls, whole: Pipeline) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", whole.port))

    async def say(self, person: str) -> None:
        body = json.dumps({"user_id": person, "message": "Hola"})
        self.writer.write(f"POST /chat HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
        await self.writer.drain()


async def test_clients_without_kept_connections_see_answers_and_refusals_alone(own_server: Server) -> None:
    heard: Counter[str] = Counter()
    async with (
        pipeline(own_server, "ingress") as whole,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as session,
    ):

        async def many() -> bool:
            return heard["202"] >= 100

        for restart in range(3):
            heard.clear()
            clients = [
                asyncio.create_task(talk(session, whole, f"{restart}{number:02}", heard)) for number in range(12)
            ]
            await until(many)
            await whole.stop("ingress")
            await asyncio.gather(*clients)
            assert heard.keys() == {"202", "not connected"}, heard
            await whole.start("ingress")


async def talk(session: aiohttp.ClientSession, whole: Pipeline, name: str, heard: Counter[str]) -> None:
    """Say one thing after another, each over a connection of its own, until one is not taken."""
    for number in itertools.count():
        body = {"user_id": f"+5917000{name}", "message": "Hola", "message_id": f"m{number}"}
        try:
            async with session.post(f"{whole.url}/chat", json=body) as response:
                await response.read()
                heard[str(response.status)] += 1
        except aiohttp.ClientConnectorError:
            heard["not connected"] += 1
            return
        except (aiohttp.ClientError, OSError) as error:
            heard[type(error).__name__] += 1
            return
