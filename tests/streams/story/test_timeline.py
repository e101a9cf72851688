"""Facts about a message become its timeline; pure."""

from __future__ import annotations

from typing import Any

from streams.effects import Note
from streams.journal import Ending, Told
from streams.story.timeline import Fare, Letter, Passage, Standing, Status, Timeline, build, folded

SETTLED = Standing(state="settled")
AT = 1728123456789


def an_ending(group: str, at_ms: int, of: str = f"{AT}-0", **told: Any) -> Ending:
    return Ending(group, at_ms, Told(of=told.pop("all", [of]), at=told.pop("at", at_ms - 10), **told))


def a_fare(*endings: Ending, group: str = "inference", **how: Any) -> Fare:
    return Fare(group=group, standing=how.pop("standing", SETTLED), endings=list(endings), **how)


def a_message(*fares: Fare, **how: Any) -> Passage:
    return Passage(
        stream="inbound",
        id=f"{AT}-0",
        person="+591",
        type="text",
        received_ms=how.pop("received_ms", AT - 2),
        fares=list(fares),
        **how,
    )


def a_reply(*fares: Fare, **how: Any) -> Passage:
    return Passage(
        stream="outbound", id=f"{AT + 20}-0", person="+591", type=how.pop("type", "reply"), fares=list(fares), **how
    )


def kinds(told: Timeline) -> list[str]:
    return [step.kind for step in told.steps]


def posted(at_ms: int, status: int = 200, **told: Any) -> Ending:
    return an_ending("egress", at_ms, f"{AT + 20}-0", notes=[Note(3, "posted", {"status": status})], **told)


def test_steps_come_in_the_order_of_time_with_the_wait_before_each() -> None:
    told = build(a_message(a_fare(an_ending("inference", AT + 15))), [], now_ms=AT + 99)
    assert [(step.kind, step.at_ms - AT, step.wait_ms) for step in told.steps] == [
        ("received", -2, 0), ("appended", 0, 2), ("taken", 5, 5), ("committed", 15, 10),
    ]  # fmt: skip


def test_it_took_until_its_outcome_and_not_until_a_group_beside_it_was_through() -> None:
    def took(reply: Fare, message: Fare) -> int | None:
        late = a_fare(an_ending("archive", AT + 90_000), group="archive")
        return build(a_message(message, late, outputs=[a_reply(reply)]), [], now_ms=AT + 99_000).took_ms

    made = a_fare(an_ending("inference", AT + 15))
    assert took(a_fare(posted(AT + 40), group="egress"), made) == 40
    assert took(a_fare(posted(AT + 40), group="egress"), a_fare(an_ending("inference", AT + 15, end="buried"))) == 15
    unsent = an_ending("egress", AT + 40, f"{AT + 20}-0", notes=[Note(3, "unsent", {})])
    assert took(a_fare(unsent, group="egress"), made) == 40


def test_a_reply_comes_after_the_commit_that_appended_it_and_not_before() -> None:
    # Where Redis's clock moved on within the act
    commit = an_ending("inference", AT + 25)
    assert kinds(build(a_message(a_fare(commit), outputs=[a_reply()]), [], now_ms=AT))[-2:] == ["committed", "replied"]
    # But what was said ahead, while the turn was in work, stands where it was said
    commit = an_ending("inference", AT + 900)
    assert kinds(build(a_message(a_fare(commit), outputs=[a_reply()]), [], now_ms=AT))[-1] == "committed"


def test_an_ingress_whose_clock_is_ahead_does_not_turn_time_back() -> None:
    assert kinds(build(a_message(received_ms=None), [], now_ms=AT)) == ["appended"]
    ahead = a_message(received_ms=AT + 500)
    assert [(step.kind, step.at_ms) for step in build(ahead, [], now_ms=AT).steps] == [
        ("received", AT),
        ("appended", AT),
    ]


def test_what_came_of_it_decides_the_outcome() -> None:
    ours = a_fare(an_ending("inference", AT + 15))
    sent, refused = a_fare(posted(AT + 40), group="egress"), a_fare(posted(AT + 40, 400, end="buried"), group="egress")
    unsent = a_fare(an_ending("egress", AT + 30, notes=[Note(0, "unsent", {})]), group="egress")
    waiting = a_fare(group="egress", standing=Standing(state="waiting", due_ms=5000, starts=1))
    for outcome, outputs in {
        "silent": [], "delivered": [a_reply(sent)], "dead": [a_reply(sent), a_reply(refused)],
        "unsent": [a_reply(unsent)], "waiting": [a_reply(refused), a_reply(waiting)],
    }.items():  # fmt: skip
        told = build(a_message(ours, outputs=outputs), [], now_ms=AT + 99)
        assert told.outcome == outcome
        assert (told.took_ms is None) == (outcome == "waiting")
    # What egress writes of it to a stream of its own, for the archive, is not what came of the message
    noted = Passage(
        stream="deliveries", id=f"{AT + 40}-0", type="delivered", fares=[a_fare(an_ending("archive", AT + 45))]
    )
    told = build(a_message(ours, outputs=[a_reply(sent, outputs=[noted])]), [], now_ms=AT + 99)
    assert told.outcome == "delivered"
    # That somebody was told to be typing decides nothing
    assert build(a_message(ours, outputs=[a_reply(unsent, type="typing")]), [], now_ms=AT).outcome == "silent"
    assert build(a_message(a_fare(an_ending("inference", AT + 15, end="buried"))), [], now_ms=AT).outcome == "dead"
    assert build(a_message(), [], now_ms=AT).outcome == "unknown"


