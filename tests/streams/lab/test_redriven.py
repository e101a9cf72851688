"""Replies that died on their way and were put back: whoever looks back finds each once, as it was said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from clinic import ANA, Clinic
from conftest import Server
from protocol import redis_ms
from waiting import until

from streams import deadletters, wire
from streams.commands import transfer
from streams.commands.lab import Asked
from streams.connection import Store
from streams.deadletters import Letter, Wanted
from streams.effects import Handler, Turn
from streams.errors import Bury
from streams.wire import Reply
from streams.worker import Worker

MINE = {"handler": "mine:handle"}


@pytest.fixture
def clinic(store: Store, any_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Clinic:
    return Clinic(store, any_server, tmp_path, monkeypatch)


async def refused(turn: Turn) -> Any:
    raise Bury("the webhook is gone")


async def bury_replies(clinic: Clinic, count: int) -> list[Letter]:
    """Egress takes so many replies and buries them all; its dead letters."""
    found: list[Letter] = []

    async def all_of_them() -> bool:
        found[:] = [each async for each in deadletters.letters(clinic.store, "outbound", Wanted())]
        return len(found) >= count

    worker = Worker(clinic.store, clinic.topology, clinic.topology.group("egress"), Handler(handle=refused), None)
    running = asyncio.create_task(worker.run(5))
    try:
        await until(all_of_them)
    finally:
        worker.stop()
        await running
    return found


async def put_back(clinic: Clinic, letters: Sequence[Letter]) -> None:
    became = await deadletters.redrive(clinic.store, "outbound", [[each.id] for each in letters], max_len=1000)
    assert {each.outcome for each in became} == {"done"}


async def three_replies_put_back_twice(clinic: Clinic) -> None:
    async with clinic.open():
        for text in ("uno", "dos", "tres"):
            await clinic.say(ANA, text)
    for _ in range(2):
        await put_back(clinic, await bury_replies(clinic, 3))
    assert await clinic.store.command("XLEN", "outbound") == 9


def recalling(clinic: Clinic) -> None:
    clinic.handler(
        "past = history.recall(turn)\nreturn answer('|'.join(each.content for each in past.conversation.messages))",
        recall='("conversation", "conversation_meta")', lifespan="opened", retell="retell",
    )  # fmt: skip


FOUND = ["", "uno|uno", "uno|uno|dos|dos"]


async def test_a_reply_that_was_put_back_is_the_same_reply_also_in_what_was_said_before(clinic: Clinic) -> None:
    await three_replies_put_back_twice(clinic)
    outcome = await clinic.replay()
    assert (outcome.verdicts, outcome.texts("then"), outcome.status) == (["same"] * 3, ["uno", "dos", "tres"], 0)
    recalling(clinic)
    assert (await clinic.replay(changes=MINE, history="original")).texts() == FOUND


async def test_where_only_what_was_put_back_is_left_it_is_the_reply(clinic: Clinic) -> None:
    await three_replies_put_back_twice(clinic)
    [(original, _), *_] = await clinic.store.command("XRANGE", "outbound", "-", "+")
    last = (await clinic.store.command("XREVRANGE", "inbound", "+", "-"))[0][0].decode()
    await clinic.store.command("XTRIM", "outbound", "MAXLEN", 3)
    for until_id in (None, last):
        outcome = await clinic.replay(until=until_id)
        assert (outcome.verdicts, outcome.texts("then")) == (["same"] * 3, ["uno", "dos", "tres"])
    # In a file it has the id of the one that is gone
    file = clinic.folder / "some.jsonl"
    await transfer.export(clinic.place, Asked(), file, pseudonyms=False)
    lines = [json.loads(line) for line in file.read_text().splitlines()[1:]]
    assert next(each["id"] for each in lines if each["stream"] == "outbound") == original.decode()


@pytest.mark.slow
@pytest.mark.parametrize("pseudonyms", [False, True], ids=["as it was", "with pseudonyms"])
async def test_a_file_has_each_reply_once_and_one_of_before_is_read_so(clinic: Clinic, pseudonyms: bool) -> None:
    await three_replies_put_back_twice(clinic)
    file = clinic.folder / "some.jsonl"
    await transfer.export(clinic.place, Asked(), file, pseudonyms=pseudonyms)
    lines = file.read_text().splitlines()
    replies = [line for line in lines[1:] if '"stream":"outbound"' in line]
    assert len(replies) == 3
    # Given a file of before, in which nothing but the body tells that a reply is there twice
    ids = [json.loads(line)["id"] for line in replies]
    after = int(ids[-1].partition("-")[0]) + 1000
    again = [
        line.replace(f'"id":"{id}"', f'"id":"{after}-{n}"', 1)
        for n, (id, line) in enumerate(zip(ids, replies, strict=True))
    ]
    older = clinic.folder / "older.jsonl"
    older.write_text("\n".join([*lines, *again]) + "\n")
    recalling(clinic)
    for each in (file, older):
        assert (await clinic.replay(file=str(each))).verdicts == ["same"] * 3
        assert (await clinic.replay(file=str(each), changes=MINE, history="original")).texts() == FOUND


async def test_what_was_put_back_a_day_after_the_range_is_the_reply_where_the_other_was_cut(clinic: Clinic) -> None:
    at = await redis_ms(clinic.store) - 86_400_000
    asked = await clinic.write(ANA, "Hola", at=f"{at}-0")
    body = wire.encode(Reply(id=f"reply_{asked}", user_id=ANA, message="Hola", created_at=""))
    fields = ("key", ANA, "type", "reply", "body", body, "v", "1", "trace", "")
    await clinic.store.command("XADD", "outbound", f"{at + 5}-0", *fields)
    await clinic.store.command("XADD", "outbound", "*", "for", "egress", "origin", f"{at + 5}-0", *fields)
    await clinic.store.command("XTRIM", "outbound", "MAXLEN", 1)
    outcome = await clinic.replay(since="start", until=str(at + 10))
    assert (outcome.verdicts, outcome.texts("then")) == (["same"], ["Hola"])
