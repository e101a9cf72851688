"""
A tokenizer of the transformers shape without transformers: a folder's tokenizer.json and its chat template.

The tokens are those of transformers, which reads the same file with the same library.  Only what encoding.py and
words.py ask for is here.  With this file alone the library `tokenizers` and Jinja are known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox
import tokenizers

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class Tokenizer:
    """
    Read from a folder.

    Raises:
        Exception: a file is not there or is none of these; what kind, the libraries say.
    """

    def __init__(self, folder: Path) -> None:
        self._core = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._core.no_truncation()
        self._core.no_padding()
        told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        named = {name: _content(told.get(name)) for name in _NAMED}
        self._named = {name: text for name, text in named.items() if text is not None}
        self.added_tokens_decoder = self._core.get_added_tokens_decoder()
        more = [each for name in ("extra_special_tokens", "additional_special_tokens") for each in _all(told.get(name))]
        marked = [token.content for token in self.added_tokens_decoder.values() if token.special]
        self.all_special_tokens = list(dict.fromkeys([*self._named.values(), *more, *marked]))
        ids = (self._core.token_to_id(text) for text in self.all_special_tokens)
        self.all_special_ids = [number for number in ids if number is not None]
        self._templates = _templates(folder, told.get("chat_template"))
        self.chat_template = self._templates.get("default")
        self._compiled: dict[str, jinja2.Template] = {}

    @property
    def bos_token_id(self) -> int | None:
        return self._number("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        return self._number("eos_token")

    @property
    def unk_token_id(self) -> int | None:
        return self._number("unk_token")

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(self._core.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool = False, **_how: Any) -> str:
        return str(self._core.decode(list(tokens), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, str]], *, chat_template: str | None = None, **more: Any
    ) -> str:
        """The text of a conversation; a template fails in any way a program can."""
        source = chat_template or self._own(with_tools=bool(more.get("tools")))
        if source not in self._compiled:
            self._compiled[source] = _environment().from_string(source)
        given = self._named | {"tools": None, "documents": None} | more
        return self._compiled[source].render(messages=conversation, **given)

    def _own(self, *, with_tools: bool) -> str:
        """Some models have one for conversations in which tools are offered."""
        default = self.chat_template or ""
        return self._templates.get("tool_use", default) if with_tools else default

    def _number(self, name: str) -> int | None:
        text = self._named.get(name)
        return None if text is None else self._core.token_to_id(text)


def _content(token: Any) -> str | None:
    """A token stands there as text, or as an object with it."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def _all(tokens: Any) -> list[str]:
    """Several stand there as a list, or by names of their own."""
    listed = tokens.values() if isinstance(tokens, dict) else tokens or []
    return [text for token in listed if (text := _content(token)) is not None]


def _templates(folder: Path, told: Any) -> dict[str, str]:
    """Chat templates by name: of files of their own, or as tokenizer_config.json has them, one alone or several."""
    found = [(each["name"], each["template"]) for each in told] if isinstance(told, list) else [("default", told)]
    files = [*folder.glob("chat_template.jinja"), *folder.glob("additional_chat_templates/*.jinja")]
    found += [(_name(file), file.read_text(encoding="utf-8")) for file in files]
    return {name: template for name, template in found if isinstance(template, str)}


def _name(file: Path) -> str:
    return "default" if file.name == "chat_template.jinja" else file.stem


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`: where training looks for the assistant's words; its contents are all that counts here."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja has it

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))


def _environment() -> jinja2.Environment:
    """As templates on the hub expect it, and in a sandbox: a template is a program, by whoever made the model."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _json  # Jinja's own escapes for HTML
    environment.globals["raise_exception"] = _raise
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **more: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **more)


def _raise(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
