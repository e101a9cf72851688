"""
What happened is counted, each thing once, whoever is killed while it is.

Real processes under load; the counts are held against what was posted and what lies on the streams in the end.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections import Counter
from typing import Any

import pytest
from conftest import Server, sometimes
from pipeline import Pipeline, analytics_tables, pipeline
from waiting import until

from streams import topology

pytestmark = pytest.mark.slow

TALKERS = 3
FIRST = re.compile(r"reply_\d+-\d+(\.s\d+)?")
"""The first reply of a turn."""

COUNTING = ("analytics", "analytics-replies", "analytics-statuses")


def status(number: int, what: str) -> dict[str, Any]:
    """One of Meta's statuses, as n8n passes it on."""
    told = {"id": f"wamid.{number}", "status": what, "timestamp": "1728123456", "recipient_id": "59170000001"}
    if what == "failed":
        told["errors"] = [{"code": 131047 if number % 2 else 131026, "title": "no"}]
    return {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "1"}, "statuses": [told]}


async def settled(whole: Pipeline) -> bool:
    """Every group that runs has done all it had to do."""
    for store in whole.stores:
        for name, group in topology.load(whole.config).groups.items():
            if name == "egress":
                continue  # nobody delivers here
            stream = store.keys.stream(group.reads)
            cursor, newest, pending = await store.pipeline([
                ("GET", store.keys.group("cursor", name)), ("XREVRANGE", stream, "+", "-", "COUNT", 1),
                ("XPENDING", stream, name),
            ])  # fmt: skip
            if (newest and newest[0][0] != cursor) or pending[0]:
                return False
    return True


async def truth(whole: Pipeline) -> dict[str, Any]:
    """What the replies on `outbound` say of themselves."""
    replies = []
    for store in whole.stores:
        for _, flat in await store.command("XRANGE", store.keys.stream("outbound"), "-", "+"):
            replies.append(json.loads(dict(zip(flat[::2], flat[1::2], strict=True))[b"body"]))
    return {
        "messages_out": len(replies),
        "rate_limited": sum(reply["source"] == "notice" for reply in replies),
        "actions.book": sum(reply["action"] == "book" for reply in replies),
        "conversations": len({reply["conversation_id"] for reply in replies}),
        "timings": sum(reply["source"] != "notice" and bool(FIRST.fullmatch(reply["id"])) for reply in replies),
    }


async def analytics(whole: Pipeline, query: str) -> dict[str, Any]:
    async with whole.session.get(f"{whole.url}/analytics?{query}") as response:
        assert response.status == 200
        found: dict[str, Any] = await response.json()
        return found


@pytest.mark.parametrize("shards", sometimes([1, 3], [3]))
async def test_everything_is_counted_once_though_workers_are_killed(own_server: Server, shards: int) -> None:
    names = ["ingress", "inference", *COUNTING, "analytics2"]
    luck, said, told = random.Random(shards), Counter[str](), Counter[str]()  # noqa: S311 - no secret
    tables = {"placement": f"shards = {shards}", "streams": analytics_tables()}
    async with pipeline(own_server, *names, **tables, RATE_LIMIT_PER_MINUTE="5") as whole:
        # Given people who write, one after the other, and Meta who says what became of the answers
        people, over = itertools.count(), asyncio.Event()

        async def talk() -> None:
            while not over.is_set():
                person = f"+5917{next(people):07}"
                for number in range(luck.randint(1, 9)):
                    await whole.say(person, "quiero una cita" if luck.random() < 0.3 else "hola", f"{person}-{number}")
                    said[person] += 1
                what, name = luck.choice(["delivered", "read", "failed"]), int(person)
                assert (await whole.post("/whatsapp", status(name, what)))[0] == 200
                told.update([what, f"{what} {name % 2}"])

        talking = [asyncio.create_task(talk()) for _ in range(TALKERS)]
        # When whoever counts them is killed, again and again, and started anew
        for _ in range(2):
            for name in (*COUNTING, "analytics2"):
                await whole.kill(name)
                await whole.start(name)
        over.set()
        await asyncio.gather(*talking)
        await until(lambda: settled(whole), within=60)
        # Then each is there once
        there = await truth(whole)
        for by in ("minute", "hour", "day"):
            total = (await analytics(whole, f"since=2d&by={by}"))["total"]
            counts = total["counts"]
            assert counts["messages_in"] == sum(said.values())
            assert counts["messages_out"] == there["messages_out"]
            assert counts["rate_limited"] == there["rate_limited"] > 0
            assert counts["actions.book"] == there["actions.book"] > 0
            assert total["timings"]["reply"]["count"] == there["timings"] > 0
            for what in ("delivered", "read", "failed"):
                assert counts[f"statuses.{what}"] == told[what]
            assert counts["failed.131047"] == told["failed 1"]
            # What is distinct is an estimate: 0.8 % is one standard error
            assert total["distinct"]["people"] == pytest.approx(len(said), rel=0.04)
            assert total["distinct"]["new_conversations"] == pytest.approx(there["conversations"], rel=0.04)
        print(f"\n{sum(said.values())} messages of {len(said)} people, {there['messages_out']} replies")  # noqa: T201 - the figure
        for store in whole.stores:
            assert await store.command("XLEN", store.keys.dead("inbound")) == 0
