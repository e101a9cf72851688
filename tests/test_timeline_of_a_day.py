"""A day of a clinic's bot, with what goes wrong in one, and the story of each message as `cauce trace` tells it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from pipeline import CAUCE, ROOT, Pipeline, pipeline
from sink import Sink
from waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"
ANSWER = json.dumps({"choices": [{"message": {"content": "¡Hola!"}, "finish_reason": "stop"}],
                     "usage": {"prompt_tokens": 90, "completion_tokens": 3}})  # fmt: skip
OPERATOR, SENDER = "o" * 32, "i" * 32


def impatient(folder: Path) -> Path:
    """The shipped file, but what fails is tried again soon, and a model's failure twice only."""
    text = (ROOT / "streams.toml").read_text(encoding="utf-8")
    for old, new in {
        "attempts = 5\nbackoff = [\"1s\", \"5s\", \"30s\", \"2m\"]": "attempts = 2\nbackoff = [\"100ms\"]",
        "backoff = [\"1s\", \"5s\", \"30s\", \"2m\", \"10m\", \"30m\", \"2h\", \"5h\"]": "backoff = [\"100ms\"]",
    }.items():  # fmt: skip
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    copy = folder / "impatient.toml"
    copy.write_text(text, encoding="utf-8")
    return copy


