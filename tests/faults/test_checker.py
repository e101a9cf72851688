"""The checker finds each thing that must never be, where it is the only thing wrong; and nothing where nothing is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.faults.checker import Delivery, Entry, Evidence, Line, Message, Reply, Told, violations

ANA, LUZ = "+59170000001", "+59170000002"


def sound() -> Evidence:
    """
    Two people: a burst of two and two messages by themselves, and one message of another's.

    One delivery came twice, and a request that waited brought back the last reply, twice.
    """
    evidence = Evidence(
        said=[
            Message(ANA, "m1", "uno", ["1-0"], firsts=1),
            Message(ANA, "m2", "dos", ["1-1", "1-1"], firsts=1, unknown=1),
            Message(LUZ, "m1", "hola", ["2-0"], firsts=1, refused=3),
            Message(ANA, "m3", "tres", ["10-0"], unknown=1),
            Message(ANA, "m4", "cuatro", ["20-0", "20-0"], firsts=1, told=[Told("reply_20-0", "cuatro", ("m4",))] * 2),
        ],
        inbound=[
            Entry("1-0", ANA, "m1", "uno"), Entry("1-1", ANA, "m2", "dos"), Entry("2-0", LUZ, "m1", "hola"),
            Entry("10-0", ANA, "m3", "tres"), Entry("20-0", ANA, "m4", "cuatro"),
        ],
        outbound=[
            Reply("3-0", ANA, "reply_1-1", ("m1", "m2"), "uno\ndos"), Reply("3-1", LUZ, "reply_2-0", ("m1",), "hola"),
            Reply("11-0", ANA, "reply_10-0", ("m3",), "tres"), Reply("21-0", ANA, "reply_20-0", ("m4",), "cuatro"),
        ],
        histories={
            ANA: [
                Line("user", "m1", "uno"), Line("user", "m2", "dos"), Line("assistant", "reply_1-1", "uno\ndos"),
                Line("user", "m3", "tres"), Line("assistant", "reply_10-0", "tres"),
                Line("user", "m4", "cuatro"), Line("assistant", "reply_20-0", "cuatro"),
            ],
            LUZ: [Line("user", "m1", "hola"), Line("assistant", "reply_2-0", "hola")],
        },
        counts={ANA: 7, LUZ: 2},
        deliveries=[],
    )  # fmt: skip
    for number in (0, 0, 1, 2):
        reply = evidence.outbound[number]
        body = f"{reply.person}: {reply.text}"
        evidence.deliveries.append(
            Delivery(reply.id, reply.person, body, reply.text, reply.in_reply_to, taken=True, signed=True)
        )
    return evidence


def test_a_run_in_which_all_promises_were_kept_has_no_violations() -> None:
    assert violations(sound()) == []


def broken(how: Callable[[Evidence], object]) -> set[str]:
    evidence = sound()
    how(evidence)
    return {violation.rule for violation in violations(evidence)}


def change(rows: list, place: int, **fields: object) -> None:  # type: ignore[type-arg]  # rows of any of its shapes
    rows[place] = replace(rows[place], **fields)


def swap(rows: list) -> None:  # type: ignore[type-arg]
    rows[0], rows[-1] = rows[-1], rows[0]


NOTHING = Evidence(said=[], inbound=[], outbound=[], histories={}, counts={}, deliveries=[])


def test_a_run_in_which_nothing_happened_fails() -> None:
    assert {violation.what for violation in violations(NOTHING)} == {
        "nothing was said", "nothing was taken", "nothing was on inbound", "nothing was on outbound",
        "nothing was remembered", "nothing was delivered",
    }  # fmt: skip


def test_a_run_in_which_nothing_was_taken_fails() -> None:
    refused = replace(NOTHING, said=[Message(ANA, "m1", "uno", refused=9)])
    assert "nothing was taken" in {violation.what for violation in violations(refused)}


@pytest.mark.parametrize(("rule", "how"), [
    ("lost", lambda it: it.said.append(Message(ANA, "m5", "cinco", ["30-0"], firsts=1))),
    ("doubled", lambda it: it.inbound.append(Entry("10-1", ANA, "m3", "tres"))),
    ("doubled", lambda it: change(it.said, 1, firsts=2)),
    ("forged", lambda it: it.said.pop(2)),
    ("forged", lambda it: change(it.said, 0, text="otra cosa")),
    ("unstable", lambda it: change(it.said, 0, entries=["1-0", "7-0"])),
    ("refused", lambda it: change(it.said, 0, entries=[], firsts=0, refused=1)),
    ("strange", lambda it: it.said[0].strange.append("500 internal")),
])  # fmt: skip
def test_at_the_front_door(rule: str, how: Callable[[Evidence], object]) -> None:
    assert rule in broken(how)


def test_a_message_whose_every_answer_was_lost_may_be_there_or_not() -> None:
    assert broken(lambda it: change(it.said, 3, entries=[])) == set()
    assert broken(lambda it: it.said.append(Message(ANA, "m5", "cinco", unknown=1))) == set()
    assert broken(lambda it: it.said.append(Message(ANA, "m5", "cinco", refused=1))) == set()


def unanswered(it: Evidence) -> None:
    """As if LUZ's message had never been taken."""
    del it.outbound[1], it.deliveries[2], it.histories[LUZ], it.counts[LUZ]


