"""
OpenVINO GenAI's continuous batching, in a process of its own.

In a process of its own because its steps hold Python's lock: a second of arithmetic would be a second in which the
worker neither beats nor delivers.  It steps when it is told to, tells what has come of it, and ends with the
connection.  exchange.py has what is said.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import numpy

from processors.inference import machine, weights
from processors.inference.exchange import Failed, News, Open, Opened, Put, Stepped, Turn, Unopened
from processors.inference.quietly import openvino, openvino_genai
from streams.errors import ConfigurationError
from streams.tables import Inference

PIECE = 256
"""Tokens that are computed in a step: all who are being answered have one, the rest are read of prompts."""

_BLOCKS = {"CPU": 32}
"""Tokens of which keys and values lie together, by device; 16 elsewhere."""

_STORED = {
    "i8": "int8",
    "u8": "int8",
    "i4": "int4",
    "u4": "int4",
    "bf16": "bfloat16",
    "f16": "float16",
    "f32": "float32",
}

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class Pipeline:
    """
    The pipeline, and who is in it.

    Args:
        again: opens the same one anew.
    """

    def __init__(self, pipeline: Any, again: Callable[[], Any] = lambda: None) -> None:
        self.whole, self._again = pipeline, again
        self._handles: dict[int, Any] = {}

    def step(self, turn: Turn) -> Stepped | Failed:
        for number in turn.out:
            if (handle := self._handles.pop(number, None)) is not None:
                handle.cancel()  # where it has ended already, that changes nothing
        if turn.anew:
            self.whole = None  # it has no other way to forget; and memory has no room for two
            self.whole = self._again()
        news = [found for put in turn.put if (found := self._put(put)) is not None]
        try:
            if self.whole.has_non_finished_requests():
                self.whole.step()
        except Exception as error:
            return Failed(f"{type(error).__name__}: {error}"[:300])
        return Stepped([*news, *map(self._look_at, list(self._handles))])

    def _put(self, put: Put) -> News | None:
        try:
            ids = openvino.Tensor(numpy.array([put.prompt], dtype=numpy.int64))
            self._handles[put.number] = self.whole.add_request(put.number, ids, wished(put))
        except Exception:
            return News(put.number, [], "failed")
        return None

    def _look_at(self, number: int) -> News:
        handle, tokens, state = self._handles[number], list[int](), "stop"
        status = handle.get_status()
        while handle.can_read():  # else `read` waits, for a step that this thread itself would have to do
            for output in handle.read().values():
                tokens += output.generated_ids
                if output.finish_reason == openvino_genai.GenerationFinishReason.LENGTH:
                    state = "length"
        if status == openvino_genai.GenerationStatus.RUNNING:
            state = "running"
        else:
            del self._handles[number]
            if status != openvino_genai.GenerationStatus.FINISHED:
                state = "crowded"
        return News(number, tokens, state)  # type: ignore[arg-type] # one of those


def wished(put: Put) -> Any:
    wish, how = openvino_genai.GenerationConfig(), put.drawing
    wish.max_new_tokens = put.max_tokens
    wish.repetition_penalty = how.repetition_penalty
    wish.do_sample = how.temperature > 0
    if wish.do_sample:
        wish.temperature, wish.top_p = how.temperature, how.top_p
        wish.rng_seed = how.seed % 2**64
        if how.top_k:
            wish.top_k = how.top_k
    # One has to be named, although none counts where a model has none.
    wish.stop_token_ids = set(put.stops) or {0}
    wish.eos_token_id = min(wish.stop_token_ids)
    wish.ignore_eos = not put.stops
    return wish


def pipelined(folder: Path, shape: Shape, inference: Inference, device: str, context_length: int) -> Any:
    """The pipeline over a folder, as [inference] wishes it."""
    properties: dict[str, Any] = {}
    if device == "CPU":
        properties["ENABLE_CPU_PINNING"] = False  # several workers would sit on the same core
        threads = inference.threads or machine.threads(shape.parameters)
        if inference.dtype != "float32" and machine.has_tiles():
            threads = max(2, threads)  # with one, its attention divides by zero there (2026.4), and the process dies
        properties["INFERENCE_NUM_THREADS"] = threads
    if inference.dtype != "auto":
        properties["INFERENCE_PRECISION_HINT"] = _precision(inference.dtype)
    room = _room(inference, context_length, shape, _BLOCKS.get(device, 16))
    return openvino_genai.ContinuousBatchingPipeline(folder, room, device, properties)


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """What can be read off a model's graph."""

    parameters: int
    dtype: str
    """Of most of the weights."""
    token_bytes: int
    """Of one token's keys and values."""
    vocabulary: int

    @classmethod
    def of(cls, folder: Path) -> Shape:
        model = openvino.Core().read_model(folder / weights.EXPORTED)
        counts: dict[str, int] = {}
        for node in model.get_ops():
            if node.get_type_name() == "Constant" and len(node.get_output_shape(0)) > 1:
                kind = node.get_output_element_type(0).to_string()
                counts[kind] = counts.get(kind, 0) + math.prod(node.get_output_shape(0))
        most = max(counts, key=lambda kind: counts[kind])
        # A state is (people, heads, tokens, size); a byte for each number, and a quarter more for their scales.
        states = [variable.info.data_shape for variable in model.get_variables()]
        numbers = sum(state[1].get_length() * state[3].get_length() for state in states)
        logits = next(output for output in model.outputs if "logits" in output.get_names())
        return cls(
            parameters=sum(counts.values()),
            dtype=_STORED.get(most, most),
            token_bytes=numbers + numbers // 4,
            vocabulary=logits.get_partial_shape()[2].get_length(),
        )


