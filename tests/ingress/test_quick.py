"""A request that is taken past the routes is answered as they would have answered it."""

from __future__ import annotations

import gc
import re
from typing import Any

import pytest

from ingress import chat, quick
from ingress.brief import Answer, Brief
from streams.connection import Store
from tests.ingress.front import ANA, OPERATOR, TOKEN, Front, a_topology, entries, front, secret

BY_THE_ROUTE = {"Prefer": "nothing-that-is-known"}
OK: dict[str, Any] = {"user_id": ANA, "message": "hola", "message_id": "m"}
AUTH = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each POST /chat, whether its headers were the usual ones."""
    seen: list[bool] = []
    usual = quick._usual

    def watched(headers: Any) -> Any:
        found = usual(headers)
        seen.append(found is not None)
        return found

    monkeypatch.setattr(quick, "_usual", watched)
    return seen


async def answered(door: Front, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
    how = {"data": body} if isinstance(body, bytes) else {"json": body}
    status, told, named = await door.ask(
        "POST", "/chat", headers={"Content-Type": "application/json", **headers}, **how
    )
    if isinstance(told, dict):
        told = {name: value for name, value in told.items() if name != "entry_id"}
    return status, told, {name: value for name, value in named.items() if name not in ("date", "content-length")}


async def counted(door: Front) -> float:
    """Answers of 202 at /chat."""
    page = (await door.get("/metrics"))[1]
    found = re.search(r'^cauce_http_requests_total{route="/chat",status="202"} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (OK, AUTH, 202),
        (OK, {"X-API-Key": TOKEN}, 202),
        (OK, {"X-API-Key": OPERATOR}, 202),
        (OK | {"metadata": {"a": [1]}}, AUTH, 202),
        (OK, {}, 401),
        (OK, {"Authorization": "Bearer wrong"}, 401),
        (OK, {"Authorization": f"Basic {TOKEN}"}, 401),
        (OK, AUTH | {"Content-Type": "text/plain"}, 415),
        (OK, AUTH | {"Content-Type": "application/json; charset=latin-1"}, 415),
        (OK, AUTH | {"Content-Encoding": "gzip"}, 415),
        (OK, AUTH | {"Origin": "https://elsewhere.example"}, 403),
        (b"{", AUTH, 400),
        (b"", AUTH, 400),
        (OK | {"message": " "}, AUTH, 400),
        (OK | {"user_id": "a/b"}, AUTH, 400),
        (OK | {"message_id": "\n"}, AUTH, 400),
        (OK | {"message": "x" * 70_000}, AUTH, 413),
    ],
)
async def test_it_is_what_the_route_would_have_said(store: Store, body: Any, headers: Any, status: int) -> None:
    async with front(store, ingress_tokens=secret(TOKEN), operator_tokens=secret(OPERATOR)) as door:
        first = await answered(door, body, **headers)
        await store.command("FLUSHALL")
        assert first == await answered(door, body, **headers, **BY_THE_ROUTE)
        assert first[0] == status


async def test_the_usual_is_taken_and_the_unusual_left_to_the_route(store: Store, taken: list[bool]) -> None:
    async with front(store) as door:
        for more in ({}, {"traceparent": "00-" + "a" * 32 + "-" + "b" * 16 + "-01"}, {"User-Agent": "n8n"}):
            assert (await answered(door, OK | {"message_id": str(len(taken))}, **more))[0] == 202
        assert taken == [True] * 3
        for more in ({"Prefer": "wait=0"}, {"Idempotency-Key": "of-the-header"}, {"Origin": door.url}):
            assert (await answered(door, {"user_id": ANA, "message": "hola"}, **more))[0] == 202
        assert taken[3:] == [False] * 3
        assert [entry["trace"] for entry in await entries(store)][1] == "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
        # Without tokens, only this machine
        foreign = await answered(door, OK, Host="elsewhere.example")
        assert (foreign[0], foreign[1]["error"]) == (403, "foreign_host")


async def test_what_goes_wrong_while_it_is_appended_is_said_as_by_the_route(store: Store) -> None:
    async with front(store, a_topology(streams={"inbound": {"max_len": 1}})) as door:
        before = await counted(door)
        assert (await answered(door, OK))[0] == 202
        for body, status in ((OK | {"message": "adiós"}, 409), (OK | {"message_id": "n"}, 503)):
            first = await answered(door, body)
            assert (first[0], first) == (status, await answered(door, body, **BY_THE_ROUTE))
        assert (await answered(door, OK))[1]["duplicate"]
        # And it is counted under its route
        assert await counted(door) == before + 2


async def test_a_mistake_of_ours_is_answered_on_either_side_of_the_append(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with front(store) as door:
        for name in ("arrival_of", "note"):
            with monkeypatch.context() as patched:
                patched.setattr(chat, name, lambda *_: 1 / 0)
                status, told, _ = await answered(door, OK | {"message_id": name})
                assert (status, told["error"]) == (500, "internal")
        assert (await answered(door, OK))[0] == 202


async def test_nothing_of_a_request_waits_for_the_garbage_collector(store: Store) -> None:
    async with front(store) as door:
        assert (await answered(door, OK))[0] == 202
        gc.collect()
        gc.set_debug(gc.DEBUG_SAVEALL)
        try:
            for message_id in ("a", "b", "m"):
                assert (await answered(door, OK | {"message_id": message_id}))[0] == 202
            assert (await answered(door, OK | {"message": "adiós"}))[0] == 409
            gc.collect()
            assert [each for each in gc.garbage if isinstance(each, (Brief, Answer))] == []
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
