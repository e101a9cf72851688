"""Weights in blocks: the same products sooner."""

from __future__ import annotations

from typing import Any

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def torch() -> Any:
    """Imported by who asks for it alone."""
    return pytest.importorskip("torch")


@pytest.fixture
def blocks(torch: Any) -> Any:
    """Of a layer, where this processor has any."""
    from processors.inference import linear

    if not (linear.there(torch.float32) and linear.there(torch.bfloat16)):
        pytest.skip("oneDNN lays out no blocks on this processor")
    return linear.Blocks


def layer(torch: Any, dtype: str, *, bias: bool) -> Any:
    torch.manual_seed(3)
    return torch.nn.Linear(96, 200, bias=bias, dtype=getattr(torch, dtype)).requires_grad_(False)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1,), (3,), (4,), (1, 1), (1, 17), (2, 3), (0,)])
@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-5), ("bfloat16", 1e-2)])
def test_a_product_in_blocks_is_the_product(
    torch: Any, blocks: Any, dtype: str, near: float, shape: tuple[int, ...], bias: bool
) -> None:
    plain = layer(torch, dtype, bias=bias)
    given = torch.randn(*shape, 96).to(plain.weight.dtype)
    with torch.inference_mode():
        found, expected = blocks(plain)(given), plain(given)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert torch.allclose(found, expected, rtol=near, atol=near)


def test_rows_that_do_not_lie_side_by_side_are_multiplied_as_they_are_meant(torch: Any, blocks: Any) -> None:
    plain = layer(torch, "bfloat16", bias=True)
    given = torch.randn(96, 2, 7).to(torch.bfloat16).permute(1, 2, 0)[:, ::3]
    with torch.inference_mode():
        assert torch.allclose(blocks(plain)(given), plain(given), rtol=1e-2, atol=1e-2)


def large(torch: Any, kind: str, dtype: str = "float32") -> Any:
    """A model with layers that are worth it, and some that are not; its head shares its weights with the embedding."""
    from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

    torch.manual_seed(0)
    config: Any
    if kind == "gpt2":
        config = GPT2Config(n_embd=512, n_layer=2, n_head=8, vocab_size=2_100, n_positions=64)
    else:
        config = Qwen2Config(
            vocab_size=2_100, hidden_size=512, intermediate_size=2_100, num_hidden_layers=2, num_attention_heads=8,
            num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
@pytest.mark.parametrize(("dtype", "near"), [("float32", 1e-4), ("bfloat16", 0.1)])
def test_a_straightened_model_says_what_it_said(torch: Any, blocks: Any, kind: str, dtype: str, near: float) -> None:
    from processors.inference.linear import straighten

    model = large(torch, kind, dtype)
    ids = torch.tensor([[4, 8, 15, 16, 23, 42]])
    with torch.inference_mode():
        before = model(input_ids=ids).logits
        straighten(model)
        after = model(input_ids=ids).logits
        last = model(input_ids=ids, logits_to_keep=1).logits
    # Then its large layers and its head lie in blocks
    assert sum(isinstance(each, blocks) for each in model.modules()) >= 3
    assert isinstance(model.get_output_embeddings(), blocks)
    # And every score is where it was
    assert torch.allclose(after, before, rtol=near, atol=near)
    assert torch.allclose(last, before[:, -1:], rtol=near, atol=near)


def test_what_is_laid_out_in_blocks_lies_nowhere_else(torch: Any, blocks: Any) -> None:
    from processors.inference.linear import straighten

    model = large(torch, "qwen2")
    weights = sum(each.numel() for each in model.parameters())
    embedding = model.get_input_embeddings().weight.numel()
    straighten(model)
    laid_out = sum(each.in_features * each.out_features for each in model.modules() if isinstance(each, blocks))
    left = sum(each.numel() for each in model.parameters())
    assert left + laid_out == weights + embedding  # which the head had shared


def test_layers_that_are_not_worth_it_stay_as_they_are(tiny: Any, blocks: Any) -> None:
    from processors.inference.linear import straighten

    model = tiny.causal("llama")
    straighten(model)
    assert not any(isinstance(each, blocks) for each in model.modules())


def test_nobody_is_asked_for_blocks_where_the_processor_has_none(torch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from processors.inference.linear import Blocks, straighten

    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "DEFAULT")
    model = large(torch, "qwen2")
    straighten(model)
    assert not any(isinstance(each, Blocks) for each in model.modules())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_product_of_eight_bits_is_nearly_the_product(torch: Any, dtype: str, bias: bool) -> None:
    from processors.inference.linear import Int8

    if not any(torch.cpu.get_capabilities().get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")):
        pytest.skip("this processor has no VNNI")
    plain = layer(torch, dtype, bias=bias)
    # Given rows of any size, one of nothing, and one in which a single number is large
    given = (torch.randn(2, 3, 96) * torch.tensor([1e-6, 1.0, 1e4])[:, None]).to(plain.weight.dtype)
    given[0, 0], given[1, 1, 5] = 0, 3e3
    before = given.clone()
    with torch.inference_mode():
        found, expected = Int8(plain)(given), plain(given)
    assert found.dtype == expected.dtype
    assert torch.equal(given, before)
    # Then each is wrong by no more than its own scale has it
    largest = given.float().abs().amax(-1, keepdim=True)
    assert ((found - expected).float().abs() <= 0.05 * largest + 0.01 * expected.float().abs() + 1e-6).all()
