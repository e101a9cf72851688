"""
Lines of a prompt as tokens, for models with a chat template and for those without one.

What a person wrote stays text.  A template is text too, and once both stand in one string a tokenizer cannot tell
`</s>` of the template from `</s>` that somebody typed.  So marks in people's words are broken before they meet the
template, and the tokens are looked at afterwards: the control tokens must be those that the template puts around
harmless words, no more, in the same order.  Where they are not, the contents are encoded apart from the template, and
control tokens in them are dropped.

Works on any tokenizer of the transformers shape and imports none.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any

from processors.inference import calls
from processors.inference.calls import Heard
from processors.inference.generation import Line, Tool
from processors.inference.prompt import alternate
from processors.inference.weights import first_line
from streams import log as logs
from streams.errors import ConfigurationError

log = logs.get("inference")

_MARK_LIKE = re.compile(r"<[^<>\s]{1,60}>|<<[^<>\s]{1,60}>>|\[/?[A-Z_]{2,30}\]")
"""What a template writes around contents: `<|im_end|>`, `<<SYS>>`, `[/INST]`."""

_HARMLESS = "x"
_PROPERTIES = {"x": {"type": "string", "description": _HARMLESS}}


def broken(text: str, marks: re.Pattern[str] = _MARK_LIKE) -> str:
    """The words with each of these marks, of whatever template, broken by a space: `</s>` becomes `< /s>`."""
    return marks.sub(lambda mark: f"{mark[0][0]} {mark[0][1:]}", text)


class Encoding:
    """
    How one model wants to be spoken to.

    Args:
        tokenizer: of the transformers shape.
        template: a Jinja chat template in place of the tokenizer's own.

    Raises:
        ConfigurationError: the tokenizer has no words, the template is none, or there is neither a template nor a
            token to join turns with.
    """

    def __init__(self, tokenizer: Any, template: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self.chat = bool(template or tokenizer.chat_template)
        added = {number: str(token.content) for number, token in tokenizer.added_tokens_decoder.items()}
        special = set(tokenizer.all_special_ids)
        # Some tokenizers keep runs of spaces as added tokens; those are text.
        like_marks = {number for number, text in added.items() if _MARK_LIKE.fullmatch(text)}
        # The unknown token stands for a letter that the vocabulary has not, and controls nothing.
        self.control = frozenset((special | like_marks) - {tokenizer.unk_token_id})
        marks = {text for number, text in added.items() if number in self.control}
        marks |= {str(text) for text in tokenizer.all_special_tokens}
        special |= {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        self._unsaid = frozenset(number for number in special if added.get(number) not in calls.MARKS)
        self.tools = False
        """The template knows tools."""
        self._offered: tuple[Sequence[Tool], bool] = ((), False)
        self._check_words()
        self._check()
        if self.chat:
            self._takes_system = self._renders([Line("system", _HARMLESS), Line("user", _HARMLESS)])
            self._takes_opening = self._renders([Line("assistant", _HARMLESS), Line("user", _HARMLESS)])
            probe = self._probe()
            self.tools = bool(probe)
            marks |= {*_MARK_LIKE.findall(self._frame(probe)), *(calls.MARKS if probe else ())}
        longest_first = sorted((re.escape(mark) for mark in marks if len(mark) > 1), key=len, reverse=True)
        self._marks = re.compile("|".join(longest_first), re.IGNORECASE) if longest_first else None

    def encode(self, lines: Sequence[Line], tools: Sequence[Tool] = ()) -> list[int]:
        """A prompt's tokens, ending where the assistant is to speak.  An empty list where there is nothing to say."""
        if not self.chat:
            return self._joined(lines)
        talk = self._alternate([Line(line.role, self.defuse(line.content)) for line in lines])
        tokens = self._tokens(self._render(talk, tools))
        # No two alike: there are templates that tell the newest line by its words.
        plain = [Line(line.role, _HARMLESS * count) for count, line in enumerate(talk, 1)]
        harmless = self._tokens(self._render(plain, tools))
        if self._controls(tokens) == self._controls(harmless):
            return tokens
        return self._spliced(talk, tools)

    def offered(self, tools: Sequence[Tool], most: int) -> Sequence[Tool]:
        """These, or nothing where the template knows none or they take more than so many tokens."""
        if not (tools and self.tools):
            return ()
        if self._offered[0] is not tools:
            talk = [Line("user", _HARMLESS)]
            tokens = len(self.encode(talk, tools)) - len(self.encode(talk))
            self._offered = (tools, tokens <= most)
            if tokens > most:
                log.warning("tools.too_long", tokens=tokens, most=most)
        return tools if self._offered[1] else ()

    def hear(self, prompt: Sequence[int], tokens: Sequence[int], tools: Sequence[Tool]) -> Heard:
        """What was generated after a prompt with these tools.  The tokenizer's own way of reading it goes first."""
        if getattr(self._tokenizer, "response_template", None) is not None:
            try:
                schemas = [tool.schema() for tool in tools]
                return calls.parsed(
                    self._tokenizer.parse_response(list(tokens), prefix=self._decode(prompt), tools=schemas)
                )
            except Exception:  # noqa: S110 - it takes whole calls only, and a template fails in any way a program can
                pass
        said = [token for token in tokens if token not in self._unsaid]
        return calls.hear(self._decode(said))

    def _decode(self, tokens: Sequence[int]) -> str:
        """All of it: what marks a call may be a special token."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def stops(self) -> frozenset[int]:
        """The tokens that end the assistant's turn: the tokenizer's own, and what the template writes there."""
        stops = set() if self._tokenizer.eos_token_id is None else {int(self._tokenizer.eos_token_id)}
        if self.chat:
            name = _placeholder()
            talk = [Line("user", _HARMLESS), Line("assistant", name), Line("user", _HARMLESS)]
            after = self._render(talk).partition(name)[2]
            if (tokens := self._tokens(after)) and tokens[0] in self.control:
                stops.add(tokens[0])
        return frozenset(stops)

    def defuse(self, text: str) -> str:
        """The words with every mark in them broken by a space: `</s>` becomes `< /s>`."""
        return text if self._marks is None else broken(text, self._marks)

    def _check_words(self) -> None:
        """Of a folder without a vocabulary transformers may make a tokenizer that knows its marks alone."""
        if not set(self._tokens(_HARMLESS)) - self.control - {self._tokenizer.unk_token_id}:
            raise ConfigurationError(
                "the model's tokenizer knows no words: tokenizer.json, or the file with its vocabulary, is missing "
                "from the folder that MODEL names"
            )

    def _check(self) -> None:
        if not self.chat:
            if self._tokenizer.eos_token_id is None:
                raise ConfigurationError(
                    "the model has neither a chat template nor an end-of-text token; set inference.chat_template"
                )
            return
        try:
            self._render([Line("user", _HARMLESS)])
        except Exception as error:  # a template may fail in any way a program can
            whose = "inference.chat_template" if self._template else "the model's own chat template"
            raise ConfigurationError(
                f"streams.toml: {whose} cannot be used: {type(error).__name__}: {first_line(error)}"
            ) from error

    def _joined(self, lines: Sequence[Line]) -> list[int]:
        """
        Turns with the end-of-text token after each: what DialoGPT was trained on.

        Such a model knows no system line, so none is given.
        """
        talk = alternate([line for line in lines if line.role != "system"])
        begin = self._tokenizer.bos_token_id
        # Whether a model wants its beginning marked is known to its tokenizer alone.
        tokens = [begin] if begin is not None and self._tokenizer.encode("")[:1] == [begin] else []
        for line in talk:
            tokens += [*self._text(line.content), self._tokenizer.eos_token_id]
        return tokens

    def _alternate(self, lines: Sequence[Line]) -> list[Line]:
        return alternate(lines, system=self._takes_system, opening=self._takes_opening)

    def _spliced(self, talk: Sequence[Line], tools: Sequence[Tool]) -> list[int]:
        """Template and contents encoded apart.  Right in every case, though a space may fall differently."""
        names = [_placeholder() for _ in talk]
        frame = self._render([Line(line.role, name) for line, name in zip(talk, names, strict=True)], tools)
        contents = dict(zip(names, (line.content for line in talk), strict=True))
        tokens: list[int] = []
        for part in re.split(f"({'|'.join(names)})", frame):
            tokens += self._text(contents[part]) if part in contents else self._tokens(part)
        return tokens

    def _text(self, text: str) -> list[int]:
        """Words as tokens, with no control token among them."""
        return [token for token in self._tokens(self.defuse(text)) if token not in self.control]

    def _tokens(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _controls(self, tokens: Sequence[int]) -> list[int]:
        return [token for token in tokens if token in self.control]

    def _render(self, talk: Sequence[Line], tools: Sequence[Tool] = ()) -> str:
        return self._applied([{"role": line.role, "content": line.content} for line in talk], tools)

    def _applied(self, messages: list[dict[str, Any]], tools: Sequence[Tool], *, prompt: bool = True) -> str:
        rendered: str = self._tokenizer.apply_chat_template(
            messages,
            chat_template=self._template,
            tools=[tool.schema() for tool in tools] or None,
            tokenize=False,
            add_generation_prompt=prompt,
            enable_thinking=False,  # templates that know it answer at once instead of thinking aloud
        )
        return rendered

    def _renders(self, talk: Sequence[Line]) -> bool:
        """A template refuses what it does not know by raising."""
        try:
            self._render(talk)
        except Exception:
            return False
        return True

    def _probe(self) -> list[Tool]:
        """A tool that the template shows; nothing where it shows none, or has calls that nobody here could read."""
        parameters = {"type": "object", "properties": _PROPERTIES}
        probe = Tool(name=_placeholder(), description=_HARMLESS, parameters=parameters)
        try:
            return [probe] if probe.name in self._frame([probe]) and self._legible(probe) else []
        except Exception:  # some raise where they cannot show it
            return []

    def _legible(self, tool: Tool) -> bool:
        """Whether a call can be read as the template writes it, which is how the model was taught to."""
        if getattr(self._tokenizer, "response_template", None) is not None:
            return True
        function = {"name": tool.name, "arguments": {"x": _HARMLESS}}
        called = {"id": "x" * 9, "type": "function", "function": function}  # Mistral wants nine letters
        asked = {"role": "user", "content": _HARMLESS}
        answered = {"role": "assistant", "content": "", "tool_calls": [called]}
        before = self._applied([asked], [tool])
        after = self._applied([asked, answered], [tool], prompt=False)
        same = next(
            (at for at, (one, other) in enumerate(zip(before, after, strict=False)) if one != other), len(before)
        )
        read = calls.hear(after[same:]).calls
        return any((call.name, call.arguments) == (tool.name, function["arguments"]) for call in read)

    def _frame(self, tools: Sequence[Tool] = ()) -> str:
        """All that the template writes of its own."""
        talk = [Line("user", _HARMLESS), Line("assistant", _HARMLESS), Line("user", _HARMLESS)]
        return self._render([*([Line("system", _HARMLESS)] if self._takes_system else []), *talk], tools)


def _placeholder() -> str:
    """Letters that no template and no person writes."""
    return f"CAUCE{secrets.token_hex(8)}X"
