"""POST /chat and its neighbours, over a real socket."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import msgspec
import pytest

from streams import wire
from streams.connection import Store
from tests.ingress.front import ANA, RECORDINGS, a_topology, entries, front


async def inbounds(store: Store) -> list[wire.Inbound]:
    return [msgspec.json.decode(entry["body"], type=wire.Inbound) for entry in await entries(store)]


async def test_a_message_is_accepted_once_redis_has_it(store: Store) -> None:
    async with front(store) as door:
        status, answer = await door.post(
            "/chat", {"user_id": "591 123-45678", "message": "Hola", "message_id": "m1", "metadata": {"a": [1, None]}}
        )
        [entry] = await entries(store)
        [inbound] = await inbounds(store)
    assert status == 202
    assert answer == {"status": "accepted", "entry_id": answer["entry_id"], "user_id": ANA, "message_id": "m1",
                      "duplicate": False}  # fmt: skip
    assert (entry["key"], entry["type"], entry["v"]) == (ANA, "text", "1")
    assert inbound == wire.Inbound(user_id=ANA, message_id="m1", text="Hola", metadata={"a": [1, None]})


async def test_a_repeat_gets_the_first_entry_and_another_text_is_a_conflict(store: Store) -> None:
    async with front(store) as door:
        first = await door.say("Hola", "m1")
        again = await door.say("Hola", "m1", user_id="59112345678")
        conflict = await door.say("Adiós", "m1")
        other = await door.say("Adiós", "m1", user_id="web-42")
        assert len(await entries(store)) == 2
    assert (again["http"], again["duplicate"], again["entry_id"]) == (202, True, first["entry_id"])
    assert (conflict["http"], conflict["error"], conflict["entry_id"]) == (409, "message_id_reused", first["entry_id"])
    assert other["duplicate"] is False


async def test_without_an_id_every_request_is_a_message_of_its_own(store: Store) -> None:
    async with front(store) as door:
        ids = {(await door.say("Hola"))["message_id"] for _ in range(3)}
        assert len(ids) == len(await entries(store)) == 3
        # and the id that was made can be repeated with
        assert (await door.say("Hola", ids.pop()))["duplicate"] is True


async def test_the_id_may_be_a_header_and_the_body_s_wins(store: Store) -> None:
    async with front(store) as door:
        key = {"Idempotency-Key": "k1"}
        assert (await door.say("Hola", **key))["message_id"] == "k1"
        assert (await door.say("Hola", **{"Idempotency-Key": '"k1"'}))["duplicate"] is True
        assert (await door.say("Hola", "m1", **key))["message_id"] == "m1"
        # One that can be none is a mistake of the sender's, which the next request without an id would suffer from
        assert (await door.say("Hola", "m1", **{"Idempotency-Key": "k" * 257}))["error"] == "invalid_field"


async def test_the_caller_s_trace_goes_on_and_a_wrong_one_does_not(store: Store) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with front(store) as door:
        await door.say("Hola", traceparent=trace)
        await door.say("Hola", traceparent="nonsense")
        traces = [entry["trace"] for entry in await entries(store)]
    assert traces[0] == trace
    assert wire.trace_from(traces[1]) == traces[1]


async def test_a_text_is_kept_as_it_is_whatever_it_looks_like(store: Store) -> None:
    said = ["</s> <|im_start|>system", "¡Ñandú! 🙂", "{{ 1 }}", "a\nb\tc", "\u202eatrás", "x" * 60_000]
    async with front(store) as door:
        for text in said:
            assert (await door.say(text))["http"] == 202
        assert [each.text for each in await inbounds(store)] == said


async def test_half_an_emoji_is_no_reason_to_refuse_the_rest(store: Store) -> None:
    async with front(store) as door:
        status, _ = await door.post("/chat", b'{"user_id":"web-1","message":"Gracias \\ud83d"}')
        assert (status, (await inbounds(store))[0].text) == (202, "Gracias ?")


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({}, "user_id"),
        ({"user_id": ANA}, "message"),
        ({"user_id": 59112345678, "message": "x"}, "$.user_id"),
        ({"user_id": ANA, "message": ["x"]}, "$.message"),
        ({"user_id": ANA, "message": None}, "$.message"),
        ({"user_id": ANA, "message": "  \n"}, "`message`"),
        ({"user_id": ANA, "message": "a\0b"}, "`message`"),
        ({"user_id": ANA, "message": "x", "message_id": 7}, "$.message_id"),
        ({"user_id": ANA, "message": "x", "message_id": ""}, "`message_id`"),
        ({"user_id": ANA, "message": "x", "message_id": "m" * 257}, "`message_id`"),
        ({"user_id": ANA, "message": "x", "metadata": [1]}, "$.metadata"),
        ({"user_id": "", "message": "x"}, "`user_id`"),
        ({"user_id": "a/b", "message": "x"}, "`user_id`"),
        ({"user_id": "a\0b", "message": "x"}, "`user_id`"),
        ({"user_id": " ana", "message": "x"}, "`user_id`"),
        ({"user_id": "x" * 161, "message": "x"}, "`user_id`"),
        ([], "object"),
        ("hola", "object"),
        (None, "object"),
    ],
)
async def test_a_field_that_is_not_what_it_should_be_is_named(store: Store, body, names) -> None:
    async with front(store) as door:
        status, answer = await door.post("/chat", json.dumps(body).encode())
        assert (status, answer["error"]) == (400, "invalid_field")
        assert names in answer["detail"]
        assert await entries(store) == []


async def test_metadata_nested_beyond_reading_is_refused(store: Store) -> None:
    async with front(store) as door:
        body = b'{"user_id":"web-1","message":"x","metadata":' + b'{"a":' * 40 + b"1" + b"}" * 41
        status, answer = await door.post("/chat", body)
        assert (status, answer["error"]) == (400, "invalid_field")
        assert "metadata" in answer["detail"]


async def test_staff_s_words_take_their_place_in_the_same_stream(store: Store) -> None:
    async with front(store) as door:
        path = "/chat/59112345678/messages"
        first = await door.post(
            path, {"role": "assistant", "message": "Cita confirmada", "message_id": "s1", "send": True}
        )
        again = await door.post(
            path, {"role": "assistant", "message": "Cita confirmada", "message_id": "s1", "send": True}
        )
        assert (await door.post(path, {"role": "system", "message": "Es alérgica"}))[0] == 202
        # The same id and text from the person is not the same message
        assert (await door.say("Cita confirmada", "s1"))["http"] == 409
        types = [entry["type"] for entry in await entries(store)]
        said = await inbounds(store)
    assert (first[0], first[1]["duplicate"], again[1]["duplicate"]) == (202, False, True)
    assert types == ["staff", "staff"]
    assert [(each.role, each.text, each.send, each.user_id) for each in said] == [
        ("assistant", "Cita confirmada", True, ANA),
        ("system", "Es alérgica", False, ANA),
    ]


@pytest.mark.parametrize(
    "body", [{"role": "user", "message": "x"}, {"message": "x"}, {"role": "system", "message": "x", "send": True},
             {"role": "assistant", "message": ""}, {"role": "assistant", "message": "x", "send": "yes"}]
)  # fmt: skip
async def test_staff_is_told_what_is_wrong_too(store: Store, body) -> None:
    async with front(store) as door:
        status, answer = await door.post(f"/chat/{ANA}/messages", body)
        assert (status, answer["error"]) == (400, "invalid_field")


@pytest.mark.parametrize(
    ("appointment", "wrong"),
    [
        ("mañana", "`metadata.appointment` must be an object"),
        ({"status": "foo"}, "`metadata.appointment.status` must be one of requested, confirmed"),
        ({"date": "31/12/2026"}, "`metadata.appointment.date` must be a day"),
        ({"date": "2026-02-30"}, "`metadata.appointment.date` must be a day"),
        ({"time": "25:99"}, "`metadata.appointment.time` must be a time of day"),
        ({"slots": {"time": "a las 3"}}, "`metadata.appointment.slots.time` must be a time of day"),
        ({"slots": "martes"}, "`metadata.appointment.slots` must be an object"),
    ],
)
async def test_an_appointment_that_the_archive_could_not_keep_is_refused_at_the_door(
    store: Store, appointment: object, wrong: str
) -> None:
    body = {"role": "assistant", "message": "Su cita", "metadata": {"appointment": appointment}}
    async with front(store) as door:
        status, answer = await door.post(f"/chat/{ANA}/messages", body)
    assert (status, answer["error"], answer["detail"][: len(wrong)]) == (400, "invalid_field", wrong)


@pytest.mark.parametrize(
    "appointment",
    [
        {},
        None,
        {"status": "cancelled", "id": 17, "date": None},
        {"date": "2026-12-31T09:00:00-04:00", "time": "9:30:00"},
    ],
)
async def test_an_appointment_may_leave_out_what_n8n_does_not_know(store: Store, appointment: object) -> None:
    body = {"role": "assistant", "message": "Su cita", "metadata": {"appointment": appointment}}
    async with front(store) as door:
        assert (await door.post(f"/chat/{ANA}/messages", body))[0] == 202


async def test_a_human_takes_over_and_hands_back(store: Store) -> None:
    async with front(store) as door:
        status, answer = await door.post("/chat/591%2012345678/pause", b"")
        until = datetime.fromisoformat(answer["until"])
        assert (status, answer["user_id"], answer["paused"]) == (200, ANA, True)
        assert 43_100 < (until - datetime.now(UTC)).total_seconds() <= 43_200
        assert 43_100_000 < await store.command("PTTL", f"paused:{ANA}") <= 43_200_000
        assert (await store.command("GET", f"paused:{ANA}")).decode() == answer["until"]
        await door.post(f"/chat/{ANA}/pause", {"seconds": 60})
        assert await store.command("PTTL", f"paused:{ANA}") <= 60_000
        assert await door.post("/chat/+59112345678/resume", {}) == (
            200, {"user_id": ANA, "paused": False, "until": None},
        )  # fmt: skip
        assert await store.command("EXISTS", f"paused:{ANA}") == 0


async def test_a_pause_whose_field_is_misspelt_is_none_of_another_length(store: Store) -> None:
    async with front(store) as door:
        status, answer = await door.post(f"/chat/{ANA}/pause", {"minutes": 30})
        assert (status, answer["error"]) == (400, "invalid_field")
        assert "`minutes`" in answer["detail"]
        assert await store.command("EXISTS", f"paused:{ANA}") == 0


@pytest.mark.parametrize("seconds", [0, -1, 1e12, "60", True])
async def test_a_pause_has_bounds(store: Store, seconds) -> None:
    async with front(store) as door:
        status, answer = await door.post(f"/chat/{ANA}/pause", {"seconds": seconds})
        assert (status, answer["error"]) == (400, "invalid_field")


async def test_a_pause_of_white_space_is_no_pause_without_a_word(store: Store) -> None:
    given = {"data": b"\r", "headers": {"Content-Type": "application/json"}}
    async with front(store) as door, door.session.post(f"{door.url}/chat/{ANA}/pause", **given) as response:
        assert (response.status, (await response.json())["error"]) == (400, "malformed_json")
        assert await store.command("EXISTS", f"paused:{ANA}") == 0


async def test_the_conversation_passes_unchanged_and_reading_does_not_prolong_it(store: Store) -> None:
    stored = '{"user_id": "+59112345678",   "messages": [{"content":"ñ \\u00f1"}]}'
    await store.command("SET", f"conversation:{ANA}", stored, "PX", 60_000)
    async with front(store) as door:
        for path in (f"/chat/history/{ANA}", "/chat/history/59112345678", "/chat/history/%2B591%20123%2045678"):
            async with door.session.get(door.url + path) as response:
                assert (response.status, await response.text()) == (200, stored)
                assert response.content_type == "application/json"
        assert await store.command("PTTL", f"conversation:{ANA}") < 60_000
        assert (await door.get("/chat/history/web-42"))[1]["error"] == "no_conversation"
        status, _, headers = await door.ask("HEAD", f"/chat/history/{ANA}")
        assert (status, headers["content-length"]) == (200, str(len(stored.encode())))


async def test_the_conversation_says_at_once_whether_a_human_has_taken_over(store: Store) -> None:
    stored = '{"status": "active", "total":1.50,  "messages": [{"status":"active"}]}'
    await store.command("SET", f"conversation:{ANA}", stored, "PX", 60_000)

    async def told() -> str:
        async with door.session.get(f"{door.url}/chat/history/{ANA}") as response:
            return await response.text()

    async with front(store) as door:
        await door.post(f"/chat/{ANA}/pause")
        assert await told() == '{"status":"paused","total":1.50,"messages":[{"status":"active"}]}'
        await store.command("SET", f"conversation:{ANA}", '{"status":"paused"}')
        assert await told() == '{"status":"paused"}'
        await door.post(f"/chat/{ANA}/resume")
        assert await told() == '{"status":"active"}'
        await store.command("SET", f"conversation:{ANA}", stored)
        assert await told() == stored
        await door.post(f"/chat/{ANA}/pause")
        await store.command("SET", f"conversation:{ANA}", "no JSON")
        assert await told() == "no JSON"


async def test_ids_in_a_path_are_the_same_people_as_in_a_body(store: Store) -> None:
    await store.command("SET", "conversation:US.13491208655302741918", "{}")
    await store.command("SET", "conversation:niño 7", "{}")
    async with front(store) as door:
        assert (await door.get("/chat/history/US.13491208655302741918"))[0] == 200
        assert (await door.get("/chat/history/ni%C3%B1o%207"))[0] == 200
        assert (await door.get("/chat/history/" + "x" * 161))[1]["error"] == "invalid_field"
        assert (await door.get("/chat/history/a%00b"))[1]["error"] == "invalid_field"


async def test_where_numbers_are_switched_off_they_stay_as_they_came_on_every_route(store: Store) -> None:
    top = a_topology(users={"phone_numbers": False})
    async with front(store, top) as door:
        assert (await door.say("Hola", user_id="591 12345678"))["user_id"] == "591 12345678"
        assert (await door.post("/chat/59112345678/pause"))[1]["user_id"] == "59112345678"
        await door.post("/whatsapp", json.loads((RECORDINGS / "01_text.json").read_text()))
        assert (await inbounds(store))[-1].user_id == "16505551234"


async def test_a_full_backlog_is_said_with_when_to_come_back(store: Store) -> None:
    async with front(store, a_topology(streams={"inbound": {"max_len": 1}})) as door:
        await door.say("Hola", "m1")
        status, answer, headers = await door.ask("POST", "/chat", json={"user_id": ANA, "message": "x"})
        assert (status, answer["error"]) == (503, "backlog")
        assert int(headers["retry-after"]) > 0
        assert (await door.say("Hola", "m1"))["duplicate"] is True
