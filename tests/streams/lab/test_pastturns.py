"""The turns of the past, told from what lies on the streams: what the log says is found again, whatever was said."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from streams.lab.pastturns import Came, Past, Went, Window, cut_of, message_id_of, names_of, turns

WINDOW = Window(debounce_ms=2000, debounce_max_ms=10_000, turn_max=50, turn_chars=16_000)


def came(*ms: int) -> list[Came]:
    """Entries at these times; `m<ms>` is what their senders call them."""
    return [Came((each, 0), 10, f"m{each}") for each in ms]


def went(cut: int, at: int, *names: int) -> Went:
    return Went((cut, 0), at, frozenset(f"m{name}" for name in names))


def found(entries: list[Came], ends: list[Went], window: Window = WINDOW) -> list[list[int]]:
    return [[entry.id[0] for entry in past.entries] for past in turns(entries, ends, window)]


def test_a_reply_says_which_messages_were_one_turn() -> None:
    # Far apart, for the model took its time; a window would have made four turns of them
    ends = [went(1000, 15_000, 1000), went(40_000, 50_000, 9000, 20_000, 40_000)]
    assert found(came(1000, 9000, 20_000, 40_000), ends) == [[1000], [9000, 20_000, 40_000]]


def test_close_together_they_were_two_turns_where_two_replies_say_so() -> None:
    assert found(came(1000, 1100), [went(1000, 1050, 1000), went(1100, 1200, 1100)]) == [[1000], [1100]]


def test_what_needs_no_answer_is_of_the_turn_whose_window_it_falls_into() -> None:
    # A reaction right before the question, and one long before it
    entries = came(1000, 60_000, 61_000)
    assert found(entries, [went(61_000, 64_000, 61_000)]) == [[1000], [60_000, 61_000]]


def test_where_nothing_was_appended_the_window_decides() -> None:
    assert found(came(0, 1500, 3000, 9000), []) == [[0, 1500, 3000], [9000]]
    # Which slides, but not for ever
    assert found(came(*range(0, 13_000, 1000)), []) == [list(range(0, 11_000, 1000)), [11_000, 12_000]]


def test_what_came_while_a_turn_was_in_work_waited_for_its_end() -> None:
    entries = came(0, 5000, 20_000, 29_000, 60_000)
    # An output that says of which turn it is, and not to what it answers
    assert found(entries, [went(0, 30_000)]) == [[0], [5000, 20_000, 29_000], [60_000]]


def test_a_request_that_waits_starts_its_turn_at_once() -> None:
    entries = [Came((0, 0), 1, "a", hurried=True), Came((500, 0), 1, "b")]
    assert found(entries, []) == [[0], [500]]


def test_a_turn_holds_no_more_than_it_may() -> None:
    assert found(came(0, 1, 2, 3, 4), [], WINDOW._replace(turn_max=2)) == [[0, 1], [2, 3], [4]]
    assert found(came(0, 1, 2, 3, 4), [], WINDOW._replace(turn_chars=30)) == [[0, 1, 2], [3, 4]]


def test_a_reply_whose_message_is_gone_is_passed_over() -> None:
    assert found(came(70_000), [went(1000, 3000, 1000), went(70_000, 73_000, 70_000)]) == [[70_000]]


def test_when_a_turn_began_is_the_end_of_its_window_and_no_later_than_its_end() -> None:
    assert [(past.began_ms, past.ended_ms) for past in turns(came(0, 1000), [], WINDOW)] == [(3000, None)]
    assert [past.began_ms for past in turns(came(0), [went(0, 900, 0)], WINDOW)] == [900]


@st.composite
def pasts(draw: st.DrawFn) -> list[tuple[list[Came], Went | None]]:
    """Turns as a pipeline may have made them: each with a reply that names what it answers, or silent and apart."""
    story: list[tuple[list[Came], Went | None]] = []
    at = 0
    for _ in range(draw(st.integers(0, 8))):
        answered = draw(st.booleans())
        at += draw(st.integers(1, 30_000)) if answered else 60_000
        gaps = draw(st.lists(st.integers(1, 20_000 if answered else 300), min_size=0, max_size=5))
        entries = came(at)
        for gap in gaps:
            at += gap
            entries += came(at)
        if not answered:
            at += 60_000
            story.append((entries, None))
            continue
        # What comes during the turn waits for the next; the reply is told of every message, or of the last alone.
        at += draw(st.integers(0, 5000))
        names = frozenset(entry.message_id for entry in entries)
        story.append((entries, Went(entries[-1].id, at, names)))
    return story


@given(pasts())
def test_whatever_was_said_the_turns_are_found_again(story) -> None:
    entries = [entry for turn, _ in story for entry in turn]
    ends = [end for _, end in story if end is not None]
    again = list(turns(entries, ends, WINDOW))
    assert [past.entries for past in again] == [turn for turn, _ in story]
    assert [past.ended_ms for past in again] == [end.at_ms if end else None for _, end in story]


@given(
    st.lists(st.integers(0, 10**6), unique=True).map(sorted), st.lists(st.integers(0, 10**6), unique=True).map(sorted)
)
def test_every_entry_is_in_one_turn_and_none_twice_whatever_the_log_holds(times, cuts) -> None:
    again: list[Past] = list(turns(came(*times), [went(cut, cut + 1, cut) for cut in cuts], WINDOW))
    assert [entry.id[0] for past in again for entry in past.entries] == times
    assert all(past.entries and past.began_ms >= past.entries[-1].id[0] for past in again)


def test_a_body_tells_of_which_turn_it_is() -> None:
    body = json.dumps({"id": "reply_1728123456789-3.s2.4", "in_reply_to": ["a", "b"], "message_id": "c"}).encode()
    assert cut_of(body) == (1728123456789, 3)
    assert names_of(body) == {"a", "b"}
    assert message_id_of(body) == "c"
    for other in (
        b"",
        b"null",
        b"[]",
        b'{"id": 7, "in_reply_to": {}, "message_id": null}',
        b'{"id": "typing_1-1"}',
        b"\xff",
    ):
        assert (cut_of(other), names_of(other), message_id_of(other)) == (None, frozenset(), "")