def test_a_group_beside_that_lags_keeps_no_reply_waiting() -> None:
    # Given a reply that was posted, and an archive that has settled neither the message nor the reply
    ours, sent = a_fare(an_ending("inference", AT + 15)), a_fare(posted(AT + 40), group="egress")
    unread = Standing(state="unread")
    lagging, behind = a_fare(group="archive", standing=unread, beside=True), a_fare(group="copies", standing=unread)
    reply = a_reply(sent)
    reply.fares.append(behind)

    # Then it is delivered, and the archive's part is told all the same
    told = build(a_message(ours, lagging, outputs=[reply]), [], now_ms=AT + 99)
    assert told.outcome == "delivered"
    assert told.took_ms == 40
    assert kinds(told).count("unread") == 2

    # As it is where the archive has buried the message, or has yet to read what egress wrote of the delivery
    refusing = a_fare(an_ending("archive", AT + 20, end="buried", why="no"), group="archive", beside=True)
    letter = Letter(id=f"{AT + 20}-0", group="archive", reason="no", at_ms=AT + 20)
    reply.outputs.append(Passage(stream="deliveries", id=f"{AT + 41}-0", fares=[behind]))
    told = build(a_message(ours, refusing, letters=[letter], outputs=[reply]), [], now_ms=AT + 99)
    assert told.outcome == "delivered"

    # But a reply of which a part is still to come is not
    parked = a_fare(
        posted(AT + 40, end="parked"), group="egress", standing=Standing(state="waiting", due_ms=9, starts=1)
    )
    assert build(a_message(ours, outputs=[a_reply(parked)]), [], now_ms=AT + 99).outcome == "waiting"


def test_a_letter_that_was_put_back_goes_on_in_the_same_story() -> None:
    again = Passage(
        stream="inbound", id=f"{AT + 500}-0", fares=[a_fare(an_ending("inference", AT + 550, f"{AT + 500}-0"))]
    )
    dead = a_fare(an_ending("inference", AT + 15, end="buried", why="no"))
    letter = Letter(id=f"{AT + 15}-0", group="inference", reason="no", at_ms=AT + 15)
    told = build(a_message(dead, letters=[letter], redriven=[again]), [], now_ms=AT + 999)
    assert kinds(told) == ["received", "appended", "taken", "dead", "redriven", "taken", "committed"]
    assert told.steps[3].facts["letter"] == letter.id
    assert (told.outcome, folded(told)["redriven"]) == ("silent", 1)


def test_what_came_back_for_a_group_beside_decides_nothing() -> None:
    # Given a message that was answered, which a group beside has buried, and its letter that was put back
    ours = a_fare(an_ending("inference", AT + 15))
    sent = a_reply(a_fare(posted(AT + 40), group="egress"))
    poison = a_fare(an_ending("poison", AT + 20, end="buried", why="no"), group="poison", beside=True)
    letter = Letter(id=f"{AT + 20}-0", group="poison", reason="no", at_ms=AT + 20)
    late = an_ending("poison", AT + 140_000, f"{AT + 130_000}-0")
    for ended in (late, an_ending("poison", AT + 140_000, f"{AT + 130_000}-0", end="buried")):
        again = Passage(
            stream="inbound", id=f"{AT + 130_000}-0", fares=[a_fare(ended, group="poison", beside=True)]
        )  # fmt: skip
        answered = build(a_message(ours, poison, outputs=[sent], redriven=[again]), [], now_ms=AT + 150_000)
        # Then it is as it was, and what came of the letter is told
        assert (answered.outcome, answered.took_ms, folded(answered)["redriven"]) == ("delivered", 40, 1)
        silent = build(a_message(ours, poison, letters=[letter], redriven=[again]), [], now_ms=AT + 150_000)
        assert (silent.outcome, silent.took_ms) == ("silent", 15)
    # So it is while that group has not taken it, and where the entry has gone and only its journal tells of it
    unread = a_fare(group="poison", standing=Standing(state="unread"), beside=True)
    gone = Passage(
        stream="inbound", id=f"{AT + 130_000}-0", there=False,
        fares=[a_fare(), a_fare(late, group="poison", beside=True)],
    )  # fmt: skip
    for again in (Passage(stream="inbound", id=f"{AT + 130_000}-0", fares=[unread]), gone):
        assert build(a_message(ours, outputs=[sent], redriven=[again]), [], now_ms=AT + 150_000).outcome == "delivered"

    # Of a reply, what came back counts for its own group only
    again = Passage(stream="outbound", id=f"{AT + 500}-0", fares=[a_fare(group="copies")])
    buried = a_fare(an_ending("copies", AT + 50, f"{AT + 20}-0", end="buried"), group="copies")
    unsent = a_fare(an_ending("egress", AT + 30, notes=[Note(0, "unsent", {})]), group="egress")
    waiting = a_fare(group="egress", standing=Standing(state="waiting", due_ms=5000, starts=1))
    for fare, outcome in ((a_fare(posted(AT + 40), group="egress"), "delivered"), (unsent, "unsent"),
                          (waiting, "waiting")):  # fmt: skip
        reply = a_reply(fare, buried, redriven=[again])
        assert build(a_message(ours, outputs=[reply]), [], now_ms=AT + 999).outcome == outcome


