"""Which token comes next, given the scores: what may be drawn at all, and how often."""

from __future__ import annotations

from typing import Any

import pytest

from processors.inference.generation import Drawing
from processors.inference.scheduler import Sequence

pytestmark = pytest.mark.slow


@pytest.fixture
def torch() -> Any:
    """Imported by who asks for it alone."""
    return pytest.importorskip("torch")


def choose(logits: Any, sequence: Sequence) -> int:
    from processors.inference import drawing

    return drawing.choose(logits, sequence)


def sequence(prompt: list[int], **how: Any) -> Sequence:
    return Sequence(number=0, prompt=prompt, max_tokens=1, stops=frozenset(), drawing=Drawing(**how), generated=[])


def test_sampling_keeps_to_the_likeliest_tokens(torch: Any) -> None:
    logits = torch.tensor([0.0, 5.0, 4.0, 3.0, -9.0])
    drawn = {choose(logits, sequence([0], temperature=1.0, top_k=3, seed=seed)) for seed in range(300)}
    assert drawn == {1, 2, 3}
    # 0.66, 0.24, 0.09 of what three tokens have: the third begins at 0.9 and is out
    drawn = {choose(logits, sequence([0], temperature=1.0, top_k=3, top_p=0.8, seed=seed)) for seed in range(300)}
    assert drawn == {1, 2}
    assert choose(logits, sequence([0], temperature=1.0, top_p=0.0, seed=1)) == 1
    # The penalty pushes what was said down, whichever sign its score has.
    assert choose(logits, sequence([1], repetition_penalty=2.0)) == 2
    assert choose(-logits, sequence([4, 0], repetition_penalty=1.5)) == 4


def test_a_large_share_is_drawn_as_often_as_its_chance_says(torch: Any) -> None:
    logits = torch.log(torch.tensor([0.7, 0.2, 0.1]))
    drawn = [choose(logits, sequence([0], temperature=1.0, seed=seed)) for seed in range(4000)]
    assert [round(drawn.count(token) / 4000, 1) for token in (0, 1, 2)] == [0.7, 0.2, 0.1]


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0], ids="{} between the scores".format)
@pytest.mark.parametrize("top_p", [0.2, 0.9, 0.999])
def test_top_p_is_of_the_whole_vocabulary_however_even_its_chances(torch: Any, spread: float, top_p: float) -> None:
    # Given more tokens than are looked at first
    from transformers import TopPLogitsWarper

    torch.manual_seed(1)
    logits = spread * torch.randn(3000)

    # Then those may be drawn that transformers leaves, with the chances that it gives them
    left = TopPLogitsWarper(top_p)(None, logits[None].clone())[0].softmax(dim=-1)
    from processors.inference.drawing import likeliest

    chances, tokens = likeliest(logits, Drawing(temperature=1, top_p=top_p))
    assert set(tokens.tolist()) == set(left.nonzero()[:, 0].tolist())
    assert torch.allclose(chances / chances.sum(), left[tokens], atol=1e-6)
