"""What an operator asks of the command line, on a real Redis Cluster whose masters share the people."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import binary
from deployments import Alone, Cluster, Ground
from pipeline import CAUCE, ROOT, Pipeline, analytics_tables, pipeline
from waiting import until

from streams import topology
from streams.survey import survey

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

PEOPLE = [f"+5917000{number:04}" for number in range(20)]
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
COUNTING = re.findall(r"^\[groups\.(.+)\]$", analytics_tables(), re.MULTILINE)


@pytest.fixture
def ground() -> Iterator[Ground]:
    with Ground(binary("redis-server")) as ground:
        yield ground


async def cauce(whole: Pipeline, *words: str, status: int = 0, **environment: str) -> str:
    """What the command says."""
    child = await asyncio.create_subprocess_exec(
        str(CAUCE), "-c", str(whole.config), *words, cwd=whole.folder, env=whole.environment | environment,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await child.communicate()
    assert child.returncode == status, (words, out, error)
    return (out if status == 0 else error).decode()


async def asked(whole: Pipeline, *words: str, **environment: str) -> Any:
    """The same, as JSON."""
    return json.loads(await cauce(whole, *words, "--json", **environment))


async def spoken(whole: Pipeline) -> tuple[str, str]:
    """Everybody writes three times, and some by WhatsApp; once all groups are done, a wamid and an entry's id."""
    for number in range(3):
        await asyncio.gather(*(whole.say(person, f"mensaje {number}", f"m{number}") for person in PEOPLE))
    payloads = [
        json.loads((ROOT / "tests" / "recordings" / f"{name}.json").read_text("utf-8"))
        for name in ("batch_of_entries_and_users", "01_text")
    ]
    await whole.post("/whatsapp", payloads[0])
    status, answer = await whole.post("/whatsapp", payloads[1], traceparent=f"00-{TRACE}-00f067aa0ba902b7-01")
    assert status == 200

    async def done() -> bool:
        views = await survey(whole.stores, topology.load(whole.config))
        return all(view.lag == view.pending == 0 for view in views.values())

    await until(done)
    return payloads[1]["entry"][0]["changes"][0]["value"]["messages"][0]["id"], answer["entry_ids"][0]


async def length(whole: Pipeline, stream: str) -> int:
    """What lies in all shards."""
    return sum([await store.command("XLEN", store.keys.stream(stream)) for store in whole.stores])


def held(cluster: Cluster) -> dict[tuple[int, str], str]:
    """Every key of each master, and what it holds."""
    return {(node.port, name): node.ask("DUMP", name) for node in cluster.masters for name in node.ask("KEYS", "*")}


async def test_each_story_is_found_in_whatever_shard_it_is(ground: Ground) -> None:
    async with pipeline(Cluster(ground, replicas=False), placement="shards = 8") as whole:
        wamid, entry = await spoken(whole)
        # By WhatsApp's id, by somebody else's trace, by the entry's id: one story
        for id in (wamid, TRACE, entry):
            told = await asked(whole, "trace", id)
            assert (told["entry"], told["outcome"]) == (entry, "delivered")
        # Of each person theirs
        for person in PEOPLE[:4]:
            told = await asked(whole, "trace", person)
            assert [each["outcome"] for each in told["messages"]] == ["delivered"] * 3
            assert (await asked(whole, "trace", "m1", "--user", person, "--full"))["person"] == person
        # And of what nobody knows, where it was looked for
        for id in ("wamid.HBgLNTkxNzEyMzQ1NjcVAgASGBQzQTAy", "m99", "0" * 31 + "1"):
            assert "in the index of inbound" in await cauce(whole, "trace", id, status=1)


async def test_what_was_said_is_counted_replayed_and_carried_to_a_single_server(ground: Ground, tmp_path: Path) -> None:
    cluster = Cluster(ground, replicas=False)
    async with pipeline(
        cluster, "ingress", "inference", "egress", *COUNTING, streams=analytics_tables(), placement="shards = 8",
        DATA_DIR=str(tmp_path), RATE_LIMIT_PER_MINUTE="0",
    ) as whole:  # fmt: skip
        await spoken(whole)
        said, replies = await length(whole, "inbound"), await length(whole, "outbound")
        # Counts add up over the shards
        total = (await asked(whole, "stats"))["total"]
        assert (total["counts"]["messages_in"], total["counts"]["messages_out"]) == (said, replies)
        assert total["distinct"]["people"] == len(PEOPLE) + 3
        # What is replayed comes out the same, and no key of any master is another
        for name in list(whole.processes):
            await whole.stop(name)
        before = held(cluster)
        summary = (await asked(whole, "replay"))["summary"]
        assert summary["verdicts"]["same"] == summary["turns"] == replies
        # Nothing is left out of a file, also where a group takes each entry by itself
        for group, count in (("inference", said + replies), (COUNTING[0], said)):
            assert f"{count} entries" in await cauce(whole, "export", "--group", group, f"{tmp_path / group}.jsonl")
        assert held(cluster).items() <= before.items(), "but for what has ended by itself"
        assert {port for port, _ in before} == {node.port for node in cluster.masters}
        await to_a_single_server(whole, Alone(ground), tmp_path / "inference.jsonl", summary)


async def to_a_single_server(whole: Pipeline, alone: Alone, file: Path, summary: dict[str, Any]) -> None:
    whole.config.write_text(whole.config.read_text("utf-8").replace("shards = 8", ""), "utf-8")
    told = await cauce(whole, "import", str(file), "--yes", REDIS_URL=alone.url)
    assert "could not keep" not in told
    again = (await asked(whole, "replay", REDIS_URL=alone.url))["summary"]
    assert (again["verdicts"], again["turns"]) == (summary["verdicts"], summary["turns"])
    for person in PEOPLE[:4]:
        assert len((await asked(whole, "trace", person, REDIS_URL=alone.url))["messages"]) == 3
