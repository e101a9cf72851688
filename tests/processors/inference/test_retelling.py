"""A turn of the past, told again, leaves what it left when it was handled."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from typing import Any

import pytest
from msgspec.structs import replace

from processors.inference import history
from processors.inference.handler import reply
from processors.inference.replies import Exchange
from processors.inference.resources import Resources
from processors.inference.retelling import retell
from streams import wire
from streams.effects import Effects, Message, Retold, Turn, Write
from streams.settings import Settings
from streams.tables import Action
from streams.topology import Topology
from streams.wire import Inbound

ANA = "+59112345678"
NOON_MS = 1_759_658_400_000
ACTIONS = [Action(name="handoff", patterns=["persona"]), Action(name="hours", patterns=["abren"])]
HERE = Resources(topology=Topology(actions=ACTIONS), settings=Settings(rate_limit_per_minute=1))

State = dict[str, bytes | None]


def turn(text: str, at: int, state: State, count: int | None = None, **more: Any) -> Turn:
    body = wire.encode(Inbound(**({"user_id": ANA, "message_id": f"m{at}", "text": text, "name": "Ana"} | more)))
    kind = "staff" if more.get("role") else more.get("kind", "text")
    message = Message(id=f"{NOON_MS + at}-0", type=kind, body=body, replayed=True, count=count)
    recalled: State = {"conversation": None, "conversation_meta": None, "paused": None}
    return Turn(
        group="inference", key=ANA, messages=[message], state=recalled | state, resources=HERE, now_ms=NOON_MS + at
    )  # fmt: skip


def appended(effects: Effects | None, at: int) -> list[Message]:
    """Its outputs as they lie on the stream."""
    outputs = effects.outputs if effects else []
    return [
        Message(id=f"{NOON_MS + at}-{n}", type=each.type, body=wire.encode(each.body)) for n, each in enumerate(outputs)
    ]


def retold(turn: Turn, outputs: list[Message]) -> Retold:
    return asyncio.run(retell(turn, outputs))


def after(state: State, writes: list[Write]) -> State:
    written = state | {write.kind: write.value for write in writes}
    return {kind: value for kind, value in written.items() if value is not None}


@pytest.mark.parametrize(
    "story",
    [
        ["Hola", "¿a qué hora abren?", "Gracias"],
        ["quiero hablar con una persona", "¿Hay alguien?", "Sigo aquí"],
        ["Hola", {"kind": "sticker"}, {"kind": "reaction"}, "Adiós"],
        ["Hola", {"role": "assistant", "text": "Cita confirmada", "send": True}, {"role": "system", "text": "VIP"}],
        ["Hola", {"text": "otra vez", "count": 2}, {"text": "y otra", "count": 3}],
    ],
)
def test_told_again_a_conversation_is_what_it_was(story) -> None:
    handled: State = {}
    told: State = {}
    for number, said in enumerate(story):
        said = {"text": said} if isinstance(said, str) else said
        at = number * 1000
        now = turn(at=at, state=handled, **({"text": ""} | said))
        effects = asyncio.run(reply.handle(now))
        if effects and effects.unless and handled.get(effects.unless) is not None and effects.instead:
            effects = effects.instead()
        # When the same is told from what it appended, and not handled
        again = retold(turn(at=at, state=told, **({"text": ""} | said)), appended(effects, at))
        handled, told = after(handled, effects.writes if effects else []), after(after(told, again.found), again.left)
        assert told == handled, said


def test_what_the_bot_did_tells_whether_staff_had_taken_over() -> None:
    spoke = appended(asyncio.run(reply.handle(turn("Hola", 0, {}))), 0)
    paused: State = {"paused": b"2025-10-06T00:00:00Z"}
    [freed] = retold(turn("Hola", 0, paused), spoke).found
    assert freed == Write(kind="paused")
    effects = asyncio.run(reply.handle(turn("Hola", 0, paused)))
    assert effects is not None
    assert effects.instead is not None
    handed_on = appended(effects.instead(), 0)
    [taken] = retold(turn("Hola", 0, {}), handed_on).found
    assert taken.kind == "paused"
    assert taken.value is not None


def test_a_conversation_keeps_the_id_that_its_replies_had() -> None:
    [output] = appended(asyncio.run(reply.handle(turn("Hola", 0, {}))), 0)
    other = output.body.replace(b"conv_+59112345678_1759658400", b"conv_+59112345678_1759658399")
    [conversation, _] = retold(turn("Hola", 0, {}), [replace(output, body=other)]).left
    assert conversation.value is not None
    assert b'"conversation_id":"conv_+59112345678_1759658399"' in conversation.value


def test_in_a_replay_the_clock_is_the_logs_however_long_a_reply_takes() -> None:
    exchange = Exchange(turn=turn("Hola", 0, {}), here=HERE, past=history.recall(turn("Hola", 0, {})), arrived=[])
    exchange.started -= 1000
    assert exchange.now == NOON_MS / 1000
    exchange.turn.messages = [replace(exchange.turn.messages[0], replayed=False)]
    assert exchange.now >= NOON_MS / 1000 + 1000


def test_what_is_no_reply_of_ours_is_passed_over() -> None:
    strange = Message(id="1-0", type="x", body=b"[]")
    assert len(retold(turn("Hola", 0, {}), [strange]).left) == 2


def test_where_a_conversation_begins_anew_it_goes_on_from_the_archive() -> None:
    class Past:
        """An archive that has one message of everybody."""

        async def before(self, person: str, at_ms: int, most: int) -> list[dict[str, Any]]:
            said = {"message_id": "before", "role": "user", "kind": "text", "text": f"Antes, {person}", "content": None}
            return [said | {"source": "person", "metadata": {}, "at": "2025-10-01T10:00:00Z"}]

        async def close(self) -> None:
            pass

    past = turn("Hola", 0, {})
    past.resources = dataclasses.replace(HERE, archive=Past())
    [conversation, _] = retold(past, []).left
    assert conversation.value is not None
    assert [said["content"] for said in json.loads(conversation.value)["messages"]] == [f"Antes, {ANA}", "Hola"]
