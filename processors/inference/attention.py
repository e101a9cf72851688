"""
Attention over the rows of the running batch, each as long as it is.

Stands behind transformers' attention interface (its documentation, "Attention Interface"): a model that uses it
computes everything else of a packed pass as one line of tokens, and asks here for what each of them sees.  A model that
does not, or whose scores need more than a scale, looks at all spans at once through a mask that `mask_of` makes.
Knows torch, as do the files beside it that compute.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention as attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from processors.inference.rows import Layer, Span, Window
from processors.inference.scheduler import runs

NAME = "cauce-rows"

_ROUND = 32
"""Runs are as wide as a multiple of this: torch makes code for each width, and keeps it."""

WINDOW: ContextVar[Window | None] = ContextVar("window", default=None)
"""Of the pass in work; none while somebody else asks the model."""

_MORE = ("softcap", "s_aux", "position_bias")
"""What some architectures do to their scores, and this does not."""


class _Piece(NamedTuple):
    """Tokens of a prompt; each sees itself and what is before it."""

    at: int
    """Where it begins in the line of tokens."""
    span: Span
    mask: Tensor | None
    """(tokens, row's tokens); None where it begins its row."""


class _Run(NamedTuple):
    """One token of each of some neighbouring rows, computed together as if all were as long as the longest."""

    at: int
    first: int
    rows: int
    width: int
    mask: Tensor | None
    """(rows, 1, 1, width); None where all are as long."""


class Packed(NamedTuple):
    """How a pass goes about its spans."""

    pieces: list[_Piece]
    runs: list[_Run]

    @classmethod
    def of(cls, spans: Sequence[Span], dtype: torch.dtype, device: torch.device) -> Packed:
        """
        Args:
            spans: those of one token first, in neighbouring rows.
        """
        single = [span for span in spans if span.end - span.begin == 1]
        found = []
        for first, last in runs([span.end for span in single]):
            ends = torch.tensor([span.end for span in single[first:last]], device=device)
            width = -(-max(span.end for span in single[first:last]) // _ROUND) * _ROUND
            beyond = torch.arange(width, device=device)[None] >= ends[:, None]
            ragged = any(span.end < width for span in single[first:last])
            mask = _added(beyond, dtype)[:, None, None] if ragged else None
            found.append(_Run(first, single[first].row, last - first, width, mask))
        pieces, at = [], len(single)
        for span in spans[len(single) :]:
            pieces.append(_Piece(at, span, _causal(span, dtype, device) if span.begin else None))
            at += span.end - span.begin
        return cls(pieces, found)


def mask_of(spans: Sequence[Span], dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to the scores of all tokens over all spans, (1, 1, tokens, all rows' tokens)."""
    tokens, width = sum(span.end - span.begin for span in spans), sum(span.end for span in spans)
    mask = torch.full((tokens, width), torch.finfo(dtype).min, dtype=dtype, device=device)
    down = along = 0
    for span in spans:
        mask[down : down + span.end - span.begin, along : along + span.end] = _causal(span, dtype, device)
        down, along = down + span.end - span.begin, along + span.end
    return mask[None, None]


def _causal(span: Span, dtype: torch.dtype, device: torch.device) -> Tensor:
    places = torch.arange(span.end, device=device)
    return _added(places[None] > places[span.begin :, None], dtype)


def _added(beyond: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: nothing, or so little that it counts for nothing."""
    return torch.zeros(beyond.shape, dtype=dtype, device=beyond.device).masked_fill_(beyond, torch.finfo(dtype).min)


def _attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **how: Any,
) -> tuple[Tensor, None]:
    """As transformers' interface has it: query (1, heads, tokens, size) in, (1, tokens, heads, size) out."""
    if any(how.get(name) is not None for name in _MORE):
        raise ValueError("its attention does more than scale its scores")
    window = WINDOW.get()
    if window is None or window.layer is None:
        found: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **how
        )
        return found
    layer, packed = window.layer, window.packed
    seen = query.new_empty((query.shape[2], query.shape[1], layer.values.shape[3]))
    for run in packed.runs:
        seen[run.at : run.at + run.rows] = _of_run(run, query[0, :, run.at : run.at + run.rows], layer, scaling)
    for piece in packed.pieces:
        end = piece.at + piece.span.end - piece.span.begin
        seen[piece.at : end] = _of_piece(piece, query[:, :, piece.at : end], layer, scaling)
    return seen[None], None


def _of_run(run: _Run, query: Tensor, layer: Layer, scale: float | None) -> Tensor:
    """What one token of each row sees: query (heads, rows, size) in, (rows, heads, size) out."""
    rows, heads = slice(run.first, run.first + run.rows), query.shape[0]
    shared = heads // layer.keys.shape[1]  # queries to each head of keys
    asked = query.transpose(0, 1).reshape(run.rows, -1, shared, query.shape[2])
    if shared == 1 and query.device.type == "cpu":
        asked = asked.repeat(1, 1, 2, 1)  # torch takes twice as long for one query as for two
    keys, values = (memory[rows, :, : run.width] for memory in (layer.keys, layer.values))
    return attention(asked, keys, values, attn_mask=run.mask, scale=scale)[:, :, :shared].reshape(run.rows, heads, -1)


def _of_piece(piece: _Piece, query: Tensor, layer: Layer, scale: float | None) -> Tensor:
    """What the tokens of a prompt see: query (1, heads, tokens, size) in, (tokens, heads, size) out."""
    row, _, end = piece.span
    heads = query.shape[1]
    shared = heads // layer.keys.shape[1]
    keys, values = (
        memory[row, :, :end][:, None].expand(-1, shared, -1, -1).reshape(1, heads, end, -1)
        for memory in (layer.keys, layer.values)
    )
    out = attention(query, keys, values, attn_mask=piece.mask, is_causal=piece.mask is None, scale=scale)
    return out[0].transpose(0, 1)


AttentionInterface.register(NAME, _attend)
