"""What an OpenAI-compatible server is asked, and its answer piece by piece."""

from __future__ import annotations

import pytest

from processors.inference.completions import Answer, Unreadable, messages, models, shorter, too_long, wished
from processors.inference.generation import Line, Request, Sampling

SYSTEM = Line("system", "Eres la recepción.")


def test_a_chat_begins_with_a_person_and_takes_turns() -> None:
    lines = [
        SYSTEM,
        Line("assistant", "¡Hola!"),
        Line("user", "a"),
        Line("user", "b"),
        Line("assistant", "c"),
        Line("user", "d"),
    ]
    assert messages(lines) == [
        {"role": "system", "content": "Eres la recepción."},
        {"role": "user", "content": "a\nb"},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]


@pytest.mark.parametrize("mark", ["<|im_end|>", "</s>", "[/INST]", "<<SYS>>", "<start_of_turn>"])
def test_a_mark_that_a_person_writes_stays_text(mark: str) -> None:
    [_, said] = messages([Line("system", "<|ours|>"), Line("user", f"hola {mark} adiós")])
    assert mark not in said["content"]
    assert said["content"].replace(" ", "") == f"hola{mark}adiós"


def test_what_nobody_wishes_is_left_to_the_server() -> None:
    bare = wished(Request(lines=[], max_tokens=7))
    assert bare == {"max_tokens": 7, "seed": 0, "stream": True, "stream_options": {"include_usage": True}}
    told = wished(Request(lines=[], sampling=Sampling(temperature=0.0, top_k=5, seed=2**32 - 1)))
    assert (told["temperature"], told["top_k"], told["seed"]) == (0.0, 5, 2**31 - 1)


@pytest.mark.parametrize("told", [
    "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens",  # vLLM, OpenAI
    '{"error":{"message":"request (600 tokens) exceeds the available context size (512 tokens)"}}',  # llama.cpp
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 2000",  # TGI
    '{"error":{"code":"context_length_exceeded"}}',
])  # fmt: skip
def test_a_complaint_of_length_is_known_in_every_servers_words(told: str) -> None:
    assert too_long(told)


@pytest.mark.parametrize("told", ["model not found", "temperature must be positive", "invalid token in header"])
def test_other_complaints_are_none(told: str) -> None:
    assert not too_long(told)


def test_a_prompt_grows_shorter_by_whole_turns_until_the_last_is_left() -> None:
    talk = [SYSTEM]
    for number in range(8):
        talk += [Line("user", f"pregunta {number}"), Line("assistant", f"respuesta {number}")]
    talk.append(Line("user", "ahora"))
    sizes = []
    while talk:
        assert talk[0] == SYSTEM
        assert talk[1].role == "user"
        assert talk[-1] == Line("user", "ahora")
        sizes.append(len(talk))
        talk = shorter(talk)
    assert sizes == [18, 8, 4, 2]


def test_an_answer_comes_in_pieces() -> None:
    answer = Answer()
    for line in (
        b": a comment\n", b"\n", b"event: message\n",
        b'data: {"choices":[{"delta":{"role":"assistant"},"finish_reason":null}]}\n',
        b'data: {"choices":[{"delta":{"content":"Buenos "}}]}\n',
        b'data:{"choices":[{"delta":{"content":"d\xc3\xadas"},"finish_reason":null}]}\r\n',
    ):  # fmt: skip
        answer.hear(line)
    assert not answer.complete
    answer.hear(b'data: {"choices":[{"delta":{},"finish_reason":"length"}]}\n')
    answer.hear(b'data: {"choices":[],"usage":{"prompt_tokens":12,"completion_tokens":5,"total_tokens":17}}\n')
    answer.hear(b"data: [DONE]\n")
    assert answer.complete
    done = answer.generated(7.0)
    assert (done.text, done.tokens, done.prompt_tokens, done.finish, done.ms) == ("Buenos días", 5, 12, "length", 7.0)


def test_an_answer_may_come_whole() -> None:
    answer = Answer()
    answer.read(b'{"choices":[{"message":{"content":"Hola"},"finish_reason":"stop"}]}')
    assert answer.complete
    assert answer.generated(0).text == "Hola"


@pytest.mark.parametrize(
    "line", [b"data: {", b"data: \xff", b'data: {"error":{"message":"out of memory"}}', b"data: 7"]
)
def test_what_is_no_answer_is_said_to_be_none(line: bytes) -> None:
    with pytest.raises(Unreadable):
        Answer().hear(line)


def test_a_servers_models_are_read_where_it_says_them() -> None:
    assert models(b'{"object":"list","data":[{"id":"qwen"},{"id":"llama"}]}') == ["qwen", "llama"]
    assert models(b"<html>") == models(b"{}") == []
