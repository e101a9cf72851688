"""
A decoder of transformers as a graph of OpenVINO that keeps its own keys and values, as OpenVINO GenAI wants it.

The model is traced once, with a cache whose layers only append; the places where keys and values go in and come out are
then joined to states.  That is what optimum-intel does for a hundred architectures, with the transformers of its own
choice; this does it for those that the other engine runs as well, with ours.
"""

from __future__ import annotations

from typing import Any

import numpy
import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from processors.inference.quietly import openvino
from processors.inference.rows import cache_argument

_LEAST = 4_096
"""Numbers from which a matrix is worth 8 bits."""


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call] # transformers annotates only part of itself
    """Keys and values of one layer, (people, heads, tokens, size): what was, and behind it what comes."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.k, self.v = keys, values
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        return None

    def update(self, key_states: Tensor, value_states: Tensor, *_args: Any, **_kwargs: Any) -> tuple[Tensor, Tensor]:
        self.k, self.v = torch.cat([self.k, key_states], dim=2), torch.cat([self.v, value_states], dim=2)
        return self.k, self.v

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.k.shape[2] + query_length, 0

    def get_seq_length(self) -> int:
        return self.k.shape[2]

    def get_max_length(self) -> int:
        return -1


class _Whole(torch.nn.Module):
    """The model as a function of everything that it depends on."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self._model = model
        self._cache_name = cache_argument(model)

    def forward(self, ids: Tensor, attention_mask: Tensor, positions: Tensor, *past: Tensor) -> tuple[Tensor, ...]:
        """
        Args:
            ids: (people, new tokens)
            attention_mask: (people, all tokens); 0 where nothing stands.
            past: keys and values of each layer.
        """
        layers = [_Layer(past[at], past[at + 1]) for at in range(0, len(past), 2)]
        width = attention_mask.shape[1]
        own = torch.arange(width - ids.shape[1], width)[None, :, None]
        seen = (torch.arange(width)[None, None] <= own) & attention_mask[:, None].bool()
        mask = torch.where(seen[:, None], 0.0, torch.finfo(torch.float32).min)
        more: dict[str, Any] = {self._cache_name: Cache(layers=list(layers))}
        logits = self._model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=True, **more).logits
        return logits, *(states for layer in layers for states in (layer.k, layer.v))


def converted(model: Any) -> Any:
    """
    The graph of a model in float32, with whose weights it shares its memory.

    Raises:
        Exception: the model is no decoder with plain attention; what kind, depends on what it trips over.
    """
    past = _past(model)
    example = (
        torch.ones(2, 3, dtype=torch.int64),
        torch.ones(2, 7, dtype=torch.int64),
        torch.arange(4, 7).repeat(2, 1),
        *past,
    )
    with torch.no_grad():
        traced = torch.jit.trace(_Whole(model), example, check_trace=False)  # type: ignore[no-untyped-call]
    shapes = [(openvino.PartialShape([-1, -1]), openvino.Type.i64)] * 3
    for states in past:
        shapes.append((openvino.PartialShape([-1, states.shape[1], -1, states.shape[3]]), openvino.Type.f32))
    graph = openvino.convert_model(traced, example_input=example, input=shapes)
    layers = [f"{number}.{what}" for number in range(len(past) // 2) for what in ("key", "value")]
    inputs = ["input_ids", "attention_mask", "position_ids", *(f"past_key_values.{layer}" for layer in layers)]
    outputs = ["logits", *(f"present.{layer}" for layer in layers)]
    for ports, names in ((graph.inputs, inputs), (graph.outputs, outputs)):
        for port, name in zip(ports, names, strict=True):
            port.get_tensor().set_names({name})
            port.get_node().set_friendly_name(name)
    _keep_states(graph, dict(zip(inputs[3:], outputs[1:], strict=True)))
    return graph


def _past(model: Any) -> list[Tensor]:
    """Keys and values of four tokens for two people, of each layer: an example."""
    with torch.inference_mode():
        said = model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=True)
    cache = getattr(said, "cache", None) or said.past_key_values
    return [
        torch.zeros(2, states.shape[1], 4, states.shape[3])
        for layer in cache.layers
        for states in (layer.keys, layer.values)
    ]


def _keep_states(graph: Any, pairs: dict[str, str]) -> None:
    """Join each input to the output that is to be its next value; at first it is empty."""
    ops = openvino.opset13
    # Who stands in which row may change between two steps: the pipeline's way of saying it is this input.
    order = ops.parameter(openvino.PartialShape([-1]), openvino.Type.i32, name="beam_idx")
    order.output(0).get_tensor().add_names({"beam_idx"})
    graph.add_parameters([order])
    for name in pairs:
        port = graph.input(name)
        users = port.get_target_inputs()
        ordered = ops.gather(port, order, ops.constant(0))
        for user in users:
            user.replace_source_output(ordered.output(0))
    graph.validate_nodes_and_infer_types()
    openvino._offline_transformations.apply_make_stateful_transformation(graph, pairs)
    people = ops.shape_of(graph.input("input_ids"), output_type="i64")
    rows = ops.gather(people, ops.constant([0]), ops.constant(0))
    for node in graph.get_ops():
        if node.get_type_name() == "ReadValue":
            _, heads, _, size = node.get_output_partial_shape(0)
            rest = ops.constant(numpy.array([heads.get_length(), 0, size.get_length()], dtype=numpy.int64))
            empty = ops.broadcast(ops.constant(numpy.float32(0)), ops.concat([rows, rest], axis=0))
            node.set_arguments([empty])
    graph.validate_nodes_and_infer_types()


def compress(graph: Any) -> None:
    """Every large matrix as 8 bits and a scale for each of its outputs, in place."""
    ops, done = openvino.opset13, dict[tuple[str, int], Any]()
    for node in graph.get_ordered_ops():
        found = _matrix(node)
        if found is None:
            continue
        port, axis = found
        constant = port.get_source_output().get_node()
        key = (constant.get_friendly_name(), axis)
        if key not in done:
            whole = constant.data.astype(numpy.float32)
            scale = numpy.abs(whole).max(axis=axis, keepdims=True) / 127
            scale[scale == 0] = 1
            small = numpy.rint(whole / scale).astype(numpy.int8)
            done[key] = ops.multiply(ops.convert(ops.constant(small), "f32"), ops.constant(scale))
        port.replace_source_output(done[key].output(0))
    graph.validate_nodes_and_infer_types()


def _matrix(node: Any) -> tuple[Any, int] | None:
    """Where a node takes a large constant matrix, and the axis that it sums over; None where it takes none."""
    kind = node.get_type_name()
    if kind == "MatMul":
        port, axis = node.input(1), 1 if node.get_attributes()["transpose_b"] else 0
    elif kind == "Gather":
        port, axis = node.input(0), 1
    else:
        return None
    constant = port.get_source_output().get_node()
    shape = list(constant.get_output_shape(0)) if constant.get_type_name() == "Constant" else []
    large = len(shape) == 2 and shape[0] * shape[1] >= _LEAST
    return (port, axis) if large and constant.get_output_element_type(0) == openvino.Type.f32 else None