class Operator:
    """Somebody with the command line and a token."""

    def __init__(self, whole: Pipeline) -> None:
        self._whole = whole

    async def cauce(self, *words: str, status: int = 0) -> str:
        child = await asyncio.create_subprocess_exec(
            str(CAUCE), "-c", str(self._whole.config), *words, cwd=self._whole.folder, env=self._whole.environment,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, error = await child.communicate()
        assert child.returncode == status, (words, out, error)
        return out.decode() + error.decode()

    async def trace(self, id: str, *more: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(await self.cauce("trace", id, "--json", *more))
        return found

    async def ended(self, id: str, outcome: str, *more: str) -> dict[str, Any]:
        """The story, once it has come to this."""
        told: dict[str, Any] = {}

        async def come_to_it() -> bool:
            nonlocal told
            told = await self.trace(id, *more)
            return bool(told["outcome"] == outcome)

        await until(come_to_it, within=30)
        return told


def kinds(told: dict[str, Any], group: str | None = None) -> list[str]:
    return [step["kind"] for step in told["steps"] if group in (None, step.get("group"))]


def facts(told: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [step.get("facts", {}) for step in told["steps"] if step["kind"] == kind]


async def test_each_message_of_a_day_has_its_story(own_server: Server, tmp_path: Path) -> None:
    async with Sink(path="/v1") as model:
        model.plan(body=ANSWER, count=1)
        day = {"MODEL": "a-model", "MODEL_URL": model.url, "RATE_LIMIT_PER_MINUTE": "2", "INGRESS_TOKENS": SENDER,
               "OPERATOR_TOKENS": OPERATOR}  # fmt: skip
        async with pipeline(own_server, config=impatient(tmp_path), **day) as whole:
            whole.session.headers["Authorization"] = f"Bearer {SENDER}"
            operator = Operator(whole)
            await a_duplicate_and_a_webhook_that_is_away(whole, operator, model)
            await a_burst(whole, operator, model)
            await a_model_that_fails_and_a_letter_put_back(whole, operator, model)
            await what_meta_says(whole, operator)
            await what_meta_says_of_a_reply_that_it_names(whole, operator)
            await what_is_not_known(whole, operator)


async def a_duplicate_and_a_webhook_that_is_away(whole: Pipeline, operator: Operator, model: Sink) -> None:
    # Given a message that Meta sends twice, and n8n away when it is answered
    whole.sink.plan(status=503)
    payload = json.loads((ROOT / "tests" / "recordings" / "01_text.json").read_text("utf-8"))
    wamid = payload["entry"][0]["changes"][0]["value"]["messages"][0]["id"]
    for _ in range(2):
        status, _ = await whole.post("/whatsapp", payload, traceparent=TRACEPARENT)
        assert status == 200
    # When an operator asks, knowing no more than WhatsApp's id
    told = await operator.ended(wamid, "delivered")
    # Then all of it is told, in its order
    assert kinds(told)[:2] == ["received", "appended"]
    assert facts(told, "repeated") == [{"times": 1}]
    assert kinds(told, "inference") == ["taken", "generated", "committed"]
    assert kinds(told, "egress") == ["taken", "posted", "parked", "taken", "posted", "committed"]
    assert facts(told, "generated") == [
        {
            "model": "a-model",
            "tokens": 3,
            "prompt_tokens": 90,
            "recalled_tokens": 0,
            "ms": facts(told, "generated")[0]["ms"],
        }
    ]
    assert [each["status"] for each in facts(told, "posted")] == [503, 200]
    assert [each["attempt"] for each in facts(told, "taken")] == [1, 1, 2]
    assert (
        sum(step.get("wait_ms", 0) for step in told["steps"]) == told["steps"][-1]["at_ms"] - told["steps"][0]["at_ms"]
    )
    # And one trace id leads through all of it: model, webhook, logs
    assert told["trace"] == TRACE
    assert {each.headers["traceparent"] for each in (*model.requests, *whole.sink.requests)} == {TRACEPARENT}
    for name in ("ingress", "inference", "egress"):
        assert any(f'"trace": "{TRACE}"' in line for line in whole.processes[name].lines), name
    # And nobody's number is shown, here or in the journal, unless asked for
    assert "16505551234" not in json.dumps(told)
    journal = await whole.store.command("XRANGE", whole.store.keys.group("journal", "egress"), "-", "+")
    assert journal
    assert b"16505551234" not in repr(journal).encode()
    assert (await operator.trace(wamid, "--full"))["person"] == "+16505551234"
    assert kinds(await operator.trace(TRACE)) == kinds(await operator.trace(told["entry"])) == kinds(told)


async def a_burst(whole: Pipeline, operator: Operator, model: Sink) -> None:
    # Given somebody who writes more than is answered in a minute
    model.plan(body=ANSWER, count=None)
    stories = []
    for number, outcome in enumerate(("delivered", "delivered", "delivered", "silent")):
        await whole.say("web-42", f"hola {number}", f"m{number}")
        stories.append(await operator.ended(f"m{number}", outcome, "--user", "web-42"))
    # Then what was within the limit was generated, and what was beyond it says so
    assert ["generated" in kinds(told) for told in stories] == [True, True, False, False]
    assert [facts(told, "rate_limited") for told in stories] == [
        [], [], [{"count": 3, "limit": 2}], [{"count": 4, "limit": 2}],
    ]  # fmt: skip
    assert facts(stories[2], "replied")[0]["source"] == "notice"
    listed = await operator.trace("web-42")
    assert [line["message_id"] for line in listed["messages"]] == ["m3", "m2", "m1", "m0"]
    assert [line.get("rate_limited", False) for line in listed["messages"]] == [True, True, False, False]


async def a_model_that_fails_and_a_letter_put_back(whole: Pipeline, operator: Operator, model: Sink) -> None:
    # Given a model that fails each time somebody's message is tried
    model.reset()
    model.plan(status=500, count=None, body="out of memory")
    await whole.say("+59170000001", "hola", "once")
    told = await operator.ended("once", "dead", "--user", "59170000001")
    assert kinds(told, "inference") == ["taken", "parked", "taken", "dead"]
    assert [each["attempt"] for each in facts(told, "taken")][:2] == [1, 2]
    assert "it answered 500" in facts(told, "parked")[0]["why"]
    assert facts(told, "replied")[0]["source"] == "failure"
    # When it works again, and the letter that the story names is put back
    model.reset()
    model.plan(body=ANSWER, count=None)
    await operator.cauce("dead", "redrive", facts(told, "dead")[0]["letter"])
    # Then the story goes on, and it is one, whichever of its ids is asked for
    told = await operator.ended("once", "delivered", "--user", "+591 70000001")
    assert kinds(told).count("redriven") == 1
    assert kinds(told)[kinds(told).index("redriven") :][:4] == ["redriven", "taken", "generated", "committed"]
    again = next(step["entry"] for step in told["steps"] if step["kind"] == "redriven")
    assert (await operator.trace(again))["entry"] == told["entry"]


async def what_meta_says(whole: Pipeline, operator: Operator) -> None:
    # Given Meta's word on the reply to the first message
    ours = "wamid.HQQLMTY1MDU1NTEyMzQVAhEYEUJPVE1TRzAx"
    for status in ("sent", "delivered", "read"):
        told = {"id": ours, "status": status, "timestamp": "1728123456", "recipient_id": "16505551234"}
        value = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "1"}, "statuses": [told]}
        assert (await whole.post("/whatsapp", value))[0] == 200
    # Then the story ends with it, and Meta's id of the reply leads to it as well
    told = await operator.trace(ours)
    assert kinds(told)[-3:] == ["meta_sent", "meta_delivered", "meta_read"]
    assert facts(told, "repeated") == [{"times": 1}]
    assert facts(told, "meta_read")[0]["matched"] == "by time"
    [line] = (await operator.trace("+16505551234"))["messages"]
    assert (line["outcome"], line["meta"], line["retries"], line["repeats"]) == ("delivered", "read", 1, 1)


async def what_meta_says_of_a_reply_that_it_names(whole: Pipeline, operator: Operator) -> None:
    # Given a workflow that sends the webhook-id along, and a status that comes when another reply has been sent since
    webhook_id = facts(await operator.trace("m0", "--user", "web-42"), "replied")[0]["id"]
    told = {"id": "wamid.x", "status": "sent", "recipient_id": "web-42", "biz_opaque_callback_data": webhook_id}
    value = {"messaging_product": "whatsapp", "metadata": {}, "statuses": [told]}
    assert (await whole.post("/whatsapp", value))[0] == 200
    # Then there is no doubt
    assert facts(await operator.trace("m0", "--user", "web-42"), "meta_sent")[0]["matched"] == "by its id"
    assert facts(await operator.trace("m1", "--user", "web-42"), "meta_sent") == []


async def what_is_not_known(whole: Pipeline, operator: Operator) -> None:
    said = await operator.cauce("trace", "wamid.HQQLMTY1MDU1NTEyMzQVAhEYEUJPVE1TRzA5", status=1)
    for part in (
        "nothing is known of",
        "for its mark",
        "in the index of inbound",
        "entries of statuses",
        "goes back to",
        "7 days",
    ):
        assert part in said
    # And over HTTP, for operators only
    async with whole.session.get(f"{whole.url}/timeline/nothing") as response:
        assert response.status == 403
    for id, status in (("nothing", 404), ("m0?user=web-42", 200), ("web-42", 200)):
        async with whole.session.get(
            f"{whole.url}/timeline/{id}", headers={"Authorization": f"Bearer {OPERATOR}"}
        ) as response:
            told = await response.json()
            assert response.status == status, told
            assert "steps" in told or "messages" in told or told["error"] == "unknown_message"
    # And the table for people
    shown = await operator.cauce("trace", "m0", "--user", "web-42")
    assert "delivered in" in shown
    assert "generated" in shown
