"""Which message counts as what."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from processors import analytics
from streams import Message, Tally, Turn, wire

ANA = "+59112345678"
AT = 1_728_123_456_789
CONVERSATION = f"conv_{ANA}_1728120000"


def turn(body: Any, type: str = "text") -> Turn:
    raw = body if isinstance(body, bytes) else wire.encode(body)
    return Turn(group="analytics", key="1-0", messages=[Message(id=f"{AT}-0", type=type, body=raw)])


def tallies(handler: Any, body: Any) -> list[Tally]:
    [effects] = asyncio.run(handler.handle([turn(body)]))
    return [] if effects is None else effects.tallies


def reply(**more: Any) -> wire.Reply:
    given = {"id": f"reply_{AT - 1500}-0", "user_id": ANA, "message": "Hola", "created_at": "2024-10-05T10:17:36Z"}
    return wire.Reply(**given | more)


def test_a_persons_message_counts_and_so_does_the_person() -> None:
    said = wire.Inbound(user_id=ANA, message_id="m1", text="Hola")
    assert tallies(analytics.messages, said) == [Tally(at_ms=AT, counts={"messages_in": 1}, distinct={"people": ANA})]


def test_what_staff_or_n8n_told_is_nobodys_message() -> None:
    said = wire.Inbound(user_id=ANA, message_id="m1", role="assistant", text="Cita confirmada")
    assert tallies(analytics.messages, said) == [Tally(at_ms=AT, counts={"told": 1})]


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        ({}, {}),
        ({"source": "cache"}, {"cache_hits": 1}),
        ({"source": "notice"}, {"rate_limited": 1}),
        ({"source": "fallback"}, {"fallbacks": 1}),
        ({"source": "failure"}, {"failures": 1}),
        ({"action": "book"}, {"actions.book": 1}),
        ({"source": "action", "action": "a:b"}, {"actions.a_b": 1}),
    ],
    ids=str,
)
def test_a_reply_counts_by_what_it_comes_from_and_how_long_it_took(given: dict[str, Any], counts: Any) -> None:
    [tally] = tallies(analytics.replies, reply(**given))
    took = {} if given.get("source") == "notice" else {"reply": 1500}
    assert tally == Tally(at_ms=AT, counts={"messages_out": 1} | counts, timings=took)


def test_only_the_first_answer_of_a_turn_says_how_long_it_took() -> None:
    sharded = reply(id=f"reply_{AT - 1500}-0.s3")
    assert tallies(analytics.replies, sharded)[0].timings == {"reply": 1500}
    for other in (
        reply(id=f"reply_{AT - 1500}-0.2"),
        reply(id="made elsewhere"),
        reply(source="staff"),
        reply(source="notice"),
    ):
        assert tallies(analytics.replies, other)[0].timings == {}
    assert tallies(analytics.replies, reply(source="staff"))[0].counts == {"messages_out": 1, "by_staff": 1}


def test_a_conversation_is_new_when_it_began_however_late_it_is_heard_of() -> None:
    _, new = tallies(analytics.replies, reply(conversation_id=CONVERSATION))
    assert new == Tally(at_ms=1_728_120_000_000, distinct={"new_conversations": CONVERSATION})
    assert len(tallies(analytics.replies, reply(conversation_id="theirs"))) == 1


def test_a_handover_is_no_message_and_typing_is_nothing() -> None:
    handed = tallies(analytics.replies, reply(type="handover", source="person", conversation_id=CONVERSATION))
    assert [each.counts for each in handed] == [{"handovers": 1}, {}]
    assert tallies(analytics.replies, reply(type="typing", id="typing_1-0")) == []


@pytest.mark.parametrize(
    ("content", "counts"),
    [
        ({}, {"statuses.failed": 1}),
        ({"errors": [{"code": 131047}, {"code": 131047}, "?"]}, {"statuses.failed": 1, "failed.131047": 1}),
        ({"errors": "none"}, {"statuses.failed": 1}),
        ({"errors": [{"code": "x" * 99}]}, {"statuses.failed": 1, "failed." + "x" * 60: 1}),
    ],
    ids=str,
)
def test_metas_statuses_count_by_what_they_say_and_failures_by_their_code(content: Any, counts: Any) -> None:
    told = wire.Status(message_id="wamid.x", status="failed", content=content)
    assert tallies(analytics.statuses, told) == [Tally(at_ms=AT, counts=counts)]
    read = wire.Status(message_id="wamid.x", status="read", content={"errors": [{"code": 1}]})
    assert tallies(analytics.statuses, read) == [Tally(at_ms=AT, counts={"statuses.read": 1})]


@pytest.mark.parametrize("handler", [analytics.messages, analytics.replies, analytics.statuses])
def test_what_is_none_of_ours_spoils_nothing(handler: Any) -> None:
    given = [turn(b"no json"), turn({"other": 1})]
    assert asyncio.run(handler.handle(given)) == [None, None]


def test_it_imports_nothing_of_ours_but_streams() -> None:
    assert msgspec.structs.fields(Tally)
    source = analytics.__file__
    with open(source, encoding="utf-8") as file:
        ours = [line for line in file if line.startswith(("from ", "import ")) and "streams" in line]
    assert ours == [
        "from streams import Effects, Message, Tally, Turn, handler\n",
        "from streams.errors import Malformed\n",
        "from streams.wire import Inbound, Reply, Status\n",
    ]
