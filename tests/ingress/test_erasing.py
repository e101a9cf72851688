"""DELETE /chat/{user_id}, asked over HTTP."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from conftest import Server
from waiting import until

from streams.connection import Store
from tests.ingress.front import ANA, OPERATOR, TOKEN, Front, Puppet, a_topology, entries, front, secret

LUIS = "+59187654321"


def told() -> Any:
    """With a handler that can be imported, for it is asked what it keeps elsewhere."""
    top = a_topology()
    top.groups["g"].handler = "processors.egress.handler:deliver"
    return top


def at(path: Path) -> dict[str, Any]:
    return {"data_dir": path}


async def erase(front: Front, user_id: str = ANA, **headers: str) -> tuple[int, Any]:
    return (await front.ask("DELETE", f"/chat/{user_id}", headers=headers))[:2]


async def test_a_person_is_erased_in_any_spelling_and_the_answer_is_the_receipt(store: Store, tmp_path: Path) -> None:
    async with front(store, told(), **at(tmp_path)) as here:
        await here.say("Hola", "m1")
        await here.say("Hola", "m2", user_id=LUIS)
        status, receipt = await erase(here, "591%20123-45678")
        assert (status, receipt["status"], receipt["left"], receipt["counts"]["inbound"]) == (200, "erased", [], 1)
        assert ANA[1:] not in str(receipt)
        assert [entry["key"] for entry in await entries(store)] == [LUIS]
        # Again, and of somebody whom nobody knows: 200, and nothing there
        for user_id in (ANA, "web-42"):
            status, receipt = await erase(here, user_id)
            assert (status, receipt["status"], sum(receipt["counts"].values())) == (200, "erased", 0)
        # What is repeated is a repeat for as long as ever, and what is new is taken
        assert (await here.say("Hola", "m1"))["duplicate"] is True
        assert (await here.say("Otra", "m3"))["duplicate"] is False
        assert [entry["key"] for entry in await entries(store)] == [LUIS, ANA]


async def test_a_request_that_waits_is_told_so_at_once_and_so_is_its_repeat(store: Store, tmp_path: Path) -> None:
    await (await Puppet(store, told()).start()).turns.beat([])

    async def waits() -> bool:
        return bool(await store.command("HLEN", "waiting:inbound"))

    async with front(store, told(), **at(tmp_path)) as here:
        asking = asyncio.create_task(here.say("Hola", "m1", Prefer="wait=50"))
        await until(waits)
        _, receipt = await erase(here)
        assert receipt["counts"]["requests_waiting"] == 1
        answer = await asking
        assert (answer["http"], answer["status"], "reply" in answer) == (200, "erased", False)
        again = await here.say("Hola", "m1", Prefer="wait=50")
        assert (again["http"], again["status"], again["duplicate"]) == (200, "erased", True)


async def test_only_operators_may(store: Store, tmp_path: Path) -> None:
    tokens = {"ingress_tokens": secret(TOKEN), "operator_tokens": secret(OPERATOR)}
    async with front(store, told(), **tokens, **at(tmp_path)) as here:
        assert (await erase(here))[0] == 401
        status, refused = await erase(here, Authorization=f"Bearer {TOKEN}")
        assert (status, refused["error"]) == (403, "operator_only")
        status, refused = await erase(here, Authorization=f"Bearer {OPERATOR}", Origin="https://elsewhere.example")
        assert (status, refused["error"]) == (403, "foreign_origin")
        assert (await erase(here, Authorization=f"Bearer {OPERATOR}"))[0] == 200
        assert (await erase(here, "%00", Authorization=f"Bearer {OPERATOR}"))[0] == 400


async def test_without_redis_it_is_503_and_to_be_repeated(own_server: Server, tmp_path: Path) -> None:
    store = Store.open(own_server.url, patience=0.1)
    async with front(store, told(), **at(tmp_path)) as here:
        own_server.kill()
        status, refused, headers = await here.ask("DELETE", f"/chat/{ANA}")
        assert (status, refused["error"]) == (503, "redis_unavailable")
        assert int(headers["retry-after"]) > 0
    await store.close()
