"""What a turn comes to: said, recorded, paused, limited, buried.  The runtime is not needed for any of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from processors.inference.echo import Echo
from processors.inference.generation import Generated, Refused, Request
from processors.inference.handler import apologise, reply
from processors.inference.resources import Resources
from streams import wire
from streams.effects import Effects, Message, Turn
from streams.errors import Malformed, Retry
from streams.settings import Settings
from streams.tables import Action, Egress, Inference, Texts
from streams.topology import Topology
from streams.wire import Inbound, Reply

ANA = "+59112345678"
NOON = 1_759_658_400  # 2025-10-05T10:00:00Z, a Sunday


def message(text: str = "Hola", *, number: int = 1, count: int | None = None, **fields: Any) -> Message:
    body = Inbound(**({"user_id": ANA, "message_id": f"msg_{number}", "text": text} | fields))
    kind = "staff" if body.role != "user" else body.kind
    return Message(id=f"{NOON * 1000}-{number}", type=kind, body=wire.encode(body), count=count)


def turn(*messages: Message, here: Resources | None = None, **state: bytes) -> Turn:
    recalled: dict[str, bytes | None] = {"conversation": None, "conversation_meta": None, "paused": None}
    return Turn(
        group="inference",
        key=ANA,
        messages=list(messages),
        state=recalled | state,
        resources=here or Resources(),
        now_ms=NOON * 1000 + 5000,
        meter_ms=41_001,
    )


def handled(*messages: Message, here: Resources | None = None, **state: bytes) -> Effects:
    effects = asyncio.run(reply.handle(turn(*messages, here=here, **state)))
    assert effects is not None
    return effects


def replies(effects: Effects) -> list[Reply]:
    return [output.body for output in effects.outputs if isinstance(output.body, Reply)]


def written(effects: Effects, kind: str) -> Any:
    (value,) = [write.value for write in effects.writes if write.kind == kind]
    assert value is not None
    return msgspec.json.decode(value)


def continued(effects: Effects) -> dict[str, bytes]:
    """The state that a next turn recalls."""
    return {write.kind: write.value for write in effects.writes if write.value is not None}


@dataclass
class Scripted:
    """An engine that says what it is told to say, and keeps what it was asked."""

    says: list[str | Exception]
    asked: list[Request] = field(default_factory=list)

    async def generate(self, request: Request) -> Generated:
        self.asked.append(request)
        said = self.says.pop(0)
        if isinstance(said, Exception):
            raise said
        return Generated(text=said, tokens=len(said.split()))

    def describe(self) -> dict[str, Any]:
        return {"name": "scripted"}

    def ready(self) -> bool:
        return True

    async def close(self) -> None:
        return None


def test_a_message_is_answered_and_the_original_conversation_json_is_written() -> None:
    effects = handled(message("Hola, necesito una cita", sent_at=NOON, wa_id="59112345678", name="Ana"))

    (said,) = replies(effects)
    assert said.message == "Hola, necesito una cita"
    assert (said.id, said.source, said.user_id, said.wa_id, said.name) == (
        f"reply_{NOON * 1000}-1", "model", ANA, "59112345678", "Ana",
    )  # fmt: skip
    assert (said.in_reply_to, said.created_at) == (["msg_1"], "2025-10-05T10:00:05Z")
    assert written(effects, "conversation") == {
        "conversation_id": f"conv_{ANA}_{NOON + 5}",
        "user_id": ANA,
        "status": "active",
        "created_at": "2025-10-05T10:00:05",
        "updated_at": "2025-10-05T10:00:05",
        "messages": [
            {
                "message_id": "msg_1",
                "role": "user",
                "content": "Hola, necesito una cita",
                "timestamp": "2025-10-05T10:00:00",
                "metadata": {},
            },
            {
                "message_id": f"reply_{NOON * 1000}-1",
                "role": "assistant",
                "content": "Hola, necesito una cita",
                "timestamp": "2025-10-05T10:00:05",
                "metadata": {},
            },
        ],
        "metadata": {},
    }
    assert written(effects, "conversation_meta") == {"last_activity": "2025-10-05T10:00:05", "message_count": 2}
    assert [write.ttl_seconds for write in effects.writes] == [3600, 3600]


def test_five_messages_are_answered_together_once() -> None:
    effects = handled(*(message(f"parte {number}", number=number) for number in range(1, 6)))

    (said,) = replies(effects)
    assert said.in_reply_to == ["msg_1", "msg_2", "msg_3", "msg_4", "msg_5"]
    assert said.message == "parte 1\nparte 2\nparte 3\nparte 4\nparte 5"


def test_the_senders_clock_orders_a_turn_only_if_every_message_has_one() -> None:
    late, early = message("segundo", number=1, sent_at=NOON + 9), message("primero", number=2, sent_at=NOON)
    assert replies(handled(late, early))[0].message == "primero\nsegundo"

    no_time = message("sin hora", number=3)
    assert replies(handled(late, early, no_time))[0].message == "segundo\nprimero\nsin hora"


def test_two_messages_of_one_second_keep_the_order_in_which_they_came() -> None:
    same = [message(f"parte {number}", number=number, sent_at=NOON) for number in (1, 2, 3)]
    assert replies(handled(*same))[0].message == "parte 1\nparte 2\nparte 3"


def test_a_conversation_is_continued_and_the_model_reads_it() -> None:
    engine = Scripted(["¿Para qué especialidad?", "¿Qué día?"])
    here = Resources(engine=engine, rules=lambda: "Eres el asistente.")
    first = handled(message("Hola"), here=here)
    second = handled(message("Cardiología", number=2), here=here, **continued(first))

    assert [(line.role, line.content) for line in engine.asked[1].lines] == [
        ("system", "Eres el asistente."),
        ("user", "Hola"),
        ("assistant", "¿Para qué especialidad?"),
        ("user", "Cardiología"),
    ]
    conversation = written(second, "conversation")
    assert conversation["conversation_id"] == written(first, "conversation")["conversation_id"]
    assert [one["content"] for one in conversation["messages"]] == [
        "Hola", "¿Para qué especialidad?", "Cardiología", "¿Qué día?",
    ]  # fmt: skip


def test_only_the_last_messages_are_kept_but_all_are_counted() -> None:
    topology = Topology()
    topology.history.max_messages = 4
    here = Resources(topology=topology)
    effects = handled(message("1"), here=here)
    for number in (2, 3, 4):
        effects = handled(message(str(number), number=number), here=here, **continued(effects))

    assert [one["message_id"] for one in written(effects, "conversation")["messages"]] == [
        "msg_3", f"reply_{NOON * 1000}-3", "msg_4", f"reply_{NOON * 1000}-4",
    ]  # fmt: skip
    assert written(effects, "conversation_meta")["message_count"] == 8


def test_a_conversation_of_huge_messages_stays_bounded() -> None:
    effects = handled(message("1"))
    for number in range(2, 12):
        effects = handled(message("x" * 60_000, number=number), **continued(effects))

    (value,) = [write.value for write in effects.writes if write.kind == "conversation"]
    assert value is not None
    assert len(value) <= 128 * 1024
    assert written(effects, "conversation")["messages"][-1]["message_id"] == f"reply_{NOON * 1000}-11"


@pytest.mark.parametrize("rubbish", [b"", b"{", b"[]", b'{"messages": 3}', b"\xff\xfe", b'{"user_id": null}'])
def test_a_corrupt_conversation_does_not_silence_a_person(rubbish: bytes) -> None:
    effects = handled(message("Hola"), conversation=rubbish, conversation_meta=rubbish)

    assert replies(effects)[0].message == "Hola"
    assert written(effects, "conversation_meta")["message_count"] == 2


def test_a_person_over_the_limit_is_recorded_told_once_and_not_answered() -> None:
    here = Resources(settings=Settings(rate_limit_per_minute=2))
    over = handled(message("tercero", count=3), here=here)
    further = handled(message("cuarto", number=2, count=4), here=here)

    (notice,) = replies(over)
    assert (notice.source, notice.message, notice.in_reply_to) == ("notice", Texts().rate_limited, ["msg_1"])
    assert over.answer is not None
    assert over.answer.status == "rate_limited"
    assert over.answer.body["detail"] == "Demasiadas solicitudes"
    assert over.answer.body["reply"] == Texts().rate_limited
    assert over.answer.body["retry_after"] == 42  # seconds until the window ends, rounded up
    assert replies(further) == []
    assert further.answer is not None
    assert further.answer.body["reply"] is None
    assert [one["content"] for one in written(further, "conversation")["messages"]] == ["cuarto"]


def test_a_turn_on_both_sides_of_the_limit_is_answered_for_what_is_within() -> None:
    here = Resources(settings=Settings(rate_limit_per_minute=2))
    effects = handled(
        message("segundo", count=2),
        message("tercero", number=2, count=3),
        message("cuarto", number=3, count=4),
        here=here,
    )

    said, notice = replies(effects)
    assert (said.message, said.in_reply_to, said.id) == ("segundo", ["msg_1"], f"reply_{NOON * 1000}-3")
    assert (notice.source, notice.in_reply_to, notice.id) == (
        "notice", ["msg_2", "msg_3"], f"reply_{NOON * 1000}-3.2",
    )  # fmt: skip
    assert [output.answers for output in effects.outputs] == [True, False]
    assert effects.answer is not None
    assert effects.answer.status == "replied"


def test_no_limit_lets_everything_through_and_uncounted_messages_are_within(caplog: Any) -> None:
    caplog.set_level("DEBUG", logger="cauce")
    unlimited = Resources(settings=Settings(rate_limit_per_minute=0))
    assert replies(handled(message("Hola", count=900), here=unlimited))[0].source == "model"
    assert "rate_limit" not in caplog.text  # "900/0" would say that it is broken
    assert replies(handled(message("Hola", count=3)))[0].source == "model"
    assert "rate_limit.ok" in caplog.text
    assert replies(handled(message("Hola", count=None)))[0].source == "model"


def test_notices_and_failure_texts_are_not_read_by_the_model() -> None:
    engine = Scripted(["Sí"])
    here = Resources(settings=Settings(rate_limit_per_minute=1), engine=engine)
    noticed = handled(message("demasiado", count=2), here=here)
    handled(message("¿Hay turno?", number=2, count=1), here=here, **continued(noticed))

    assert [line.content for line in engine.asked[0].lines] == ["demasiado", "¿Hay turno?"]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "image", "text": "mi receta"}, "[imagen: mi receta]"),
        ({"kind": "location", "text": "", "content": {"name": "Plaza Murillo"}}, "[ubicación: Plaza Murillo]"),
        ({"kind": "location", "text": "", "content": {"latitude": -16.5, "longitude": -68.1}},
         "[ubicación: -16.5, -68.1]"),
        ({"kind": "contacts", "text": "", "content": {"contacts": [{"name": {"formatted_name": "Dr. Paz"}}]}},
         "[contacto: Dr. Paz]"),
        ({"kind": "interactive", "text": "Cancelar"}, "Cancelar"),
        ({"kind": "button", "text": "Confirmar"}, "Confirmar"),
        ({"kind": "hologram", "text": "algo nuevo"}, "[hologram: algo nuevo]"),
    ],
)  # fmt: skip
def test_what_is_not_text_reaches_the_model_as_a_short_description(fields: dict[str, Any], words: str) -> None:
    effects = handled(message(**fields))
    assert replies(effects)[0].message == words
    assert written(effects, "conversation")["messages"][0]["content"] == words
    assert written(effects, "conversation")["messages"][0]["metadata"] == {"kind": fields["kind"]}


@pytest.mark.parametrize(
    ("kind", "content", "recorded"),
    [
        ("audio", {"id": "1", "voice": True}, "[audio]"),
        ("sticker", None, "[sticker]"),
        ("image", {"id": "1"}, "[imagen]"),
        ("document", {"filename": "analisis.pdf"}, "[documento: analisis.pdf]"),
        ("document", {"document": {"filename": "analisis.pdf"}}, "[documento: analisis.pdf]"),
        ("contacts_v9", {"contacts": 7}, "[contacts_v9]"),
    ],
)
def test_a_turn_that_cannot_be_read_gets_a_polite_text(kind: str, content: Any, recorded: str) -> None:
    engine = Scripted([])
    effects = handled(message("", kind=kind, content=content), here=Resources(engine=engine))

    assert [(said.source, said.message) for said in replies(effects)] == [("fallback", Texts().not_text)]
    assert written(effects, "conversation")["messages"][0]["content"] == recorded
    assert engine.asked == []


@pytest.mark.parametrize(
    "content", [None, {}, {"contacts": [3, {"name": 4}, {}]}, {"name": ["x"]}, {"location": {"name": {}}}]
)
@pytest.mark.parametrize("kind", ["location", "contacts", "document", "order", "video"])
def test_no_content_that_meta_may_send_breaks_a_turn(kind: str, content: Any) -> None:
    assert len(replies(handled(message("", kind=kind, content=content)))) == 1


@pytest.mark.parametrize("kind", ["reaction", "unsupported", "system"])
def test_a_reaction_starts_nothing_and_is_forgotten(kind: str) -> None:
    silent = message("👍", kind=kind)
    assert asyncio.run(reply.handle(turn(silent))) is None

    effects = handled(silent, message("Hola", number=2))
    assert [one["content"] for one in written(effects, "conversation")["messages"]] == ["Hola", "Hola"]
    assert replies(effects)[0].in_reply_to == ["msg_2"]


def test_what_staff_said_is_recorded_in_order_and_nothing_is_generated() -> None:
    engine = Scripted([])
    effects = handled(
        message("Cita confirmada: martes 15:00", role="system"),
        message("¡Te esperamos!", number=2, role="assistant", send=True),
        here=Resources(engine=engine),
    )

    assert [(said.source, said.message, said.wa_id, said.id) for said in replies(effects)] == [
        ("staff", "¡Te esperamos!", "59112345678", f"reply_{NOON * 1000}-2")
    ]
    assert [(one["role"], one["content"]) for one in written(effects, "conversation")["messages"]] == [
        ("system", "Cita confirmada: martes 15:00"),
        ("assistant", "¡Te esperamos!"),
    ]
    assert effects.answer is None
    assert engine.asked == []


def test_what_staff_said_within_a_turn_stands_before_what_the_person_asks() -> None:
    engine = Scripted(["Claro."])
    handled(
        message("¿Sigue mi cita?"),
        message("La cita sigue en pie", number=2, role="system"),
        here=Resources(engine=engine),
    )
    assert [(line.role, line.content) for line in engine.asked[0].lines] == [
        ("system", "La cita sigue en pie"),
        ("user", "¿Sigue mi cita?"),
    ]


def test_while_a_person_has_taken_over_the_bot_records_and_is_silent() -> None:
    engine = Scripted([])
    effects = handled(message("¿Hola?"), here=Resources(engine=engine), paused=b"2025-10-05T12:00:00Z")
    assert effects.instead is not None
    still_paused = effects.instead()

    assert engine.asked == []
    assert still_paused is not None
    assert effects.unless == "paused"
    assert [(output.type, said.type, said.source, said.message) for output, said in zip(
        still_paused.outputs, replies(still_paused), strict=True
    )] == [("handover", "handover", "person", "¿Hola?")]  # fmt: skip
    assert still_paused.answer is not None
    assert still_paused.answer.status == "paused"
    assert written(still_paused, "conversation")["status"] == "paused"
    (pause,) = [write for write in still_paused.writes if write.kind == "paused"]
    assert (pause.value, pause.ttl_seconds) == (b"2025-10-05T22:00:05Z", 12 * 3600)


def test_a_pause_that_was_lifted_during_the_turn_is_not_renewed() -> None:
    effects = handled(message("¿Hola?"), paused=b"2025-10-05T12:00:00Z")
    assert [write.kind for write in effects.writes] == ["conversation", "conversation_meta"]
    assert written(effects, "conversation")["status"] == "active"


def test_renewing_never_shortens_a_longer_pause() -> None:
    effects = handled(message("¿Hola?"), paused=b"2025-10-07T10:00:05Z").instead()
    assert effects is not None
    (pause,) = [write for write in effects.writes if write.kind == "paused"]
    assert (pause.value, pause.ttl_seconds) == (b"2025-10-07T10:00:05Z", 48 * 3600)


def test_a_reply_made_while_somebody_paused_is_not_sent() -> None:
    effects = handled(message("Hola"))
    assert effects.unless == "paused"
    assert effects.instead is not None
    silent = effects.instead()
    assert [output.type for output in silent.outputs] == ["handover"]
    assert [one["role"] for one in written(silent, "conversation")["messages"]] == ["user"]
    assert silent.answer is not None
    assert silent.answer.status == "paused"


def test_asking_for_a_human_is_answered_and_pauses_the_bot() -> None:
    topology = Topology(actions=[Action(name="handoff", patterns=["humano"])])
    effects = handled(message("Quiero un humano"), here=Resources(topology=topology))

    (said,) = replies(effects)
    assert (said.action, said.source) == ("handoff", "model")
    assert written(effects, "conversation")["status"] == "paused"
    assert [write.value for write in effects.writes if write.kind == "paused"] == [b"2025-10-05T22:00:05Z"]


def test_an_action_travels_with_the_reply_and_to_the_waiting_request() -> None:
    topology = Topology(actions=[Action(name="book", patterns=[r"cita con (?P<doctor>\w+)"])])
    effects = handled(message("una cita con Soria"), here=Resources(topology=topology))

    assert (replies(effects)[0].action, replies(effects)[0].slots) == ("book", {"doctor": "Soria"})
    assert effects.answer is not None
    assert effects.answer.body["action"] == "book"
    assert effects.answer.body["slots"] == {"doctor": "Soria"}


def test_an_empty_output_is_tried_once_more_with_another_seed() -> None:
    engine = Scripted(["  ", "¡Hola!"])
    effects = handled(message("Hola"), here=Resources(engine=engine))

    assert replies(effects)[0].message == "¡Hola!"
    first, second = engine.asked
    assert first.sampling.seed != second.sampling.seed


def test_a_model_that_twice_says_nothing_is_a_failure() -> None:
    effects = handled(message("Hola"), here=Resources(engine=Scripted(["", " \n"])))
    assert [(said.source, said.message) for said in replies(effects)] == [("failure", Texts().failure)]
    assert effects.answer is not None
    assert (effects.answer.status, effects.answer.body["reply"]) == ("failed", Texts().failure)


HUMAN = Topology(actions=[Action(name="handoff", patterns=["hablar con una persona"])], texts=Texts(failure=""))


@pytest.mark.parametrize("says", [["", ""], [Refused("too long")], ["ok"]])
def test_who_asks_for_a_person_gets_one_whatever_the_model_says(says: list[str | Exception]) -> None:
    here = Resources(engine=Scripted(says), topology=HUMAN)
    effects = handled(message("Quiero hablar con una persona"), here=here)
    assert "paused" in {write.kind for write in effects.writes}


def test_who_asked_for_a_person_gets_one_even_where_the_turn_is_buried() -> None:
    asked = turn(message("Quiero hablar con una persona"), here=Resources(topology=HUMAN))
    effects = apologise(asked, "deadline passed")
    assert effects is not None
    assert "paused" in {write.kind for write in effects.writes}


def test_a_persons_words_stay_in_the_prompt_whatever_their_sender_calls_them() -> None:
    engine = Scripted(["Hola", "Sí"])
    first = handled(message("Me llamo Ana", metadata={"source": "notice"}), here=Resources(engine=engine))
    handled(message("¿Quién soy?", number=2), here=Resources(engine=engine), **continued(first))
    assert "Me llamo Ana" in [line.content for line in engine.asked[1].lines]


def test_what_staff_says_leaves_by_the_number_that_the_person_wrote_to() -> None:
    ours = {"phone_number_id": "106540352242922", "display_phone_number": "15550783881"}
    first = handled(message("Hola", metadata=ours))
    told = message("Su cita está confirmada", number=2, role="assistant", send=True)
    [said] = replies(handled(told, **continued(first)))
    assert said.metadata == ours


def test_two_degenerate_outputs_give_the_fallback() -> None:
    effects = handled(message("Hola"), here=Resources(engine=Scripted(["", "la la " * 40])))
    assert [(said.source, said.message) for said in replies(effects)] == [("fallback", Texts().fallback)]
    assert written(effects, "conversation")["messages"][-1]["metadata"] == {"source": "fallback"}


def test_a_greedy_model_is_tried_again_with_some_heat() -> None:
    engine = Scripted(["", "Hola"])
    handled(message("Hola"), here=Resources(engine=engine, topology=Topology(inference=Inference(temperature=0))))
    assert [request.sampling.temperature for request in engine.asked] == [0, 0.7]


def test_a_refused_request_gets_the_fallback_instead_of_attempts() -> None:
    effects = handled(message("Hola"), here=Resources(engine=Scripted([Refused("too long")])))
    assert replies(effects)[0].source == "fallback"


def test_an_engine_that_is_gone_is_not_the_turns_fault() -> None:
    with pytest.raises(Retry):
        handled(message("Hola"), here=Resources(engine=Scripted([Retry("gone", counted=False)])))


def test_an_empty_text_means_silence() -> None:
    here = Resources(topology=Topology(texts=Texts(not_text="", rate_limited="", failure="")))
    unread = handled(message("", kind="audio"), here=here)
    assert unread.outputs == []
    assert unread.answer is not None
    assert unread.answer.body["reply"] is None

    limited = handled(message("Hola", count=21), here=here)
    assert limited.outputs == []


def test_a_buried_turn_is_apologised_for_once_and_recorded() -> None:
    effects = apologise(turn(message("Hola")), "attempts used up")
    assert effects is not None
    assert [(said.source, said.message) for said in replies(effects)] == [("failure", Texts().failure)]
    assert effects.answer is not None
    assert (effects.answer.status, effects.answer.body["reply"]) == ("failed", Texts().failure)
    assert [one["role"] for one in written(effects, "conversation")["messages"]] == ["user", "assistant"]


def test_a_redriven_turn_is_answered_and_its_message_is_not_recorded_twice() -> None:
    buried = apologise(turn(message("Hola")), "attempts used up")
    assert buried is not None
    engine = Scripted(["¡Hola!"])
    again = handled(message("Hola"), here=Resources(engine=engine), **continued(buried))

    contents = [one["content"] for one in written(again, "conversation")["messages"]]
    assert contents.count("Hola") == 1
    assert [line.content for line in engine.asked[0].lines] == ["Hola"]


def test_a_body_that_is_not_ours_is_malformed_and_its_burial_still_apologises_to_the_others() -> None:
    broken = Message(id=f"{NOON * 1000}-7", type="text", body=b'{"user_id":')
    with pytest.raises(Malformed):
        handled(message("Hola"), broken)

    effects = apologise(turn(message("Hola"), broken), "malformed")
    assert effects is not None
    assert replies(effects)[0].in_reply_to == ["msg_1"]
    assert apologise(turn(broken), "malformed") is None


def test_a_buried_turn_without_opened_resources_uses_the_default_texts() -> None:
    closed = turn(message("Hola"))
    closed.resources = None
    effects = apologise(closed, "its worker died")
    assert effects is not None
    assert replies(effects)[0].message == Texts().failure


def test_a_clock_that_no_calendar_has_stops_no_reply() -> None:
    effects = handled(message("Hola", sent_at=1e300))
    assert written(effects, "conversation")["messages"][0]["timestamp"] == "2025-10-05T10:00:00"


def test_a_retry_asks_with_the_same_seed() -> None:
    engine = Scripted(["uno", "uno"])
    here = Resources(engine=engine)
    handled(message("Hola"), here=here)
    handled(message("Hola"), here=here)
    assert engine.asked[0].sampling == engine.asked[1].sampling


def test_echo_takes_its_time_if_told_to() -> None:
    assert Echo.named("echo?latency=0.05").latency_seconds == 0.05


@pytest.mark.parametrize("types", [("reply",), ("reply", "typing")])
def test_whoever_wants_to_know_is_told_that_a_reply_is_being_written(types: Any) -> None:
    said: list[Any] = []

    async def ahead(output: Any) -> None:
        said.append(output)

    here = Resources(topology=Topology(egress=Egress(types=types)))
    asked = turn(message("¿hay", number=1), message("alguien?", number=2), here=here)
    asked.ahead = ahead
    assert asyncio.run(reply.handle(asked)) is not None
    told = [(output.stream, output.type, output.body.type, output.body.in_reply_to) for output in said]
    assert told == ([("outbound", "typing", "typing", ["msg_1", "msg_2"])] if "typing" in types else [])


def test_while_a_model_is_away_it_is_said_once() -> None:
    said: list[Any] = []

    async def ahead(output: Any) -> None:
        said.append(output)

    engine = Scripted([Retry("away", counted=False), Retry("away", counted=False), "¡Hola!"])
    here = Resources(engine=engine, topology=Topology(egress=Egress(types=("reply", "typing"))))
    progress = ""
    for _ in range(2):
        again = turn(message(), here=here)
        again.ahead, again.progress = ahead, progress
        with pytest.raises(Retry) as away:
            asyncio.run(reply.handle(again))
        progress = away.value.progress or ""
    assert len(said) == 1
