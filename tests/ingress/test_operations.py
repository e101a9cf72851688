"""What operators ask."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import Server
from counts import count
from prometheus_client.parser import text_string_to_metric_families
from sources import command

from ingress import openapi
from streams import cli, metrics
from streams.connection import Store
from tests.ingress.front import ANA, OPERATOR, TOKEN, Puppet, a_topology, front, secret


async def test_health_shows_each_group_and_says_what_is_wrong(store: Store) -> None:
    async with front(store) as door:
        status, picture = await door.get("/health")
        assert (status, picture["status"], picture["redis"]) == (200, "degraded", "ok")
        assert picture["reasons"] == ["group g has no worker"]
        puppet = await Puppet(store).start()
        await puppet.turns.take(0, 0, 1)
        await door.say("Hola")
        status, picture = await door.get("/health")
    assert (status, picture["status"], picture["reasons"]) == (200, "ok", [])
    assert (picture["groups"]["g"]["workers"], picture["groups"]["g"]["lag"]) == (1, 1)


async def test_an_ingress_that_cannot_take_messages_is_not_ready_and_lives(store: Store) -> None:
    async with front(store, a_topology(streams={"inbound": {"max_len": 1}})) as door:
        assert await door.get("/health/ready") == (200, {"status": "ready"})
        await door.say("Hola")
        status, answer = await door.get("/health/ready")
        assert (status, answer["error"]) == (503, "not_ready")
        assert "max_len" in answer["detail"]
        status, picture = await door.get("/health")
        assert (status, picture["redis"], picture["error"]) == (503, "full", "not_ready")
        assert await door.get("/health/live") == (200, {"status": "live"})


async def test_a_redis_that_is_nearly_full_makes_it_unready(store: Store) -> None:
    async with front(store) as door:
        await store.command("CONFIG", "SET", "maxmemory", "1")
        try:
            status, answer = await door.get("/health/ready")
        finally:
            await store.command("CONFIG", "SET", "maxmemory", "0")
        assert (status, answer["error"]) == (503, "not_ready")
        assert (await door.get("/health/ready"))[0] == 200
        assert (await door.say("Hola"))["http"] == 202


async def without(server: Server, store: Store, command: str) -> Store:
    """The same Redis for a user who may not use a command."""
    rules = ["reset", "on", "nopass", "~*", "&*", "+@all", f"-{command}"]
    await store.command("ACL", "SETUSER", "front", *rules)
    return Store.open(server.url.replace("unix://", "unix://front:any@"))


async def test_a_user_without_info_is_ready_for_redis_takes_its_messages(any_server: Server, store: Store) -> None:
    limited = await without(any_server, store, "info")
    async with front(limited) as door:
        assert await door.get("/health/ready") == (200, {"status": "ready"})
        status, picture = await door.get("/health")
        assert (status, picture["redis"]) == (200, "ok")
        assert (await door.say("Hola"))["http"] == 202
        assert (await door.get("/redis/test"))[1]["version"] is None
    await limited.close()


async def test_a_redis_that_refuses_is_not_called_full(any_server: Server, store: Store) -> None:
    limited = await without(any_server, store, "set")
    async with front(limited) as door:
        status, picture = await door.get("/health")
        assert (status, picture["redis"], picture["error"]) == (503, "refusing", "not_ready")
        assert "Redis does not take writes" in picture["detail"]
    await limited.close()


async def test_a_redis_that_is_full_is_called_so(store: Store) -> None:
    async with front(store) as door:
        await store.command("CONFIG", "SET", "maxmemory", "1")
        try:
            status, picture = await door.get("/health")
        finally:
            await store.command("CONFIG", "SET", "maxmemory", "0")
        assert (status, picture["redis"]) == (503, "full")
        assert "maxmemory" in picture["detail"]


async def test_readiness_leaves_no_key_behind(store: Store) -> None:
    async with front(store) as door:
        await door.get("/health/ready")
        await door.get("/redis/test")
    assert await store.command("DBSIZE") == 0


async def test_model_info_is_what_the_workers_published(store: Store) -> None:
    told = {"name": "demo", "dtype": "float32", "device": "cpu", "parameters": 7, "context_length": 512}
    async with front(store) as door:
        assert await door.get("/model/info") == (200, dict.fromkeys(told) | {"workers": 0})
        for worker in ("a", "b"):
            await store.command("SET", f"model:{worker}", json.dumps(told))
        assert await door.get("/model/info") == (200, told | {"workers": 2})
        await store.command("SET", "model:c", json.dumps(told | {"name": "other"}))
        _, answer = await door.get("/model/info")
    assert (answer["name"], answer["workers"]) == ("demo", 3)
    assert [each["name"] for each in answer["others"]] == ["other"]


async def test_workers_of_one_model_are_one_however_much_each_has_to_do(store: Store) -> None:
    told = {"name": "demo", "dtype": "float32", "device": "cpu", "parameters": 7, "context_length": 512}
    async with front(store) as door:
        for worker, running in (("a", 1), ("b", 3)):
            await store.command("SET", f"model:{worker}", json.dumps(told | {"running": running, "waiting": 1}))
        assert await door.get("/model/info") == (200, told | {"workers": 2, "running": 4, "waiting": 2})


async def test_metrics_are_prometheus_text_with_the_pipeline_s_gauges(store: Store) -> None:
    before = count(metrics.REQUESTS.labels("/chat", "202"))
    async with front(store) as door:
        await door.say("Hola")
        await door.get(f"/chat/history/{ANA}")
        _, text, headers = await door.ask("GET", "/metrics")
    assert headers["content-type"] == metrics.CONTENT_TYPE
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples[("cauce_group_lag", ("group", "g"))] == 1
    assert samples[("cauce_redis_memory_bytes",)] > 0
    assert samples[("cauce_http_requests_total", ("route", "/chat"), ("status", "202"))] == before + 1
    assert "/chat/history/{user_id}" in text
    assert ANA not in text


async def test_redis_test_tells_version_and_time(store: Store) -> None:
    async with front(store) as door:
        status, answer = await door.get("/redis/test")
    assert (status, answer["ok"]) == (200, True)
    assert answer["version"][0].isdigit()
    assert answer["latency_ms"] > 0


async def test_redis_stats_count_streams_groups_conversations_and_the_dead(store: Store) -> None:
    await Puppet(store).start()
    await store.command("SET", f"conversation:{ANA}", "{}")
    await store.command("XADD", "inbound.dead", "*", "key", "a")
    async with front(store) as door:
        await door.say("Hola")
        status, answer = await door.get("/redis/stats")
    assert status == 200
    assert answer["conversations"] == 1
    assert answer["streams"] == {
        "inbound": {"length": 1, "groups": {"g": {"lag": 1, "pending": 0}}},
        "outbound": {"length": 0, "groups": {}},
        "statuses": {"length": 0, "groups": {}},
    }
    assert answer["dead"] == {"inbound": 1, "outbound": 0, "statuses": 0}
    assert answer["memory_bytes"] > 0


async def test_conversations_are_listed_page_by_page(store: Store) -> None:
    people = {f"web-{n}" for n in range(1200)}
    await store.pipeline([("SET", f"conversation:{each}", "{}") for each in people])
    await store.pipeline([("SET", f"conversation_meta:{each}", "{}") for each in people])
    found: set[str] = set()
    cursor, pages = "", 0
    async with front(store) as door:
        while cursor != "0":
            status, page = await door.get(f"/redis/conversations?cursor={cursor}")
            assert status == 200
            found.update(page["user_ids"])
            cursor, pages = page["cursor"], pages + 1
        assert (await door.get("/redis/conversations?cursor=x"))[1]["error"] == "invalid_field"
        # Of a shard that is no more: there is nothing behind the last one
        assert (await door.get("/redis/conversations?cursor=5.9"))[1] == {"user_ids": [], "cursor": "0"}
    assert found == people
    assert pages > 1


@pytest.mark.slow
async def test_clear_deletes_our_keys_and_nobody_else_s(any_server, store: Store) -> None:
    theirs = [
        "foreign",
        "inbounds",
        "groups:x",
        "waiting",
        "digest:y",
        "bot2:conversation:+1",
        "conversations",
        "seen",
    ]
    await store.pipeline([("SET", key, "x") for key in theirs])
    await Puppet(store).start()
    await store.pipeline([("SET", f"conversation:web-{n}", "{}") for n in range(1200)])
    await store.command("XADD", "outbound.dead", "*", "key", "a")
    async with front(store) as door:
        await door.say("Hola", Prefer="wait=1")
        assert (await door.ask("DELETE", "/redis/clear"))[1]["error"] == "not_confirmed"
        status, answer, _ = await door.ask("DELETE", "/redis/clear?confirm=yes")
        assert (status, answer["deleted"] > 1200) == (200, True)
        left = {key.decode() for key in await store.command("KEYS", "*")}
        # Who waited may have left a bell that was rung; nothing else of ours is there
        assert left == set(theirs)
        # And the ingress goes on as on a new Redis
        assert (await door.say("Hola"))["http"] == 202


async def test_clear_keeps_to_its_namespace(any_server, store: Store) -> None:
    await store.pipeline([("SET", key, "x") for key in ("conversation:+1", "bot*:conversation:+1", "botany:waiting")])
    bot = Store.open(any_server.url, namespace="bot*")
    async with front(bot) as door:
        await door.say("Hola")
        await door.ask("DELETE", "/redis/clear?confirm=yes")
    await bot.close()
    assert set(await store.command("KEYS", "*")) == {b"conversation:+1", b"botany:waiting"}


async def test_keys_that_others_left_in_our_namespace_break_no_page(store: Store) -> None:
    told = {"name": "demo", "dtype": "float32", "device": "cpu", "parameters": 7, "context_length": 512}
    await store.pipeline(
        [
            ("SET", b"conversation:\xff", "{}"),
            *(("SET", f"model:{n}", value) for n, value in enumerate(("no JSON", "[1]", "{", b'{"\xff":1}'))),
            ("SET", "model:ours", json.dumps(told)),
            ("LPUSH", "model:list", "x"),
            ("LPUSH", f"conversation:{ANA}", "x"),
            ("SET", "outbound.dead", "x"),
        ]
    )
    async with front(store) as door:
        assert await door.get("/model/info") == (200, told | {"workers": 1})
        assert (await door.get(f"/chat/history/{ANA}"))[1]["error"] == "no_conversation"
        status, stats = await door.get("/redis/stats")
        assert (status, stats["dead"]["outbound"], stats["conversations"]) == (200, 0, 2)
        assert (await door.get("/redis/conversations"))[0] == 200
        assert (await door.ask("DELETE", "/redis/clear?confirm=yes"))[:2] == (200, {"deleted": 9})
    assert await store.command("DBSIZE") == 0


async def test_the_page_shows_state_groups_and_the_line_to_paste(store: Store) -> None:
    async with front(store) as door:
        status, page, headers = await door.ask("GET", "/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "Cauce is degraded" in page
    assert "group g has no worker" in page
    assert f"http://127.0.0.1:{door.port}/chat" in page
    assert "<script" not in page
    assert "INGRESS_TOKEN" not in page


async def test_what_the_page_names_is_there(store: Store) -> None:
    async with front(store) as door:
        _, page, _ = await door.ask("GET", "/")
        links = re.findall(r'href="([^"]+)"', page)
        assert {"/analytics", "/openapi.json", "/redis/stats"} < set(links)
        assert {(await door.ask("GET", link))[0] for link in links} == {200}
    named = re.findall("<code>([^<]+)</code>", page)
    assert len(named) > 5
    for verb, *words in map(str.split, named):
        if verb == "GET":
            assert (verb, words[0]) in openapi.OPERATIONS
            continue
        found: Any = command(cli.app)
        while hasattr(found, "commands"):
            found = found.commands[words.pop(0)]
        assert verb == "cauce"


async def test_a_host_name_cannot_write_into_the_page(store: Store) -> None:
    async with front(store, ingress_tokens=secret(TOKEN), operator_tokens=secret(OPERATOR)) as door:
        headers = {"Host": 'x"><b>y', "Authorization": f"Bearer {OPERATOR}"}
        _, page, _ = await door.ask("GET", "/", headers=headers)
    assert "<b>y" not in page
    assert "$INGRESS_TOKEN" in page
