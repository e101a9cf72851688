"""
A model's products, as a processor does them best: the same numbers sooner, or with `int8` nearly the same much sooner.

Knows torch, as do the files beside it that compute.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from streams.errors import ConfigurationError


def straighten(model: Any) -> None:
    """
    Change no result of a model, only what it costs.

    GPT-2's Conv1D is a linear layer whose weights lie the other way round, which a processor multiplies more slowly.
    And the output layer gets two dimensions instead of three: the slice (rows, 1, hidden) of the last tokens cannot be
    folded, so torch multiplies it as a batch and copies the whole vocabulary matrix at every step.
    """
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Conv1D):
            _put(model, name, _as_linear(layer))
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        return
    forward = head.forward

    def flat(hidden: Tensor) -> Tensor:
        return forward(hidden.reshape(-1, hidden.shape[-1])).reshape(*hidden.shape[:-1], -1)

    head.forward = flat  # type: ignore[method-assign, assignment] # its parameter has another name


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
    for name, layer in list(model.named_modules()):
        if isinstance(layer, Conv1D):
            layer = _as_linear(layer)
        if isinstance(layer, nn.Linear):
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
        flat = given.reshape(-1, self.in_features).float()
        scale = flat.abs().amax(-1, keepdim=True).clamp_(min=1e-12) / 127
        # The instruction multiplies unsigned with signed: 128 stands for nothing.
        whole = (flat / scale).round_().add_(128).to(torch.uint8)
        out: Tensor = torch.ops.onednn.qlinear_pointwise(
            whole, 1.0, 128, self._packed, self._scale, self._zero, None, 1.0, 0, given.dtype, "none", [], ""
        )
        out = out * scale.to(given.dtype)
        if self._bias is not None:
            out += self._bias
        return out.reshape(*given.shape[:-1], self.out_features)


def _put(model: Any, name: str, layer: nn.Module) -> None:
    inside, _, own = name.rpartition(".")
    setattr(model.get_submodule(inside), own, layer)
