"""
The memory of the running batch: keys and values, a row for each sequence, behind a stock transformers model.

The model's layers write and read through `Layer`.  Memory grows by doubling, so that no step copies it.  With model.py
the only file that knows torch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from processors.inference.scheduler import Move

Saved = list[tuple[Tensor, Tensor]]
"""Keys and values of one row, of each layer; both (heads, tokens, size)."""


class Window:
    """Where the forward pass in work writes and reads: rows, and the place in each."""

    def __init__(self) -> None:
        self.first = 0
        self.rows = 0
        self.positions: Tensor | None = None
        """int64 (rows,): where each row's new token goes; None while a piece of a prompt is read, from `begin` on."""
        self.begin = 0
        self.width = 0
        """Tokens of the longest row, the new ones with it."""


class Layer(CacheLayerMixin):  # type: ignore[no-untyped-call] # transformers annotates only part of itself
    """
    Keys and values of one layer, for all rows.

    Both are (rows, heads, width, size).  Never holds anything that is not finite, for what is masked out is still
    multiplied.
    """

    def __init__(self, window: Window) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._window = window

    _k: Tensor
    _v: Tensor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self._k, self._v = self._empty(key_states, 1, 64), self._empty(value_states, 1, 64)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        window = self._window
        self._reserve(window.first + window.rows, window.width)
        end = window.first + window.rows
        if window.positions is None:
            for memory, states in ((self._k, key_states), (self._v, value_states)):
                memory[window.first, :, window.begin : window.width] = states[0]
                if window.begin == 0:
                    memory[window.first, :, window.width :] = 0
            if window.begin == 0:
                return key_states, value_states
        else:
            rows = torch.arange(window.first, end, device=key_states.device)
            self._k[rows, :, window.positions] = key_states[:, :, 0]
            self._v[rows, :, window.positions] = value_states[:, :, 0]
        return self._k[window.first : end, :, : window.width], self._v[window.first : end, :, : window.width]

    def move(self, move: Move) -> None:
        if self.is_initialized:
            self._reserve(max(move) + 1, 1)
            self._k[move.target] = self._k[move.source]
            self._v[move.target] = self._v[move.source]

    def save(self, row: int, tokens: int) -> tuple[Tensor, Tensor]:
        """A copy of what a row holds of its first tokens."""
        return self._k[row, :, :tokens].clone(), self._v[row, :, :tokens].clone()

    def restore(self, row: int, tokens: int, saved: tuple[Tensor, Tensor]) -> None:
        """The first tokens of what was saved, into a row that holds nothing."""
        self._reserve(row + 1, tokens)
        for memory, states in zip((self._k, self._v), saved, strict=True):
            memory[row, :, :tokens] = states[:, :tokens]
            memory[row, :, tokens:] = 0

    def _reserve(self, rows: int, width: int) -> None:
        has_rows, has_width = self._k.shape[0], self._k.shape[2]
        if rows <= has_rows and width <= has_width:
            return
        while has_rows < rows:
            has_rows *= 2
        while has_width < width:
            has_width *= 2
        self._k = self._grown(self._k, has_rows, has_width)
        self._v = self._grown(self._v, has_rows, has_width)

    def _grown(self, old: Tensor, rows: int, width: int) -> Tensor:
        new = self._empty(old, rows, width)
        new[: old.shape[0], :, : old.shape[2]] = old
        return new

    def _empty(self, like: Tensor, rows: int, width: int) -> Tensor:
        return like.new_zeros((rows, like.shape[1], width, like.shape[3]))

    # The model asks these for its mask where it reads a whole prompt; else the mask is brought along.
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return -1