def answered_twice(it: Evidence) -> None:
    it.outbound.append(replace(it.outbound[2], entry="12-0"))


@pytest.mark.parametrize(("rule", "how"), [
    ("lost", unanswered),
    ("lost", lambda it: change(it.outbound, 0, in_reply_to=("m2",))),
    ("doubled", answered_twice),
    ("doubled", lambda it: change(it.outbound, 2, in_reply_to=("m2", "m3"))),
    ("forged", lambda it: it.outbound.append(Reply("12-0", LUZ, "reply_9-0", ("m9",), ""))),
    ("forged", lambda it: change(it.outbound, 1, text="otra cosa")),
    ("forged", lambda it: change(it.outbound, 1, person=ANA)),
    ("unstable", lambda it: change(it.outbound, 0, id="reply_1-0")),
])  # fmt: skip
def test_in_the_replies(rule: str, how: Callable[[Evidence], object]) -> None:
    assert rule in broken(how)


@pytest.mark.parametrize("how", [
    lambda it: swap(it.said),
    lambda it: change(it.outbound, 0, in_reply_to=("m2", "m1")),
    lambda it: swap(it.outbound),
    lambda it: swap(it.deliveries),
])  # fmt: skip
def test_in_the_order(how: Callable[[Evidence], object]) -> None:
    assert "order" in broken(how)


def test_a_delivery_that_nobody_took_is_no_reason_for_the_next_one_to_overtake_it() -> None:
    def overtaken(it: Evidence) -> None:
        first, again, other, next = it.deliveries
        it.deliveries = [replace(first, taken=False), other, next, again]

    assert broken(overtaken) == {"order"}
    # But what was taken may come again, however late
    assert broken(lambda it: it.deliveries.append(it.deliveries[0])) == set()


@pytest.mark.parametrize("how", [
    lambda it: it.histories[ANA].pop(0),
    lambda it: it.histories[ANA].pop(),
    lambda it: it.histories[ANA].insert(1, it.histories[ANA][0]),
    lambda it: it.histories[ANA].append(it.histories[ANA][-1]),
    lambda it: swap(it.histories[ANA]),
    lambda it: change(it.histories[ANA], 0, text="otra cosa"),
    lambda it: change(it.histories[ANA], 2, text="otra cosa"),
    lambda it: change(it.histories[ANA], 0, id="m9"),
    lambda it: change(it.histories[ANA], 2, role="user"),
    lambda it: it.histories.pop(LUZ),
    lambda it: it.histories.update({"+59170000003": [Line("user", "m1", "hola")]}),
    lambda it: it.counts.update({ANA: 4}),
    lambda it: it.counts.pop(LUZ),
])  # fmt: skip
def test_in_the_history(how: Callable[[Evidence], object]) -> None:
    assert broken(how) == {"history"}


@pytest.mark.parametrize(("rule", "how"), [
    ("undelivered", lambda it: it.deliveries.pop()),
    ("undelivered", lambda it: change(it.deliveries, 3, taken=False)),
    ("forged", lambda it: it.deliveries.append(replace(it.deliveries[0], id="reply_9-0"))),
    ("forged", lambda it: change(it.deliveries, 2, signed=False)),
    ("unstable", lambda it: change(it.deliveries, 1, body="other bytes")),
    ("unstable", lambda it: change(it.deliveries, 2, text="otra cosa")),
    ("unstable", lambda it: change(it.deliveries, 3, in_reply_to=("m2", "m3"))),
    ("unstable", lambda it: change(it.deliveries, 2, person=ANA)),
    ("undelivered", lambda it: change(it.deliveries, 3, id="reply_10-0.2")),
])  # fmt: skip
def test_at_the_webhook(rule: str, how: Callable[[Evidence], object]) -> None:
    assert rule in broken(how)


def tell(it: Evidence, place: int, *told: Told) -> None:
    change(it.said, place, told=list(told))


@pytest.mark.parametrize(("rule", "how"), [
    ("undelivered", lambda it: tell(it, 4)),
    ("both doors", lambda it: it.deliveries.append(Delivery("reply_20-0", ANA, "", "cuatro", ("m4",), False, True))),
    ("both doors", lambda it: tell(it, 3, Told("reply_10-0", "tres", ("m3",)))),
    ("forged", lambda it: tell(it, 4, Told("reply_19-0", "cuatro", ("m4",)))),
    ("forged", lambda it: tell(it, 4, Told("reply_10-0", "tres", ("m3",)))),
    ("forged", lambda it: tell(it, 2, Told("reply_20-0", "cuatro", ("m4",)))),
    ("unstable", lambda it: it.said[4].told.append(Told("reply_20-0", "otra cosa", ("m4",)))),
    ("unstable", lambda it: it.said[4].told.append(Told("reply_20-0", "cuatro", ("m3", "m4")))),
])  # fmt: skip
def test_at_the_door_of_a_request_that_waits(rule: str, how: Callable[[Evidence], object]) -> None:
    assert rule in broken(how)


@pytest.mark.parametrize("what", ["buried", "unsettled", "died"])
def test_what_is_left_when_all_should_be_quiet(what: str) -> None:
    assert broken(lambda it: getattr(it, what).append("something")) == {what}
