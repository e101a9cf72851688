"""
How one model reads and writes: a prompt as tokens within its context, tokens as text, when to stop, how to draw.

What a model's author says of that stands in config.json and generation_config.json, read here as plain values.  Knows
no tensor; the tokenizer is any of the transformers shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Series
from functools import partial
from typing import Any

import msgspec

from processors.inference.calls import Heard
from processors.inference.encoding import Encoding
from processors.inference.generation import Drawing, Line, Refused, Tool
from processors.inference.prompt import fit

MAX_CONTEXT = 4096
"""Tokens of prompt and reply together, whatever the model could hold: sixteen people's memory has to fit."""

_CHAT = Drawing(temperature=0.7, top_p=0.9, top_k=50, repetition_penalty=1.1)
"""For a model whose author says nothing: neither monotonous nor wild."""


class Words:
    """
    See `door.Speech`.

    Args:
        tokenizer: of the transformers shape.
        template: a Jinja chat template in place of the tokenizer's own.
        config: the text model's config.json.
        generation: generation_config.json.
        vocabulary: how many tokens the model has a row for.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        template: str | None,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
        vocabulary: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoding = Encoding(tokenizer, template)
        self._vocabulary = vocabulary
        self.chat, self.tools = self._encoding.chat, self._encoding.tools
        self.context_length = context_length(config)
        self.stops = self._encoding.stops() | _ends(generation)
        self.drawing = drawing(generation)

    def offered(self, tools: Series[Tool]) -> Series[Tool]:
        return self._encoding.offered(tools, most=self.context_length // 4)

    def encode(self, lines: Series[Line], max_tokens: int, tools: Series[Tool]) -> list[int]:
        if not lines:
            raise Refused("the prompt is empty; the model has nothing to continue")
        room = self.context_length - min(max_tokens, self.context_length // 2)
        return fit(lines, partial(self._encoding.encode, tools=tools), room)

    def check(self, tokens: Series[int]) -> None:
        if not tokens:
            raise Refused("the prompt is empty; the model has nothing to continue")
        if len(tokens) >= self.context_length:
            raise Refused(f"the prompt has {len(tokens)} tokens; the model's context ends at {self.context_length}")
        if not 0 <= min(tokens) <= max(tokens) < self._vocabulary:
            raise Refused(f"the prompt has a token that is none of the model's {self._vocabulary}")

    def decode(self, tokens: Series[int]) -> str:
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def hear(self, prompt: Series[int], tokens: Series[int], tools: Series[Tool]) -> Heard:
        return self._encoding.hear(prompt, tokens, tools)


def context_length(config: Mapping[str, Any]) -> int:
    """Up to where positions, and what the layers look back on, mean the same for every sequence of a batch."""
    lengths = [config.get(name) for name in ("max_position_embeddings", "n_positions")]
    if config.get("use_sliding_window", True):
        lengths.append(config.get("sliding_window"))
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type") in ("dynamic", "longrope"):
        lengths += [rope.get("original_max_position_embeddings"), config.get("original_max_position_embeddings")]
    return min([MAX_CONTEXT, *(length for length in lengths if isinstance(length, int) and length > 0)])


def drawing(generation: Mapping[str, Any]) -> Drawing:
    """What the model's generation_config.json says; a model that is meant to be greedy is."""
    if generation.get("do_sample") is False:
        return Drawing(repetition_penalty=generation.get("repetition_penalty") or 1.0)
    said = {name: generation.get(name) for name in ("temperature", "top_p", "top_k", "repetition_penalty")}
    return msgspec.structs.replace(_CHAT, **{name: value for name, value in said.items() if value is not None})


def _ends(generation: Mapping[str, Any]) -> frozenset[int]:
    ends = generation.get("eos_token_id")
    return frozenset([ends] if isinstance(ends, int) else ends or [])
