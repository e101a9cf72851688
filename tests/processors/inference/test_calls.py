"""Calls in what a model wrote: every family's, and whatever else it may write."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from processors.inference.calls import MARKS, MOST_CALLS, MOST_CHARS, hear
from processors.inference.calls import given as handed

BOOK = '{"name": "book", "arguments": {"date": "martes"}}'
CALLED = [("book", {"date": "martes"})]


def called(text: str) -> list[tuple[str, object]]:
    return [(call.name, call.arguments) for call in hear(text).calls]


@pytest.mark.parametrize("text", [
    f"<tool_call>\n{BOOK}\n</tool_call>",
    f"<tool_call>{BOOK}",  # and the model's own stop follows
    f"<tool_call>[{BOOK}]</tool_call>",
    '<tool_call>{"type": "function", "function": ' + BOOK + "}</tool_call>",
    '<tool_call>{"name": "book", "arguments": "{\\"date\\": \\"martes\\"}"}</tool_call>',
    '<tool_call>{"arguments": {"date": "martes"}, "name": "book"}</tool_call>',
    "<tool_call>\n<function=book>\n<parameter=date>\nmartes\n</parameter>\n</function>\n</tool_call>",
    '{"name": "book", "parameters": {"date": "martes"}}',
    '\n{"type": "function", "name": "book", "parameters": {"date": "martes"}}\n',
    '<|python_tag|>{"name": "book", "parameters": {"date": "martes"}}',
    '<function=book>{"date": "martes"}</function>',
    '<function=book>{"date": "martes"}',
    f"[TOOL_CALLS] [{BOOK}]",
    f"[TOOL_CALLS][{BOOK}][/TOOL_CALLS]",
    '[TOOL_CALLS]book[ARGS]{"date": "martes"}',
    '[TOOL_CALLS]book[CALL_ID]a1b2c3d4e[ARGS]{"date": "martes"}',
    '[TOOL_CALLS]book{"date": "martes"}',
    f"[{BOOK}]",
])  # fmt: skip
def test_a_call_is_read_in_every_familys_way(text: str) -> None:
    assert (hear(text).words, called(text)) == ("", CALLED)


@pytest.mark.parametrize("text", ["", "hola", "  ¿El martes?\n", "[1] y {2}", '{"horario": "8 a 18"}', "a < b > c"])
def test_words_are_words(text: str) -> None:
    assert hear(text) == (text, ())


def test_the_words_around_a_call_stay_without_its_marks() -> None:
    heard = hear(f"Claro, un momento.\n<tool_call>\n{BOOK}\n</tool_call>\nLe aviso.")
    assert heard.words == "Claro, un momento.\n\nLe aviso."
    assert hear(f"Un momento. [TOOL_CALLS] [{BOOK}]").words == "Un momento."


@pytest.mark.parametrize("text", [
    f"<tool_call>{BOOK}</tool_call>\n<tool_call>{BOOK}</tool_call>",
    f"<tool_call>{BOOK}\n{BOOK}</tool_call>",
    f"{BOOK}; {BOOK}",
    f"[TOOL_CALLS][{BOOK}, {BOOK}]",
    '[TOOL_CALLS]book[ARGS]{"date": "martes"}[TOOL_CALLS]book[ARGS]{"date": "martes"}',
])  # fmt: skip
def test_two_calls_are_two(text: str) -> None:
    assert (hear(text).words, called(text)) == ("", CALLED * 2)


def test_a_call_within_a_calls_argument_is_an_argument() -> None:
    inner = f"<tool_call>{BOOK}</tool_call>"
    outer = json.dumps({"name": "note", "arguments": {"text": inner}})
    assert called(f"<tool_call>{outer}</tool_call>") == [("note", {"text": inner})]


def test_what_a_model_thinks_calls_nothing() -> None:
    assert hear(f"<think>¿<tool_call>{BOOK}</tool_call>?</think>Hola") == ("Hola", ())


def test_what_it_imagines_to_be_told_is_not_said() -> None:
    heard = hear(f'<tool_call>{BOOK}</tool_call><tool_response>{{"ok": true}}</tool_response>Listo.')
    assert (heard.words, len(heard.calls)) == ("Listo.", 1)


@pytest.mark.parametrize("broken", [
    "{", "{}", "[]x", "null", "7", '"book"', '{"name": 7}', '{"name": "book", "arguments": 7}',
    '{"name": "book", "arguments": [1]}', '{"name": "book", "arguments": "no JSON"}', '{"name": "book", "argum',
    "{'name': 'book'}", '{"name": "book", "arguments": {"x": NaN}}', '{"name": "book", "arguments": {"x": 1}',
    '{"x": ' * 5000, "[" * 100_000, '{"name": ' + "9" * 10_000 + "}", "<function=>", "<function=a b>",
    '<function=book><parameter=x>1</param>',
])  # fmt: skip
def test_what_cannot_be_read_is_said_to_be_so_and_the_words_stay(broken: str) -> None:
    heard = hear(f"Claro. <tool_call>{broken}</tool_call> Listo.")
    assert heard.words == "Claro.  Listo."
    assert [(call.name, call.flaw) for call in heard.calls] == [("", "it is malformed")][: broken != "[]x"]


def test_half_a_call_is_no_words() -> None:
    assert hear('{"name": "book", "parameters": {"da').words == ""
    assert hear(f"Claro. <tool_call>{BOOK[:-9]}").words == "Claro."


def test_a_call_may_have_so_many_characters_and_no_more() -> None:
    room = MOST_CHARS - len('{"name": "a", "arguments": {"x": ""}}')
    whole = '<tool_call>{"name": "a", "arguments": {"x": "%s"}}</tool_call>'
    assert called(whole % ("x" * room)) == [("a", {"x": "x" * room})]
    assert [call.flaw for call in hear(whole % ("x" * (room + 1))).calls] == ["it is malformed"]
    began = time.perf_counter()
    assert [call.flaw for call in hear(whole % ("x" * 1_000_000)).calls] == ["it is malformed"]
    assert time.perf_counter() - began < 1


def test_a_reply_may_have_so_many_calls_and_no_more() -> None:
    heard = hear(f"Hola {f'<tool_call>{BOOK}</tool_call>' * 5000} adiós")
    assert [call.flaw for call in heard.calls] == [""] * MOST_CALLS + ["there are too many"]
    assert heard.words == "Hola"


@pytest.mark.parametrize(
    "pieces", ["<tool_call>", "<tool_response>", "<function=", "[TOOL_CALLS]", "<think>", "<|python_tag|>{"]
)
def test_no_text_takes_long(pieces: str) -> None:
    for text in (pieces * 20_000, pieces + " " * 300_000, (pieces + " a ") * 20_000):
        began = time.perf_counter()
        hear(text)
        assert time.perf_counter() - began < 2


_TEXT = st.lists(
    st.sampled_from([*MARKS, BOOK, "{", "}", '"', "[", "]", "hola", " ", "\n", "book", '"name":', ";"])
    | st.text(max_size=5)
)


@example(pieces=[BOOK, "<tool_call>"])
@given(pieces=_TEXT)
def test_whatever_a_model_writes_words_and_calls_come_out(pieces: list[str]) -> None:
    heard = hear("".join(pieces))
    assert len(heard.calls) <= MOST_CALLS + len(pieces)
    if heard.calls:
        assert "<tool_call>" not in heard.words


@pytest.mark.parametrize("arguments", [None, "", "  ", {}, "{}"])
def test_a_server_may_hand_over_a_call_without_arguments(arguments: object) -> None:
    assert (handed("handoff", arguments).name, handed("handoff", arguments).arguments) == ("handoff", {})


@pytest.mark.parametrize("arguments", ["{", "7", "[]", 7, [1], '{"x": ' * 5000])
def test_one_whose_arguments_are_no_object_cannot_be_read(arguments: object) -> None:
    assert handed("book", arguments).flaw == "it is malformed"