def _room(inference: Inference, context_length: int, shape: Shape, block: int) -> Any:
    """
    How much the pipeline may hold: keys and values of those in it, and of what was said before, share one memory.

    At least one whole context fits, so that nobody is turned away; where there is too little for all, some wait.
    """
    keep = machine.keep_bytes(inference.keep_mb, free := machine.free_memory())
    room = openvino_genai.SchedulerConfig()
    room.enable_prefix_caching = keep > 0
    budget = keep or machine.keep_bytes(None, free)
    room.num_kv_blocks = max(budget // (shape.token_bytes * block), math.ceil(context_length / block) + 1)
    room.max_num_seqs = inference.slots
    room.max_num_batched_tokens = max(PIECE, inference.slots)
    return room


def _device(name: str) -> str:
    wanted = "CPU" if name == "auto" else name.upper()
    there = openvino.Core().available_devices
    if wanted not in there and wanted not in {each.partition(".")[0] for each in there}:
        raise ConfigurationError(
            f"streams.toml: inference.device = {name!r}: OpenVINO has no such device here; "
            f"write auto or {', '.join(each.lower() for each in there)}"
        )
    return wanted


def _precision(dtype: str) -> str:
    if dtype not in _PRECISIONS:
        raise ConfigurationError(
            f"streams.toml: inference.dtype = {dtype!r}: on OpenVINO the weights are chosen when a model is exported "
            f"(`cauce model export --weights {dtype}`); write auto, {', '.join(_PRECISIONS)}"
        )
    return _PRECISIONS[dtype]


def opened(asked: Open) -> tuple[Pipeline, Opened]:
    """
    The pipeline over a folder, and what it is.

    Raises:
        ConfigurationError: there is no such device, or no such precision.
        Exception: whatever a foreign folder makes its reader raise.
    """
    folder, device = Path(asked.folder), _device(asked.inference.device)
    shape = Shape.of(folder)
    again = partial(pipelined, folder, shape, asked.inference, device, asked.context_length)
    return Pipeline(again(), again), Opened(device, shape.dtype, shape.parameters, shape.vocabulary)


def main() -> None:
    """The process: what it says and hears goes over the connection whose number is its argument."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is its parent's to obey; it ends with the connection
    connection = Connection(int(sys.argv[1]))
    try:
        try:
            pipeline, told = opened(msgspec.msgpack.decode(connection.recv_bytes(), type=Open))
        except Exception as error:
            ours = isinstance(error, ConfigurationError)
            why = str(error) if ours else f"{type(error).__name__}: {weights.first_line(error)}"
            connection.send_bytes(msgspec.msgpack.encode(Unopened(why, ours)))
            return
        connection.send_bytes(msgspec.msgpack.encode(told))
        while True:
            turn = msgspec.msgpack.decode(connection.recv_bytes(), type=Turn)
            connection.send_bytes(msgspec.msgpack.encode(pipeline.step(turn)))
    except (EOFError, OSError):
        os._exit(0)  # nobody is left to speak to, and the pipeline would complain of who is left in it


if __name__ == "__main__":
    main()
