"""The bad network of these tests is as bad as it says: each fault is seen from the client's side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.faults.proxy import Proxy

Client = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Line(Proxy):
    """A proxy, and clients of it that are closed with it."""

    async def client(self) -> Client:
        client = await asyncio.open_connection("127.0.0.1", self.port)
        self.clients.append(client)
        return client

    async def __aenter__(self) -> Line:
        self.clients: list[Client] = []
        await super().__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        for _, writer in self.clients:
            writer.transport.abort()
        await super().__aexit__()


@asynccontextmanager
async def shouting(heard: list[bytes]) -> AsyncIterator[Line]:
    """A line to a server that keeps what it hears and says it back in capitals."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            heard.append(line)
            writer.write(line.upper())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server, Line(("127.0.0.1", server.sockets[0].getsockname()[1])) as wire:
        yield wire


async def ask(client: Client, words: bytes) -> bytes:
    client[1].write(words + b"\n")
    return await client[0].readline()


async def nothing_comes(client: Client, words: bytes) -> asyncio.Task[bytes]:
    """Asked, and no answer has come when every other connection's would long have."""
    asking = asyncio.create_task(ask(client, words))
    done, _ = await asyncio.wait({asking}, timeout=0.2)
    assert not done
    return asking


async def test_all_is_well_until_something_is_said_to_happen() -> None:
    async with shouting([]) as wire:
        assert await ask(await wire.client(), b"hola") == b"HOLA\n"
        assert wire.hits == 0


async def test_cut_and_healed() -> None:
    async with shouting([]) as wire:
        before = await wire.client()
        assert await ask(before, b"uno") == b"UNO\n"
        wire.cut()
        with pytest.raises(OSError, match="reset"):
            await ask(before, b"dos")
        during = await wire.client()
        with pytest.raises(OSError, match="reset"):
            await during[0].readexactly(1)
        wire.heal()
        assert await ask(await wire.client(), b"tres") == b"TRES\n"
        assert wire.hits == 2


async def test_stalled_and_healed_nothing_is_lost() -> None:
    heard: list[bytes] = []
    async with shouting(heard) as wire:
        before = await wire.client()
        assert await ask(before, b"uno") == b"UNO\n"
        wire.stall()
        asked = [await nothing_comes(before, b"dos"), await nothing_comes(await wire.client(), b"tres")]
        assert heard == [b"uno\n"]
        wire.heal()
        assert await asyncio.gather(*asked) == [b"DOS\n", b"TRES\n"]


async def test_lost_for_good_while_a_new_one_passes() -> None:
    async with shouting([]) as wire:
        before = await wire.client()
        assert await ask(before, b"uno") == b"UNO\n"
        wire.lose()
        asking = await nothing_comes(before, b"dos")
        assert await ask(await wire.client(), b"tres") == b"TRES\n"
        wire.heal()
        assert not asking.done()
        asking.cancel()


async def test_slow_both_ways() -> None:
    async with shouting([]) as wire:
        client = await wire.client()
        assert await ask(client, b"uno") == b"UNO\n"
        wire.slow(bytes_per_second=1000, latency=0.05)
        start = asyncio.get_running_loop().time()
        assert await ask(client, b"x" * 99) == b"X" * 99 + b"\n"
        assert asyncio.get_running_loop().time() - start >= 0.3


async def test_held_in_the_middle_of_a_reply_and_healed() -> None:
    async with shouting([]) as wire:
        client = await wire.client()
        stopped = wire.hold(after=2)
        client[1].write(b"hola\n")
        await stopped.wait()
        assert await client[0].readexactly(2) == b"HO"
        rest = await nothing_comes(client, b"ana")
        wire.heal()
        assert await rest == b"LA\n"
        assert await client[0].readline() == b"ANA\n"


async def test_half_closed_the_other_side_still_hears() -> None:
    heard: list[bytes] = []
    async with shouting(heard) as wire:
        client = await wire.client()
        assert await ask(client, b"uno") == b"UNO\n"
        wire.half_close()
        assert await ask(client, b"dos") == b""
        client[1].write_eof()
        async with asyncio.timeout(5):
            while heard != [b"uno\n", b"dos\n"]:  # noqa: ASYNC110 - the server has no event to wait for
                await asyncio.sleep(0)


@pytest.mark.parametrize("after", [0, 1, 3])
async def test_what_was_asked_is_done_and_its_answer_cut_off(after: int) -> None:
    heard: list[bytes] = []
    async with shouting(heard) as wire:
        wire.spoil(1, after=after, of="dos")
        client = await wire.client()
        assert await ask(client, b"uno") == b"UNO\n"
        client[1].write(b"dos\n")
        with pytest.raises((asyncio.IncompleteReadError, OSError)) as broken:
            await client[0].readexactly(4)
        if isinstance(broken.value, asyncio.IncompleteReadError):
            assert broken.value.partial == b"DOS\n"[:after]
        assert heard == [b"uno\n", b"dos\n"]
        assert await ask(await wire.client(), b"dos") == b"DOS\n"
        assert wire.hits == 1
