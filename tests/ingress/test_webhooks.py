"""POST /whatsapp over a real socket: all in order, once, or nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from streams import log, wire
from streams.connection import Store
from streams.settings import Settings
from tests.ingress.front import RECORDINGS, Front, a_topology, entries, front

SHEENA = "+16505551234"


def recording(name: str) -> bytes:
    return (RECORDINGS / f"{name}.json").read_bytes()


async def post(door: Front, name: str) -> dict[str, Any]:
    status, answer = await door.post("/whatsapp", recording(name))
    assert status == 200
    return answer


@pytest.mark.parametrize("path", sorted(RECORDINGS.glob("*.json")), ids=lambda path: path.stem)
async def test_every_recording_is_answered_200_and_a_repeat_appends_nothing(store: Store, path) -> None:
    async with front(store) as door:
        first = await post(door, path.stem)
        before = await entries(store), await entries(store, "statuses")
        again = await post(door, path.stem)
        assert first["accepted"] + first["statuses"] + first["ignored"] > 0
        assert (len(before[0]), len(before[1])) == (first["accepted"], first["statuses"])
        assert (await entries(store), await entries(store, "statuses")) == before
        assert (again["accepted"], again["statuses"]) == (0, 0)
        assert again["duplicates"] == first["accepted"] + first["statuses"]
        assert (again["entry_ids"], again["ignored"]) == (first["entry_ids"], first["ignored"])


async def test_all_messages_of_a_webhook_are_appended_in_their_order(store: Store) -> None:
    async with front(store) as door:
        answer = await post(door, "15_several_messages_one_user")
        found = await entries(store)
        ids = [id.decode() for id, _ in await store.command("XRANGE", "inbound", "-", "+")]
    assert answer == {"accepted": 3, "duplicates": 0, "statuses": 0, "ignored": 0, "entry_ids": ids}
    assert [(each["key"], each["type"], each["v"]) for each in found] == [(SHEENA, "text", "1")] * 3
    texts = [msgspec.json.decode(each["body"], type=wire.Inbound).text for each in found]
    assert texts == ["Hi", "I have a question", "about my order 1234"]


async def test_statuses_go_to_a_stream_of_their_own_each_once(store: Store) -> None:
    async with front(store) as door:
        await post(door, "12_status_delivered")
        await post(door, "14_status_failed_131047")
        batch = await post(door, "batch_of_entries_and_users")
        found = await entries(store, "statuses")
    assert (batch["accepted"], batch["statuses"], len(batch["entry_ids"])) == (3, 1, 3)
    assert [(each["key"], each["type"]) for each in found] == [
        (SHEENA, "delivered"), (SHEENA, "failed"), (SHEENA, "read"),
    ]  # fmt: skip
    failed = msgspec.json.decode(found[1]["body"], type=wire.Status)
    assert failed.content["errors"][0]["code"] == 131047


async def test_a_pipeline_without_a_stream_for_statuses_ignores_them(store: Store) -> None:
    top = a_topology()
    del top.streams["statuses"]
    async with front(store, top) as door:
        assert (await post(door, "12_status_delivered"))["ignored"] == 1
        assert (await post(door, "n8n_trigger_items")) | {"entry_ids": []} == {
            "accepted": 2, "duplicates": 0, "statuses": 0, "ignored": 1, "entry_ids": [],
        }  # fmt: skip


async def test_a_message_repeated_with_another_text_is_not_refused_for_meta_would_repeat_it(store: Store) -> None:
    payload = json.loads(recording("01_text"))
    async with front(store) as door:
        first = await post(door, "01_text")
        payload["entry"][0]["changes"][0]["value"]["messages"][0]["text"]["body"] = "edited"
        status, answer = await door.post("/whatsapp", payload)
        assert (status, answer["duplicates"], answer["entry_ids"]) == (200, 1, first["entry_ids"])
        assert len(await entries(store)) == 1


async def test_a_message_known_from_post_chat_is_a_repeat_here(store: Store) -> None:
    message = json.loads(recording("01_text"))["entry"][0]["changes"][0]["value"]["messages"][0]
    async with front(store) as door:
        first = await door.say(message["text"]["body"], message["id"], user_id=message["from"])
        assert (await post(door, "01_text"))["entry_ids"] == [first["entry_id"]]


async def test_where_not_all_of_it_fits_nothing_is_appended(store: Store) -> None:
    async with front(store, a_topology(streams={"inbound": {"max_len": 2}})) as door:
        status, answer = await door.post("/whatsapp", recording("15_several_messages_one_user"))
        assert (status, answer["error"]) == (503, "backlog")
        status, answer = await door.post("/whatsapp", recording("batch_of_entries_and_users"))
        assert (status, answer["error"]) == (503, "backlog")
        assert await entries(store) == await entries(store, "statuses") == []


@pytest.mark.parametrize("body", [{}, {"user_id": "a", "message": "b"}, "hola", None, 7, [{}]])
async def test_json_that_is_not_meta_s_is_called_so(store: Store, body) -> None:
    async with front(store) as door:
        status, answer = await door.post("/whatsapp", json.dumps(body).encode())
        assert (status, answer["error"]) == (422, "not_whatsapp")


async def test_a_thousand_messages_in_one_webhook_are_one_act(store: Store) -> None:
    messages = [
        {"from": f"5917000{n:04}", "id": f"wamid.{n}", "type": "text", "text": {"body": "x" * 2000}}
        for n in range(1000)
    ]
    async with front(store) as door:
        body = json.dumps({"messaging_product": "whatsapp", "messages": messages}).encode()
        status, answer = await door.post("/whatsapp", body)
        assert (status, answer["accepted"]) == (200, 1000)
        assert await store.command("XLEN", "inbound") == 1000


async def test_more_in_one_webhook_than_meta_ever_sends_is_refused_whole(store: Store) -> None:
    one = {"from": "59170000000", "type": "text"}
    value = {"messages": [one] * 1500, "statuses": [{"id": "a", "status": "sent"}] * 501}
    async with front(store) as door:
        for payload in (value, [{"messages": value["messages"]}, {"statuses": value["statuses"]}]):
            status, answer = await door.post("/whatsapp", payload)
            assert (status, answer["error"], answer["most"]) == (413, "too_large", 2000)
            assert "2000 messages and statuses" in answer["detail"]
        assert await entries(store) == await entries(store, "statuses") == []


async def test_the_log_names_types_and_ids_and_never_what_was_written(store: Store) -> None:
    lines: list[str] = []

    class Out:
        def write(self, text: str) -> int:
            lines.append(text)
            return len(text)

        def flush(self) -> None: ...

        def isatty(self) -> bool:
            return False

    log.configure(Settings(log_format="json", log_level="debug"), Out())
    async with front(store) as door:
        await post(door, "known_and_unknown_together")
        await post(door, "from_an_advertisement")
        await door.post("/chat", b'{"user_id":"16505551234","message":"mi alergia"')
    told = "".join(lines)
    events = [json.loads(line) for line in told.splitlines()]
    assert {"calls", "malformed"} <= {each["type"] for each in events if each["event"] == "webhook.ignored"}
    assert [each["event"] for each in events].count("message.accepted") == 4
    refused = next(each for each in events if each["event"] == "request.refused")
    assert (refused["route"], refused["status"], refused["error"]) == ("/chat", 400, "malformed_json")
    for secret in ("6505551234", "HQQLMTY1", "Quiero", "Sheena", "alergia", "Uno"):
        assert secret not in told
