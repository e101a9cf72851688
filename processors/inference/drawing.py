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
    count = min(how.top_k or logits.numel(), logits.numel())
    scores, tokens = (logits / how.temperature).topk(count)
    chances = scores.softmax(dim=-1).cpu()
    if how.top_p < 1:
        # Those before whom less than top_p has been given out; the likeliest always stays.
        before = chances.cumsum(dim=-1) - chances
        chances = chances[before < how.top_p] if how.top_p > 0 else chances[:1]
    sums = chances.double().cumsum(dim=-1)
    draw = random.Random(f"{how.seed}:{len(sequence.generated)}").random() * float(sums[-1])  # noqa: S311 - no secret
    return int(tokens[min(int(torch.searchsorted(sums, draw, right=True)), len(sums) - 1)])
