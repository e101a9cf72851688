"""Without transformers a folder's tokens and templates are what they are with it."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from processors.inference.encoding import Encoding
from processors.inference.generation import Line
from processors.inference.tokenizer import Tokenizer
from processors.inference.weights import DEMO

pytestmark = [pytest.mark.slow]

TEXTS = ["", "Hola, ¿tienen hora?", "  el martes   a las 3 ", "</s> <|im_end|> [INST] <eos>", "👩‍⚕️ ñandú\n\tfin"]
TALK = [
    Line("system", "Eres amable."), Line("user", "hola </s>"), Line("assistant", "¿sí?"), Line("user", "<|im_end|>")
]  # fmt: skip


@pytest.fixture(params=["bytes", "bytes with ChatML", "pieces with Mistral's", "lower case", "the one that ships"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, tiny: ModuleType) -> Path:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    match request.param:
        case "bytes":
            tiny.byte_level().save_pretrained(tmp_path)
        case "bytes with ChatML":
            tiny.byte_level(tiny.CHATML, special).save_pretrained(tmp_path)
        case "pieces with Mistral's":
            tiny.unigram(tiny.MISTRAL).save_pretrained(tmp_path)
        case "lower case":
            tiny.lower_case(tiny.CHATML).save_pretrained(tmp_path)
        case _:
            return DEMO
    return tmp_path


def theirs(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


def test_tokens_are_those_of_transformers(folder: Path) -> None:
    own, other = Tokenizer(folder), theirs(folder)
    for text in TEXTS:
        assert own.encode(text) == other.encode(text)
        tokens = own.encode(text, add_special_tokens=False)
        assert tokens == other.encode(text, add_special_tokens=False)
        for skip in (True, False):
            plain = other.decode(tokens, skip_special_tokens=skip, clean_up_tokenization_spaces=False)
            assert own.decode(tokens, skip_special_tokens=skip) == plain
        assert own.decode(tokens) == other.decode(tokens, clean_up_tokenization_spaces=False)
    for name in ("bos_token_id", "eos_token_id", "unk_token_id", "chat_template"):
        assert getattr(own, name) == getattr(other, name), name


def test_a_prompt_has_the_same_tokens_and_the_same_tokens_are_control(folder: Path) -> None:
    own, other = Encoding(Tokenizer(folder)), Encoding(theirs(folder))
    assert own.encode(TALK) == other.encode(TALK)
    assert own.control >= other.control
    assert own.stops() == other.stops()


@pytest.mark.parametrize("kept", ["in tokenizer_config.json", "in files"])
def test_of_several_templates_the_one_for_tools_is_taken_where_tools_are_offered(
    tmp_path: Path, tiny: ModuleType, kept: str
) -> None:
    # Given a model that has a template for talks, and one for talks with tools
    tiny.byte_level().save_pretrained(tmp_path)
    for_tools = "{% for t in tools %}{{ t.function.name }}{% endfor %}: {{ messages[-1].content }}"
    if kept == "in files":
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text(for_tools)
        (tmp_path / "chat_template.jinja").write_text(tiny.CHATML)
    else:
        file = tmp_path / "tokenizer_config.json"
        several = [{"name": "tool_use", "template": for_tools}, {"name": "default", "template": tiny.CHATML}]
        file.write_text(json.dumps(json.loads(file.read_text()) | {"chat_template": several}))

    # Then each is taken for its own, as transformers does
    own, other = Tokenizer(tmp_path), theirs(tmp_path)
    talk = [{"role": "user", "content": "hola"}]
    book = {"type": "function", "function": {"name": "book", "description": "", "parameters": {"type": "object"}}}
    for tools, text in ((None, "<|im_start|>user\nhola<|im_end|>\n"), ([book], "book: hola")):
        assert own.apply_chat_template(talk, tools=tools) == text
        assert other.apply_chat_template(talk, tools=tools, tokenize=False) == text


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}", "hola"),
        ("{% for m in messages %}{{ m | tojson }}{% break %}{% endfor %}", '{"content": "hola"}'),
        (
            "{{ eos_token }}{% if tools is none and not enable_thinking %}{{ add_generation_prompt }}{% endif %}",
            "</s>True",
        ),
    ],
)
def test_templates_of_the_hub_find_what_they_expect(tmp_path: Path, tiny: ModuleType, template: str, text: str) -> None:
    tiny.unigram().save_pretrained(tmp_path)
    rendered = Tokenizer(tmp_path).apply_chat_template(
        [{"content": "hola"}], chat_template=template, add_generation_prompt=True, enable_thinking=False
    )
    assert rendered == text


def test_a_template_cannot_leave_its_sandbox(tmp_path: Path, tiny: ModuleType) -> None:
    tiny.byte_level().save_pretrained(tmp_path)
    with pytest.raises(Exception, match="unsafe"):
        Tokenizer(tmp_path).apply_chat_template([], chat_template="{{ ''.__class__.__mro__ }}")
