"""Redis runs full: the ingress sheds before, and what was accepted is answered to the last message, without help."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Server
from pipeline import Pipeline, pipeline
from waiting import until

from streams.connection import Store

pytestmark = [pytest.mark.slow, pytest.mark.extremes]

BULK = {"bulk": "x" * 40_000}
KINDS = {"leases": "HLEN", "due": "ZCARD", "attempts": "HLEN"}


@pytest.fixture
def small_server(each_binary: str) -> Iterator[Server]:
    """A Redis with little memory."""
    server = Server(each_binary, "--maxmemory", "24mb", "--maxmemory-policy", "noeviction")
    yield server
    server.stop()


async def share(store: Store) -> float:
    told = (await store.command("INFO", "memory")).decode()
    return int(told.partition("used_memory:")[2].split()[0]) / (24 << 20)


async def flood(whole: Pipeline) -> set[str]:
    """Post messages of 40 KB each, one of each person, until they are refused; the ids of those accepted."""
    accepted: set[str] = set()
    for number in range(2000):
        id = f"m{number}"
        body = {"user_id": f"web-{number}", "message": "hola", "message_id": id, "metadata": BULK}
        status, answer = await whole.post("/chat", body)
        if status == 503:
            assert answer["error"] == "redis_unavailable", answer
            assert "maxmemory" in answer["detail"]
            return accepted
        assert status == 202, answer
        accepted.add(id)
    raise AssertionError("it never shed")


async def fill(store: Store) -> None:
    """Something else takes what memory is left, to the last byte it can get."""
    for size in (100_000, 1_000, 10):
        for number in range(1000):
            [refused] = await store.pipeline([("SET", f"foreign:{size}:{number}", "x" * size)])
            if isinstance(refused, Exception):
                assert "maxmemory" in str(refused)
                break
        else:
            raise AssertionError("it is not full")


async def idle(store: Store) -> bool:
    """Nothing is waiting, in work or pending in any group."""
    counts: list[Any] = []
    for group, stream in (("inference", "inbound"), ("egress", "outbound")):
        counts += await store.pipeline([(read, store.keys.group(kind, group)) for kind, read in KINDS.items()])
        counts += (await store.command("XPENDING", stream, group))[:1]
    return not any(counts)


async def test_a_redis_filled_to_the_last_byte_drains_to_zero_without_help(small_server: Server) -> None:
    async with pipeline(small_server, MODEL="echo?latency=0.3", SESSION_EXPIRE_TIME="5") as whole:
        # Given messages that nobody answers, until the ingress sheds, before Redis is full
        await whole.kill("inference")
        accepted = await flood(whole)
        assert 0.85 <= await share(whole.store) < 0.95
        assert len(accepted) > 100
        # And something else that fills the rest, while the webhook is down
        await fill(whole.store)
        whole.sink.plan(status=503, count=3)
        # When the worker comes, dies in the middle of its turns, and comes again
        await whole.start("inference")
        await until(lambda: holds(whole.store, "HLEN", "group:inference:leases"), within=60)
        assert (await whole.post("/chat", {"user_id": "web-x", "message": "x"}))[0] == 503
        await whole.kill("inference")
        await whole.start("inference")
        # Then everything that was accepted is delivered, once
        await until(lambda: arrived(whole, accepted), within=120)
        taken = [each for each in whole.sink.requests if each.answered == 200]
        assert sorted(id for each in taken for id in json.loads(each.body)["in_reply_to"]) == sorted(accepted)
        # And nothing is left to do, and new messages are taken, though what is not ours stayed
        await until(lambda: idle(whole.store), within=60)
        await until(lambda: takes(whole), within=60)
        assert await whole.store.command("EXISTS", "foreign:100000:0") == 1


async def holds(store: Store, read: str, key: str) -> bool:
    return bool(await store.command(read, key))


async def arrived(whole: Pipeline, accepted: set[str]) -> bool:
    return len([each for each in whole.sink.requests if each.answered == 200]) >= len(accepted)


async def takes(whole: Pipeline) -> bool:
    return (await whole.post("/chat", {"user_id": "web-y", "message": "y"}))[0] == 202
