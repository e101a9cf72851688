"""A message's whole way, through real processes: HTTP in, a signed webhook out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from conftest import Server
from pipeline import SECRET, pipeline, superseding, texts
from standardwebhooks import Webhook
from waiting import until

pytestmark = pytest.mark.slow

RECORDINGS = Path(__file__).parent / "recordings"
ANA = "+59112345678"


async def test_a_message_comes_back_as_a_signed_webhook(own_server: Server) -> None:
    async with pipeline(own_server, OUTBOUND_HEADER="X-Clinic: blue") as whole:
        accepted = await whole.say("591 123-456-78", "Hola", "m1")
        assert accepted["status"] == "accepted"
        assert accepted["user_id"] == ANA
        [delivery] = await whole.sink.received(1)
    # Then an independent implementation of Standard Webhooks accepts it, and n8n's two other ways would
    Webhook(SECRET).verify(delivery.body, delivery.headers)
    assert delivery.headers["x-clinic"] == "blue"
    body = json.loads(delivery.body)
    assert body["id"] == delivery.headers["webhook-id"] == f"reply_{accepted['entry_id']}"
    assert (body["type"], body["source"], body["user_id"], body["wa_id"]) == ("reply", "model", ANA, "59112345678")
    assert (body["message"], body["in_reply_to"], body["part"], body["parts"]) == ("Hola", ["m1"], 1, 1)


async def test_a_request_that_waits_gets_the_reply_and_the_webhook_does_not(own_server: Server) -> None:
    async with pipeline(own_server, DEBOUNCE="5") as whole:
        first = await whole.say(ANA, "Hola", "m1", Prefer="wait=20")
        assert (first["status"], first["reply"]) == ("replied", "Hola")
        # The same message_id again returns it again
        again = await whole.say(ANA, "Hola", "m1", Prefer="wait=20")
        assert (again["status"], again["reply"]) == ("replied", "Hola")
        assert again["entry_id"] == first["entry_id"]
        # What comes after it goes by the webhook, alone
        await whole.say(ANA, "Gracias", "m2")
        assert texts(await whole.sink.received(1)) == ["Gracias"]


async def test_who_waited_where_there_is_no_webhook_has_been_answered_and_the_timeline_says_so(
    own_server: Server,
) -> None:
    async with pipeline(own_server, OUTBOUND_URL="") as whole:
        assert (await whole.say(ANA, "Hola", "m1", Prefer="wait=20"))["reply"] == "Hola"
        await whole.say(ANA, "Gracias", "m2")

        async def came_of(message_id: str, outcome: str, by: str) -> bool:
            async with whole.session.get(f"{whole.url}/timeline/{message_id}?user={ANA[1:]}") as answer:
                told = await answer.json()
            of_egress = {step["kind"] for step in told["steps"]} & {"claimed", "posted", "unsent"}
            return bool(told["outcome"] == outcome and of_egress == {by})

        await until(lambda: came_of("m1", "delivered", "claimed"))
        await until(lambda: came_of("m2", "unsent", "unsent"))


async def test_who_asks_again_while_answered_is_answered_once_to_both(own_server: Server, short_path: Path) -> None:
    async def in_work() -> bool:
        return bool(await whole.store.command("HLEN", "group:inference:leases"))

    config = superseding(short_path)
    names = ["ingress", "inference", "inference2", "egress"]
    async with pipeline(own_server, *names, config=config, MODEL="echo?latency=2", DEBOUNCE="5") as whole:
        # Given a request that waits for its reply, and one more of the same person
        first = asyncio.create_task(whole.say(ANA, "Una cita", "m1", Prefer="wait=20"))
        await until(in_work)
        second = await whole.say(ANA, "para el martes", "m2", Prefer="wait=20")
        # Then one has the text, without a window, and the other is told who
        assert (second["status"], second["reply"]) == ("replied", "Una cita\npara el martes")
        merged = await first
        assert (merged["status"], merged["into"]) == ("merged", second["entry_id"])
        history = await whole.conversation(ANA)
        assert history is not None
        assert [each["role"] for each in history["messages"]] == ["user", "user", "assistant"]
        assert whole.sink.requests == []


async def test_what_is_typed_within_the_window_is_answered_once(own_server: Server) -> None:
    async with pipeline(own_server, DEBOUNCE="1") as whole:
        for number in range(5):
            await whole.say(ANA, f"línea {number}", f"m{number}")
        [delivery] = await whole.sink.received(1)
        assert json.loads(delivery.body)["in_reply_to"] == [f"m{number}" for number in range(5)]
        await whole.say(ANA, "otra", "m5", Prefer="wait=20")
        assert len(whole.sink.requests) == 1


async def test_the_conversation_lies_in_redis_as_the_original_describes_it(own_server: Server) -> None:
    async with pipeline(own_server) as whole:
        await whole.say(ANA, "Hola, necesito una cita", "m1", Prefer="wait=20")
        stored = json.loads(await whole.store.command("GET", f"conversation:{ANA}"))
        meta = json.loads(await whole.store.command("GET", f"conversation_meta:{ANA}"))
        for key in ("conversation", "conversation_meta"):
            assert 3_590_000 < await whole.store.command("PTTL", f"{key}:{ANA}") <= 3_600_000
        assert 0 < await whole.store.command("PTTL", f"rate_limit:{ANA}") <= 60_000
        assert await whole.conversation(ANA) == stored
        assert await whole.conversation("+59100000000") is None
    assert list(stored) == [
        "conversation_id", "user_id", "status", "created_at", "updated_at", "messages", "metadata",
    ]  # fmt: skip
    assert [(each["role"], each["content"]) for each in stored["messages"]] == [
        ("user", "Hola, necesito una cita"),
        ("assistant", "Hola, necesito una cita"),
    ]
    assert list(stored["messages"][0]) == ["message_id", "role", "content", "timestamp", "metadata"]
    assert meta == {"last_activity": stored["updated_at"], "message_count": 2}


async def test_the_same_id_from_two_people_is_two_messages_and_a_repeat_is_none(own_server: Server) -> None:
    async with pipeline(own_server) as whole:
        for person in (ANA, "web-42"):
            assert (await whole.say(person, "Hola", "same"))["duplicate"] is False
        repeat = await whole.say(ANA, "Hola", "same")
        assert repeat["duplicate"] is True
        status, error = await whole.post("/chat", {"user_id": ANA, "message": "Otra cosa", "message_id": "same"})
        assert (status, error["error"]) == (409, "message_id_reused")
        assert len(await whole.sink.received(2)) == 2
        assert await whole.store.command("XLEN", "inbound") == 2


async def test_each_payload_meta_documents_is_taken_and_the_pipeline_lives_on(own_server: Server) -> None:
    async with pipeline(own_server) as whole:
        for number, path in enumerate(sorted(RECORDINGS.glob("[0-9]*.json"))):
            status, answer = await whole.post("/whatsapp", json.loads(path.read_text()))
            assert status == 200, path.name
            assert answer["accepted"] + answer["statuses"] + answer["ignored"] >= 1, path.name
            # Whatever it was, the next message is answered
            told = await whole.say(f"+1999{number}", f"sigues ahí {number}", f"m{number}", Prefer="wait=20")
            assert told["reply"] == f"sigues ahí {number}", path.name


async def test_while_paused_the_bot_is_silent_and_the_history_goes_on(own_server: Server) -> None:
    async with pipeline(own_server) as whole:
        status, answer = await whole.post(f"/chat/{ANA}/pause", {})
        assert (status, answer["paused"]) == (200, True)
        assert (await whole.say(ANA, "¿Hay alguien?", "m1", Prefer="wait=20"))["status"] == "paused"
        staff = {"role": "assistant", "message": "Soy Rosa, de recepción.", "send": True}
        assert (await whole.post(f"/chat/{ANA}/messages", staff))[0] == 202
        assert texts(await whole.sink.received(1)) == ["Soy Rosa, de recepción."]
        await whole.post(f"/chat/{ANA}/resume", {})
        assert (await whole.say(ANA, "Gracias", "m2", Prefer="wait=20"))["status"] == "replied"
        history = await whole.conversation(ANA)
    assert history is not None
    assert [each["content"] for each in history["messages"]] == [
        "¿Hay alguien?", "Soy Rosa, de recepción.", "Gracias", "Gracias",
    ]  # fmt: skip


async def test_over_the_limit_a_person_is_told_once_and_everything_is_recorded(own_server: Server) -> None:
    async with pipeline(own_server, RATE_LIMIT_PER_MINUTE="3") as whole:
        answers = [await _ask(whole, number) for number in range(5)]
        history = await whole.conversation(ANA)
    assert [status for status, _ in answers] == [200, 200, 200, 429, 429]
    assert answers[3][1]["reply"].startswith("Estás enviando muchos mensajes")
    assert answers[4][1]["detail"] == "Demasiadas solicitudes"
    assert not answers[4][1].get("reply")
    assert history is not None
    assert [each["content"] for each in history["messages"] if each["role"] == "user"] == list("01234")


async def _ask(whole: object, number: int) -> tuple[int, dict[str, str]]:
    body = {"user_id": ANA, "message": f"{number}", "message_id": f"m{number}"}
    return await whole.post("/chat", body, Prefer="wait=20")  # type: ignore[attr-defined, no-any-return]


async def test_many_people_at_once_are_each_answered_once_and_in_order(own_server: Server) -> None:
    async with pipeline(own_server) as whole:
        for number in range(10):
            await asyncio.gather(*(whole.say(f"+5910000{p:04}", f"{p}-{number}", f"{number}") for p in range(20)))
        async with asyncio.timeout(60):
            while (await _answered(whole)) < 200:
                await whole.sink.received(len(whole.sink.requests) + 1)
        said: dict[str, list[str]] = {}
        for delivery in whole.sink.requests:
            body = json.loads(delivery.body)
            said.setdefault(body["user_id"], []).extend(body["in_reply_to"])
    assert said == {f"+5910000{p:04}": [f"{n}" for n in range(10)] for p in range(20)}


async def _answered(whole: object) -> int:
    return sum(len(json.loads(each.body)["in_reply_to"]) for each in whole.sink.requests)  # type: ignore[attr-defined]
