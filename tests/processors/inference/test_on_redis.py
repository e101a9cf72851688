"""The reply handler under the real runtime, on a real Redis: what is found in Redis afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from processors.inference.echo import Echo
from processors.inference.generation import Generated, Request
from processors.inference.handler import reply
from processors.inference.resources import Resources
from streams import topology, wire
from streams.connection import Store
from streams.settings import Settings
from streams.wire import Inbound
from streams.worker import Worker

ANA = "+59112345678"


class Held(Echo):
    """Echo that answers when the test lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.go_on = asyncio.Event(), asyncio.Event()

    async def generate(self, request: Request) -> Generated:
        self.asked.set()
        await self.go_on.wait()
        return await super().generate(request)


@contextlib.asynccontextmanager
async def inference(store: Store, here: Resources | None = None, **group: Any) -> AsyncIterator[Resources]:
    """An inference worker while the context is open."""
    table = {"reads": "inbound", "writes": ["outbound"], "handler": "nowhere:nothing", **group}
    top = topology.parse({"streams": {"inbound": {}, "outbound": {}}, "groups": {"inference": table}})
    here = here or Resources()
    worker = Worker(store, top, top.groups["inference"], reply, here)
    running = asyncio.create_task(worker.run(5))
    await worker.opened.wait()
    try:
        yield here
    finally:
        worker.stop()
        await running


async def post(store: Store, text: str, number: int, **fields: Any) -> None:
    body = wire.encode(Inbound(user_id=ANA, message_id=f"msg_{number}", text=text, **fields))
    await store.command("XADD", "inbound", "*", "key", ANA, "type", "text", "v", "1", "trace", "", "body", body)


async def sent(store: Store) -> list[dict[str, Any]]:
    entries = await store.command("XRANGE", "outbound", "-", "+")
    return [json.loads(dict(zip(flat[::2], flat[1::2], strict=True))[b"body"]) for _, flat in entries]


async def conversation(store: Store) -> dict[str, Any]:
    return json.loads(await store.command("GET", f"conversation:{ANA}") or b'{"messages": []}')


async def until(true: Callable[[dict[str, Any]], bool], store: Store) -> dict[str, Any]:
    """The conversation once something is true of it; a test that hangs is cut after 20 s."""
    async with asyncio.timeout(20):
        while not true(now := await conversation(store)):  # noqa: ASYNC110 - Redis knows when, and tells nobody
            await asyncio.sleep(0)
    return now


def says(count: int) -> Callable[[dict[str, Any]], bool]:
    return lambda conversation: len(conversation["messages"]) >= count


async def test_a_conversation_goes_on_from_turn_to_turn_and_expires(each_store: Store) -> None:
    async with inference(each_store):
        await post(each_store, "Hola", 1)
        await until(says(2), each_store)
        await post(each_store, "Cardiología", 2)
        now = await until(says(4), each_store)

    assert [one["content"] for one in now["messages"]] == ["Hola", "Hola", "Cardiología", "Cardiología"]
    assert [one["message"] for one in await sent(each_store)] == ["Hola", "Cardiología"]
    assert [one["message_id"] for one in now["messages"][1::2]] == [one["id"] for one in await sent(each_store)]
    assert json.loads(await each_store.command("GET", f"conversation_meta:{ANA}"))["message_count"] == 4
    for key in (f"conversation:{ANA}", f"conversation_meta:{ANA}"):
        assert 3590 < await each_store.command("TTL", key) <= 3600
    assert await each_store.command("GET", f"rate_limit:{ANA}") == b"2"


async def test_the_message_after_the_limit_is_told_and_no_further_one(store: Store) -> None:
    async with inference(store, Resources(settings=Settings(rate_limit_per_minute=2)), turn_max=1):
        for number in range(1, 6):
            await post(store, f"mensaje {number}", number)
        now = await until(says(8), store)

    assert [one["source"] for one in await sent(store)] == ["model", "model", "notice"]
    assert [one["content"] for one in now["messages"] if one["role"] == "user"] == [
        f"mensaje {number}" for number in range(1, 6)
    ]


async def test_a_reply_in_work_when_somebody_takes_over_is_not_sent(each_store: Store) -> None:
    engine = Held()
    async with inference(each_store, Resources(engine=engine)):
        await post(each_store, "Hola", 1)
        await engine.asked.wait()
        await each_store.command("SET", f"paused:{ANA}", "2020-01-01T00:00:00Z", "PX", "60000")
        engine.go_on.set()
        now = await until(says(1), each_store)

    assert now["status"] == "paused"
    assert [one["role"] for one in now["messages"]] == ["user"]
    assert [(one["type"], one["message"]) for one in await sent(each_store)] == [("handover", "Hola")]
    # The pause is renewed: it ends 12 hours from now.
    assert 43_000 < await each_store.command("TTL", f"paused:{ANA}") <= 43_200


async def test_a_paused_person_is_recorded_and_not_counted(store: Store) -> None:
    await store.command("SET", f"paused:{ANA}", "2020-01-01T00:00:00Z", "PX", "60000")
    async with inference(store):
        await post(store, "¿Hola?", 1)
        now = await until(says(1), store)

    assert now["status"] == "paused"
    assert [one["type"] for one in await sent(store)] == ["handover"]
    assert await store.command("GET", f"rate_limit:{ANA}") is None


async def test_who_writes_on_is_answered_once_counted_once_and_told_once_that_it_is_written(store: Store) -> None:
    # Given somebody whose reply is being generated, of which the webhook is told
    engine, top = Held(), topology.parse({"egress": {"types": ["reply", "typing"]}})
    async with inference(store, Resources(engine=engine, topology=top), on_new_message="supersede"):
        await post(store, "Quiero una cita", 1)
        await engine.asked.wait()
        engine.asked.clear()
        # When they write on
        await post(store, "para el martes", 2)
        await engine.asked.wait()
        engine.go_on.set()
        now = await until(says(3), store)

    assert [one["content"] for one in now["messages"]] == [
        "Quiero una cita", "para el martes", "Quiero una cita\npara el martes",
    ]  # fmt: skip
    assert [(one["type"], one["in_reply_to"]) for one in await sent(store)] == [
        ("typing", ["msg_1"]), ("reply", ["msg_1", "msg_2"]),
    ]  # fmt: skip
    assert await store.command("GET", f"rate_limit:{ANA}") == b"2"


async def test_what_says_nothing_leaves_a_reply_in_work_alone(store: Store) -> None:
    engine = Held()
    async with inference(store, Resources(engine=engine), on_new_message="supersede"):
        await post(store, "Hola", 1)
        await engine.asked.wait()
        engine.asked.clear()
        for number, kind in enumerate(("reaction", "staff", "unsupported"), start=2):
            body = wire.encode(Inbound(user_id=ANA, message_id=f"msg_{number}", text="👍", kind=kind))
            await store.command("XADD", "inbound", "*", "key", ANA, "type", kind, "v", "1", "trace", "", "body", body)
        [newest] = await store.command("XREVRANGE", "inbound", "+", "-", "COUNT", "1")
        async with asyncio.timeout(20):
            while await store.command("GET", "group:inference:cursor") != newest[0]:  # noqa: ASYNC110 - as above
                await asyncio.sleep(0)
        assert not engine.asked.is_set()
        engine.go_on.set()
        await until(says(2), store)
    assert (await sent(store))[0]["in_reply_to"] == ["msg_1"]
