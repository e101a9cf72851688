"""A person erased while she writes and workers die: what was before is gone, and what comes is answered."""

from __future__ import annotations

import asyncio
import base64
import json
from collections import Counter
from collections.abc import AsyncIterator

import pytest
from conftest import Server, binary, sometimes
from deployments import Cluster, Ground
from pipeline import Pipeline, pipeline
from waiting import until

from streams import topology
from streams.survey import survey

pytestmark = [pytest.mark.slow, pytest.mark.extremes]

ANA = "+59112345678"
OTHERS = ["+59187654321", "+59170000001", "web-42"]
PROCESSES = ("ingress", "inference", "inference2", "egress", "egress2")
BASE64 = [b"NTkxMTIzNDU2Nz", b"U5MTEyMzQ1Njc4", b"1OTExMjM0NTY3O"]


def message_id(person: str, number: int) -> str:
    return "wamid." + base64.b64encode(f"\x02{person[1:]}\x01{number:06}".encode()).decode()


class Writer:
    """Somebody who writes all the time, and some of it waits for its reply."""

    def __init__(self, whole: Pipeline, person: str) -> None:
        self.whole, self.person = whole, person
        self.accepted: dict[str, str] = {}
        """Message's id → its text, in the order in which they were taken."""
        self.asked = 0
        self.told: Counter[str] = Counter()
        self.replied: set[str] = set()
        self.stopped = False

    async def write(self) -> None:
        self.asked += 1
        number, id = self.asked, message_id(self.person, self.asked)
        text = f"palabra-{self.person[-4:]}-{number:06}-fin"
        wait = {"Prefer": "wait=20"} if number % 9 == 0 else {}
        answer = await self.whole.say(self.person, text, id, **wait)
        self.accepted[id] = text
        self.told[answer["status"]] += 1
        if answer["status"] == "replied":
            self.replied |= set(answer["in_reply_to"])

    async def go_on(self) -> None:
        while not self.stopped:
            await asyncio.gather(*(self.write() for _ in range(3)))


async def delivered(whole: Pipeline) -> AsyncIterator[dict[str, str]]:
    """What the webhook was told, each once."""
    seen = set()
    for request in whole.sink.requests:
        body = json.loads(request.body)
        if body["id"] not in seen:
            seen.add(body["id"])
            yield body


async def quiet(whole: Pipeline) -> bool:
    views = await survey(whole.stores, topology.load(whole.config))
    return all(view.lag == view.pending == 0 for view in views.values())


async def dumped(whole: Pipeline, server: Server | Cluster) -> bytes:
    """All that Redis holds, in memory, in snapshots made now, and on its disks."""
    found = []
    for store in whole.stores:
        names = await store.command("KEYS", "*")
        found += [*names, *[await store.command("DUMP", name) or b"" for name in names]]
        await store.command("SAVE")
    return b"\n".join([*found, *(path.read_bytes() for path in server.folder.rglob("*") if path.is_file())])


@pytest.mark.parametrize("shards", sometimes([1, 3], [3]))
async def test_while_she_writes_and_workers_die(each_binary: str, shards: int) -> None:
    server = Server(each_binary, "--appendonly", "yes", "--appendfsync", "everysec")
    try:
        await erased_from(server, shards)
    finally:
        server.stop()


async def test_so_it_is_on_a_cluster() -> None:
    with Ground(binary("redis-server")) as ground:
        cluster = Cluster(ground, "appendonly yes", "rdbcompression no", replicas=False)
        await erased_from(cluster, 6)
        assert all(node.ask("DBSIZE") for node in cluster.masters)


async def erased_from(server: Server | Cluster, shards: int) -> None:
    async with pipeline(
        server, *PROCESSES, placement=f"shards = {shards}",
        MODEL="echo?latency=0.2", RATE_LIMIT_PER_MINUTE="0", DEBOUNCE="0.1",
    ) as whole:  # fmt: skip
        await erased_again_and_again(whole, server)


async def erased_again_and_again(whole: Pipeline, server: Server | Cluster) -> None:
    ana, *others = writers = [Writer(whole, person) for person in (ANA, *OTHERS)]
    writing = [asyncio.create_task(writer.go_on()) for writer in writers]

    async def written(count: int) -> bool:
        for task in writing:
            assert not task.done(), task.exception()
        return len(ana.accepted) >= count

    gone: dict[str, str] = {}
    new = 0
    for victim in ("inference", "egress", "inference2"):
        seen = len(ana.accepted) + 12
        await until(lambda seen=seen: written(seen))  # type: ignore[misc]
        killing = asyncio.create_task(whole.kill(victim))
        gone |= ana.accepted
        async with whole.session.delete(f"{whole.url}/chat/{ANA}") as response:
            receipt = await response.json()
            assert response.status == 200, receipt
        assert receipt["status"] == "erased", receipt
        assert receipt["counts"]["inbound"] > 0
        heard, new = len(whole.sink.requests), ana.asked
        await killing
        await whole.start(victim)
        # What was before is nowhere, though she goes on
        data = await dumped(whole, server)
        assert [text for text in gone.values() if text.encode() in data] == []
        assert [id for id in gone if id.encode() in data] == []
        await until(lambda seen=seen: written(seen + 24))  # type: ignore[misc]
        after = [json.loads(request.body) for request in whole.sink.requests[heard:]]
        assert [body for body in after if gone.keys() & set(body["in_reply_to"])] == []
    for writer in writers:
        writer.stopped = True
    await asyncio.gather(*writing)  # who hung up on a reply it had claimed would miss it
    await until(lambda: quiet(whole), within=60)

    answers: Counter[str] = Counter()
    async for body in delivered(whole):
        answers.update(body["in_reply_to"])
    # The others have lost nothing, and each was answered once
    for writer in others:
        mine = {id: answers[id] + (id in writer.replied) for id in writer.accepted}
        assert [id for id, count in mine.items() if count != 1] == []
        assert writer.told["erased"] == 0
    # And so was she, for all that she wrote after she had been erased
    last = [id for id in ana.accepted if id in {message_id(ANA, number) for number in range(new + 1, ana.asked + 1)}]
    assert len(last) > 10
    assert [id for id in last if answers[id] + (id in ana.replied) != 1] == []

    async with whole.session.delete(f"{whole.url}/chat/{ANA}") as response:
        assert (await response.json())["status"] == "erased"
    data = await dumped(whole, server)
    assert [part for part in [ANA[1:].encode(), b"palabra-5678", *BASE64] if part in data] == []
    assert await quiet(whole)
