"""
How a token is chosen from a model's scores.

Knows torch, as do the files beside it that compute.
"""

from __future__ import annotations

import random
from collections.abc import Sequence as Series

import torch
from torch import Tensor

from processors.inference.generation import Drawing
from processors.inference.scheduler import Sequence


def choose_all(logits: Tensor, sequences: Series[Sequence]) -> list[int]:
    """
    The next token of each sequence.

    Args:
        logits: float32 (sequences, vocabulary)

    Raises:
        ArithmeticError: they are no numbers.
    """
    if not torch.isfinite(logits.amax(dim=-1)).all():
        raise ArithmeticError("the model's logits are not finite")
    if all(_greedy(sequence.drawing) for sequence in sequences):
        best: list[int] = logits.argmax(dim=-1).tolist()
        return best
    return [choose(row, sequence) for row, sequence in zip(logits, sequences, strict=True)]


def _greedy(how: Drawing) -> bool:
    return how.temperature == 0 and how.repetition_penalty == 1


def choose(logits: Tensor, sequence: Sequence) -> int:
    """
    The next token of one sequence: penalty, temperature, top-k, top-p, in the order in which `generate` applies them.

    Drawn from the seed and the place alone, so that neither batchmates nor a repeat of the step change it.

    Args:
        logits: float32 (vocabulary,)
    """
    how = sequence.drawing
    if how.repetition_penalty != 1:
        seen = torch.tensor(sorted({*sequence.prompt, *sequence.generated}), device=logits.device)
        score = logits[seen]
        logits = logits.clone()
        logits[seen] = torch.where(score < 0, score * how.repetition_penalty, score / how.repetition_penalty)
    if how.temperature == 0:
        return int(logits.argmax())
    chances, tokens = likeliest(logits / how.temperature, how)
    sums = chances.double().cumsum(dim=-1)
    draw = random.Random(f"{how.seed}:{len(sequence.generated)}").random() * float(sums[-1])  # noqa: S311 - no secret
    return int(tokens[min(int(torch.searchsorted(sums, draw, right=True)), len(sums) - 1)])


FEW = 256
"""Tokens that mostly have `top_p` of all chances among them: to sort a whole vocabulary takes 10 ms."""


def likeliest(scores: Tensor, how: Drawing) -> tuple[Tensor, Tensor]:
    """
    Those that may be drawn: their chances, in sum 1 or less, and their numbers.

    Those of top-k; of them those before whom less than top_p has been given out, of whom the likeliest always stays.
    """
    count = min(how.top_k, scores.numel())
    if how.top_p >= 1 and not count:
        return scores.softmax(dim=-1).cpu(), torch.arange(scores.numel())
    best, tokens = scores.topk(count or min(FEW, scores.numel()))
    whole = (best if count else scores).logsumexp(dim=-1)
    while not count and len(best) < scores.numel() and (best - whole).exp().sum() < how.top_p:
        best, tokens = scores.topk(min(8 * len(best), scores.numel()))
    chances = (best - whole).exp().cpu()
    if how.top_p < 1:
        kept = max(1, int((chances.cumsum(dim=-1) - chances < how.top_p).sum()))
        chances, tokens = chances[:kept], tokens[:kept]
    return chances, tokens