def test_attempts_of_which_nothing_is_told_were_lost_with_their_worker() -> None:
    third = an_ending("inference", AT + 90, attempt=3)
    assert kinds(build(a_message(a_fare(third)), [], now_ms=AT)) == [
        "received", "appended", "lost", "lost", "taken", "committed"
    ]  # fmt: skip
    # But not where the journal begins later, nor of what joined a turn that had been tried before
    assert "lost" not in kinds(build(a_message(a_fare(third, whole=False)), [], now_ms=AT))
    joined = an_ending("inference", AT + 90, attempt=3, all=[f"{AT - 9}-0", f"{AT}-0"])
    assert "lost" not in kinds(build(a_message(a_fare(joined)), [], now_ms=AT))
    # A start that was taken back is no attempt
    parked = an_ending("inference", AT + 15, end="parked", counted=False, wait_ms=5)
    assert "lost" not in kinds(build(a_message(a_fare(parked, an_ending("inference", AT + 40))), [], now_ms=AT))


def test_what_a_turn_notes_of_some_of_its_messages_is_not_told_of_the_others() -> None:
    of = [f"{AT}-0", f"{AT}-10"]
    over = Note(1, "rate_limited", {"since": of[1], "count": 21, "limit": 20})
    turn = an_ending("inference", AT + 15, all=of, notes=[over, Note(2, "generated", {"ms": 1})])
    first = a_message(a_fare(turn))
    last = a_message(a_fare(turn))
    last.id = of[1]
    assert "rate_limited" not in kinds(build(first, [], now_ms=AT))
    [step] = [step for step in build(last, [], now_ms=AT).steps if step.kind == "rate_limited"]
    assert step.facts == {"count": 21, "limit": 20}


def test_what_is_not_settled_says_what_it_waits_for() -> None:
    for standing, kind, facts in (
        (Standing(state="unread"), "unread", {}),
        (Standing(state="waiting", due_ms=1500, starts=2), "waiting", {"due_ms": 1500, "attempts": 2}),
        (Standing(state="in_work", starts=1, consumer="g-1"), "in_work", {"attempt": 1, "worker": "g-1"}),
    ):
        told = build(a_message(a_fare(standing=standing)), [], now_ms=AT + 700)
        assert (told.steps[-1].kind, told.steps[-1].facts, told.steps[-1].at_ms) == (kind, facts, AT + 700)
        assert told.outcome == "waiting"


def test_what_cannot_be_told_is_named() -> None:
    gone = Passage(stream="inbound", id=f"{AT}-0", there=False, fares=[a_fare()])
    assert build(gone, [], now_ms=AT).gaps == [
        f"{AT}-0 has gone from inbound", f"the journal of inference does not tell how {AT}-0 ended",
    ]  # fmt: skip
    cut = a_message(a_fare(complete=False))
    assert "as far as it was read" in build(cut, [], now_ms=AT).gaps[0]


def test_metas_statuses_are_steps_of_their_own() -> None:
    failed = Status(
        wamid="wamid.x", status="failed", at_ms=AT + 60, told_ms=AT + 55, why="131047 Re-engagement message"
    )
    told = build(a_message(a_fare(an_ending("inference", AT + 15))), [failed], now_ms=AT + 99)
    assert (told.steps[-1].kind, told.steps[-1].facts["why"]) == ("meta_failed", "131047 Re-engagement message")
    assert folded(told)["meta"] == "failed"
