"""
A model's products, as a processor does them best: the same numbers sooner, or with `int8` nearly the same much sooner.

Knows torch, as do the files beside it that compute.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from streams.errors import ConfigurationError

_WORTH = {torch.bfloat16: 1 << 14, torch.float32: 1 << 20}
"""Weights of a layer from which laying them out in blocks pays: a call of that product costs 12 µs more in float32."""


def straighten(model: Any) -> None:
    """
    Change no result of a model beyond rounding, only what it costs.

    GPT-2's Conv1D is a linear layer whose weights lie the other way round, which a processor multiplies more slowly.
    Large layers on a processor are laid out in blocks (`Blocks`).  And the output layer gets two dimensions instead of
    three: the slice (rows, 1, hidden) of the last tokens cannot be folded, so torch multiplies it as a batch and copies
    the whole vocabulary matrix at every step.
    """
    for name, layer in _linears(model):
        _put(model, name, Blocks(layer) if type(layer) is nn.Linear and _in_blocks(layer) else layer)
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return
    forward = head.forward

    def flat(hidden: Tensor) -> Tensor:
        return forward(hidden.reshape(-1, hidden.shape[-1])).reshape(*hidden.shape[:-1], -1)

    head.forward = flat  # type: ignore[method-assign, assignment] # its parameter has another name


def there(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies such weights in blocks."""
    mkldnn: Any = torch.backends.mkldnn  # which has no annotations
    if not mkldnn.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    return dtype in _WORTH and (dtype != torch.bfloat16 or torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _in_blocks(layer: nn.Linear) -> bool:
    weight = layer.weight
    return weight.device.type == "cpu" and there(weight.dtype) and weight.numel() >= _WORTH[weight.dtype]


class Blocks(nn.Module):
    """
    A linear layer whose weights lie as oneDNN multiplies them: in blocks, laid out once instead of in every product.

    Where the head shares its weights with the embedding, the embedding keeps a copy of its own.
    """

    _ROWS = 16
    """Of a product for which the layout is chosen; it serves others as well."""
    _LEAST = 4
    """In bfloat16 the weights come sooner for four rows than for one, two or three."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), self._ROWS)
        self._bias = None if layer.bias is None else layer.bias.detach()
        self.weight = nn.Parameter(layer.weight.detach().new_empty(0), requires_grad=False)
        """None are here; models ask it for its type."""

    def forward(self, given: Tensor) -> Tensor:
        rows = given.numel() // self.in_features
        if rows >= self._LEAST or given.dtype != torch.bfloat16:
            return self._product(given)
        filled = given.new_zeros((self._LEAST, self.in_features))
        filled[:rows] = given.reshape(rows, self.in_features)
        return self._product(filled)[:rows].view(*given.shape[:-1], self.out_features)

    def _product(self, given: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(given, self._packed, self._bias, "none", [], "")
        return out


def _as_linear(layer: Any) -> nn.Linear:
    inside, outside = layer.weight.shape
    linear = nn.Linear(inside, outside, device="meta")
    linear.weight = nn.Parameter(layer.weight.detach().t().contiguous(), requires_grad=False)
    linear.bias = layer.bias
    return linear


def to_int8(model: Any) -> None:
    """
    Weights in eight bits, of each linear layer and of the head; the embedding stays as it is.

    Raises:
        ConfigurationError: the processor has no instructions for it.
    """
    has = torch.cpu.get_capabilities()
    if model.device.type != "cpu" or not (has.get("avx512_vnni") or has.get("avx_vnni") or has.get("amx_int8")):
        raise ConfigurationError(
            "streams.toml: inference.dtype = 'int8' needs a processor with VNNI, and the model on it; write auto"
        )
    for name, layer in _linears(model):
        _put(model, name, Int8(layer))


class Int8(nn.Module):
    """
    A linear layer with a scale for each output of its weights and for each token of its input.

    W8A8 with dynamic, symmetric scales, as Dettmers et al. (2022), "LLM.int8()", section 2.1, has it ("vector-wise");
    without its split of outliers, so look at what your model says (docs/models.md).
    """

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        weight = layer.weight.detach().float()
        scale = weight.abs().amax(1).clamp_(min=1e-12) / 127
        whole = (weight / scale[:, None]).round_().to(torch.int8)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._packed = torch.ops.onednn.qlinear_prepack(whole, None)
        self._scale, self._zero = scale, torch.zeros(len(scale), dtype=torch.int64)
        self._bias = None if layer.bias is None else layer.bias.detach()

    def forward(self, given: Tensor) -> Tensor:
        flat = given.reshape(-1, self.in_features)
        scale = flat.abs().amax(-1, keepdim=True).float().clamp_(min=1e-12).div_(127)
        signed = (flat.float() * scale.reciprocal()).round_().to(torch.int8)  # to uint8 torch goes number by number
        # The instruction multiplies unsigned with signed: 128 stands for nothing.
        whole = signed.view(torch.uint8).bitwise_xor_(128)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 128, self._packed, self._scale, self._zero, None, 1.0, 0, given.dtype, "none", [], ""
        )
        scale = scale.to(given.dtype)
        out = out.mul_(scale) if self._bias is None else torch.addcmul(self._bias, out, scale)
        return out.reshape(*given.shape[:-1], self.out_features)


def _linears(model: Any) -> Iterator[tuple[str, nn.Linear]]:
    """
    The linear layers, also those that were written as a Conv1D.

    One at a time, so that nobody holds one that was replaced: all of them are as much memory as the model.
    """
    for name in [name for name, _ in model.named_modules()]:
        layer = model.get_submodule(name)
        if isinstance(layer, Conv1D):
            yield name, _as_linear(layer)
        elif isinstance(layer, nn.Linear):
            yield name, layer


def _put(model: Any, name: str, layer: nn.Module) -> None:
    inside, _, own = name.rpartition(".")
    setattr(model.get_submodule(inside), own, layer)
