"""
The memory of the running batch: keys and values, a row for each sequence, behind a stock transformers model.

A forward pass reads spans of rows, packed one after the other into one line of tokens: a new token of each sequence
that runs, and a piece of the prompt of one that does not yet.  The model's layers write through `Layer`; attention.py
reads.
Knows torch, as do the files beside it that compute.
"""

from __future__ import annotations

import inspect
import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from processors.inference.scheduler import Move

Saved = list[tuple[Tensor, Tensor]]
"""Keys and values of one row, of each layer; both (heads, tokens, size)."""


class Span(NamedTuple):
    """Tokens of one row, from `begin` to before `end`."""

    row: int
    begin: int
    end: int


class Window:
    """What the forward pass in work reads, and where it stands."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        self.rows = torch.empty(0, dtype=torch.int64)
        """(tokens,): where each token's keys and values go."""
        self.positions = torch.empty(0, dtype=torch.int64)
        """(tokens,): at which place in its row."""
        self.layer: Layer | None = None
        """The layer that wrote last: its attention is next."""
        self.packed: Any = None
        """How attention.py goes about these spans."""

    def open(self, spans: Sequence[Span], device: torch.device) -> None:
        self.spans = list(spans)
        rows = [span.row for span in spans for _ in range(span.begin, span.end)]
        places = [place for span in spans for place in range(span.begin, span.end)]
        self.rows, self.positions = torch.tensor([rows, places], device=device)
        self.layer = None


class Layer(CacheLayerMixin):  # type: ignore[no-untyped-call] # transformers annotates only part of itself
    """
    Keys and values of one layer, for all rows.

    Both are (rows, heads, width, size).  Never holds anything that is not finite, for what is masked out is still
    multiplied.
    """

    def __init__(self, window: Window) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._window = window

    keys: Tensor
    values: Tensor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = _zeros(key_states, 1, 64), _zeros(value_states, 1, 64)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        """
        Write the new tokens' states, both (1, heads, tokens, size).

        Returns:
            what the tokens of this pass look at: of each span all of its row up to its end, one after the other.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._window
        self._reserve(1 + max(span.row for span in window.spans), max(span.end for span in window.spans))
        for memory, states in ((self.keys, key_states), (self.values, value_states)):
            memory[window.rows, :, window.positions] = states[0].transpose(0, 1)
            for span in window.spans:
                if span.begin == 0:
                    memory[span.row, :, span.end :] = 0
        window.layer = self
        if window.packed is not None:
            return key_states, value_states  # attention.py reads the rows where they lie
        return self._looked_at(self.keys), self._looked_at(self.values)

    def _looked_at(self, memory: Tensor) -> Tensor:
        return torch.cat([memory[span.row, :, : span.end] for span in self._window.spans], dim=1)[None]

    def move(self, move: Move) -> None:
        if self.is_initialized:
            self._reserve(max(move) + 1, 1)
            self.keys[move.target] = self.keys[move.source]
            self.values[move.target] = self.values[move.source]

    def save(self, row: int, tokens: int) -> tuple[Tensor, Tensor]:
        """A copy of what a row holds of its first tokens."""
        return self.keys[row, :, :tokens].clone(), self.values[row, :, :tokens].clone()

    def restore(self, row: int, tokens: int, saved: tuple[Tensor, Tensor]) -> None:
        """The first tokens of what was saved, into a row that holds nothing."""
        self._reserve(row + 1, tokens)
        for memory, states in zip((self.keys, self.values), saved, strict=True):
            memory[row, :, :tokens] = states[:, :tokens]
            memory[row, :, tokens:] = 0

    def forget(self, rows: int) -> None:
        """Give the memory of all but the first so many rows back, with what is in it."""
        if self.is_initialized:
            self.keys = _grown(self.keys[:rows], self.keys.shape[0], self.keys.shape[2])
            self.values = _grown(self.values[:rows], self.values.shape[0], self.values.shape[2])

    def _reserve(self, rows: int, width: int) -> None:
        """Memory grows by doubling, so that no step copies it."""
        has_rows, has_width = self.keys.shape[0], self.keys.shape[2]
        if rows <= has_rows and width <= has_width:
            return
        while has_rows < rows:
            has_rows *= 2
        while has_width < width:
            has_width *= 2
        self.keys = _grown(self.keys, has_rows, has_width)
        self.values = _grown(self.values, has_rows, has_width)

    # A model asks these for the mask that it would make; it is brought along, or attention.py needs none.
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1


def cache_argument(model: Any) -> str:
    """Its name since transformers 5.24; the older one warns there, and is the only one before."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def _grown(old: Tensor, rows: int, width: int) -> Tensor:
    new = _zeros(old, rows, width)
    new[: old.shape[0], :, : old.shape[2]] = old
    return new


def _zeros(like: Tensor, rows: int, width: int) -> Tensor:
    """Memory of one layer, of which a CPU has only those pages that have been written to."""
    shape = (rows, like.shape[1], width, like.shape[3])
    if like.device.type != "cpu":
        return like.new_zeros(shape)
    count = rows * like.shape[1] * width * like.shape[3]
    pages = mmap.mmap(-1, count * like.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype, count=count).view(shape)
