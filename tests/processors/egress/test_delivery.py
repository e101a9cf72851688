"""Egress inside the real runtime: order, parts, retries and burial, from the stream to a receiver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import redis
from counts import count

from processors.egress import handler
from processors.egress.handler import deliver
from streams import metrics, topology, wire
from streams.connection import Store
from streams.stores import Stores
from streams.worker import Worker
from tests.processors.egress.stories import reply, settings
from tests.sink import Received, Sink


@asynccontextmanager
async def egress(store: Store, url: str, **table: Any) -> AsyncIterator[Worker]:
    """A worker of the group; stopped at the end, everything in work committed."""
    group = {
        "reads": "outbound", "handler": "processors.egress.handler:deliver", "turn_max": 1, "attempts": 9,
        "backoff": ["50ms"],
    }  # fmt: skip
    plan = topology.parse({"streams": {"outbound": {}}, "groups": {"egress": group}, "egress": table})
    async with handler.opened(plan.group("egress"), plan, settings(url), Stores.alone(store)) as resources:
        worker = Worker(store, plan, plan.group("egress"), deliver, resources)
        running = asyncio.create_task(worker.run(grace=10))
        try:
            yield worker
        finally:
            worker.stop()
            await running


async def append(store: Store, body: wire.Reply) -> None:
    fields = ["key", body.user_id, "type", body.type, "body", wire.encode(body), "v", wire.VERSION, "trace", ""]
    await store.command("XADD", store.keys.stream("outbound"), "*", *fields)


def ids(requests: list[Received], user_id: str) -> list[str]:
    return [got.json["id"] for got in requests if got.json["user_id"] == user_id]


async def test_a_failing_reply_holds_its_own_person_in_order_and_nobody_else(store):
    unwell = count(metrics.DELIVERY_ANSWERS.labels("503"))
    async with Sink() as sink:
        # Given the first reply of Ana fails twice, and more replies follow
        sink.plan(status=503, count=1)
        for n in range(3):
            await append(store, reply(id=f"reply_{n}-0", user_id="ana"))
        async with egress(store, sink.url):
            await sink.received(1)
            sink.plan(status=503, count=1)
            await append(store, reply(id="reply_3-0", user_id="luis"))
            await sink.received(6)
        ana = ids(sink.requests, "ana")
        luis = ids(sink.requests, "luis")
    # Then hers arrive in their order, each until it is taken; with one failure each way, six posts in all
    assert list(dict.fromkeys(ana)) == ["reply_0-0", "reply_1-0", "reply_2-0"]
    assert set(luis) == {"reply_3-0"}
    assert len(ana) + len(luis) == 6
    assert sorted(got.answered for got in sink.requests) == [200, 200, 200, 200, 503, 503]
    assert count(metrics.DELIVERY_ANSWERS.labels("503")) == unwell + 2


async def test_parts_go_in_order_with_the_persons_next_reply_behind_them(store, client: redis.Redis):
    async with Sink() as sink:
        await append(store, reply(id="reply_1-0", message="Primera frase. Segunda frase. Tercera frase."))
        await append(store, reply(id="reply_2-0", message="Corta."))
        sink.plan()
        sink.plan(status=503)  # the second part fails once
        async with egress(store, sink.url, max_chars=15, spacing=0):
            await sink.received(5)
        said = [(got.headers["webhook-id"], got.json["message"]) for got in sink.requests]
    assert said == [
        ("reply_1-0.p1", "Primera frase."),
        ("reply_1-0.p2", "Segunda frase."),
        ("reply_1-0.p2", "Segunda frase."),
        ("reply_1-0.p3", "Tercera frase."),
        ("reply_2-0", "Corta."),
    ]
    assert not client.keys("group:egress:box:*")


async def test_what_a_refusal_quotes_is_in_its_letter_and_in_no_journal_nor_log_of_production(
    store, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    # Given production, and a receiver that repeats in its refusal what somebody wrote
    monkeypatch.setattr("streams.log._Quiet.production", True)
    async with Sink() as sink:
        sink.plan(status=422, body='{"detail":"for Ana Quispe, tengo diabetes"}')
        await append(store, reply(id="reply_1-0"))
        await append(store, reply(id="reply_2-0"))
        # When it refuses a reply
        async with egress(store, sink.url):
            await sink.received(2)
    # Then the letter has its words, and what no erase touches has the status
    [(_, letter)] = client.xrange("outbound.dead")
    assert "diabetes" in letter["reason"]
    told = [line for _, fields in client.xrange("group:egress:journal") for line in fields.values()]
    assert any('"why":"422"' in line for line in told)
    logged = [record.fields["why"] for record in caplog.records if record.msg == "turn.buried"]
    assert logged == ["422"]
    assert not any("diabetes" in line for line in told)


async def test_a_refused_reply_is_in_the_dead_letters_with_the_answer_and_its_bytes(store, client: redis.Redis):
    async with Sink() as sink:
        sink.plan(status=422, body='{"detail":"no such template"}')
        refused = reply(id="reply_1-0", message="Primera frase. Segunda frase.")
        await append(store, refused)
        await append(store, reply(id="reply_2-0", message="Corta."))
        async with egress(store, sink.url, max_chars=15):
            await sink.received(2)
        # The rest of the refused one died with it.
        assert [got.headers["webhook-id"] for got in sink.requests] == ["reply_1-0.p1", "reply_2-0"]
    [(_, letter)] = client.xrange("outbound.dead")
    assert letter["body"] == wire.encode(refused).decode()
    assert "422" in letter["reason"]
    assert "no such template" in letter["reason"]
