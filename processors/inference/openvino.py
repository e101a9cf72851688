"""
The engine on OpenVINO: a folder that `cauce model export` made, run by OpenVINO GenAI's continuous batching.

Which tokens are computed in a step, where keys and values lie, and what is known already of a prompt's beginning is the
pipeline's to say; who is in it is decided here.  It gets tokens, never text, so that what a person writes stays text
(encoding.py).  It needs neither torch nor transformers.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections import deque
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy

from processors.inference import machine, weights
from processors.inference.door import Door, Job, Speech
from processors.inference.generation import Drawing, Refused, StepFailed
from processors.inference.quietly import openvino, openvino_genai
from processors.inference.tokenizer import Tokenizer
from processors.inference.words import Words
from streams import log as logs
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Inference

log = logs.get("inference")

PIECE = 256
"""Tokens that are computed in a step: all who are being answered have one, the rest are read of prompts."""

_BLOCKS = {"CPU": 32}
"""Tokens of which keys and values lie together, by device; 16 elsewhere."""

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}


class Running(msgspec.Struct, eq=False):
    """A request in the pipeline, or on its way there."""

    number: int
    prompt: list[int]
    max_tokens: int
    tokens: list[int] = []
    """Of the reply, as far as they have been read."""
    handle: Any = None
    """The pipeline's; None while it waits."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, as `GET /model/info` shows it."""

    name: str
    dtype: str
    """Of the weights; what is computed in, OpenVINO chooses by the device unless `inference.dtype` says so."""
    device: str
    parameters: int
    chat_template: bool


class Paged(Door[Running]):
    """
    See `generation.Engine`.

    Args:
        pipeline: a ContinuousBatchingPipeline, this engine's alone.
        slots: how many are in it at once; who else comes waits here, where a step that fails does not reach them.
    """

    def __init__(self, pipeline: Any, speech: Speech, about: About, *, slots: int) -> None:
        super().__init__(speech)
        self._pipeline, self._about, self._slots = pipeline, about, slots
        self._waiting: deque[Job[Running]] = deque()
        self._running: list[Job[Running]] = []
        self._alone: deque[Job[Running]] = deque()
        """Who was in a step that failed, so that only the guilty goes, or had no room beside the others."""
        self.open()

    def describe(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self._about) | {
            "engine": "openvino",
            "context_length": self._speech.context_length,
            "slots": self._slots,
        }

    # What follows runs in the thread.

    def _begin(self) -> None:
        return None

    @property
    def _busy(self) -> bool:
        # Somebody who has left is still in the pipeline until its next step.
        return bool(self._jobs) or self._pipeline.has_non_finished_requests()

    def _admit(self, number: int, job: Job[Running], prompt: list[int], max_tokens: int) -> None:
        job.work = Running(number, prompt, max_tokens)
        self._waiting.append(job)

    def _step(self) -> None:
        try:
            self._fill()
            if self._pipeline.has_non_finished_requests():
                self._pipeline.step()
        except Exception as error:
            self._failed(error)
            return
        if self._running:
            self._failures = 0
        together = list(self._running)
        for job in together:
            self._look_at(job, alone=len(together) == 1)

    def _fill(self) -> None:
        if self._alone:
            if not self._running:
                self._put_in(self._alone.popleft())
            return
        while self._waiting and len(self._running) < self._slots:
            self._put_in(self._waiting.popleft())

    def _put_in(self, job: Job[Running]) -> None:
        running = _of(job)
        running.tokens = []
        self._running.append(job)
        how = self._wish(job.request.sampling.over(self._speech.drawing), running.max_tokens)
        ids = openvino.Tensor(numpy.array([running.prompt], dtype=numpy.int64))
        try:
            # A number of its own each time: whoever was taken out is still known by the old one.
            running.handle = self._pipeline.add_request(next(self._numbers), ids, how)
        except Exception as error:
            self._give_up(job, error)

    def _wish(self, how: Drawing, max_tokens: int) -> Any:
        wish = openvino_genai.GenerationConfig()
        wish.max_new_tokens = max_tokens
        wish.repetition_penalty = how.repetition_penalty
        wish.do_sample = how.temperature > 0
        if wish.do_sample:
            wish.temperature, wish.top_p = how.temperature, how.top_p
            wish.rng_seed = how.seed % 2**64
            if how.top_k:
                wish.top_k = how.top_k
        # One has to be named, although none counts where a model has none.
        wish.stop_token_ids = set(self._speech.stops) or {0}
        wish.eos_token_id = min(wish.stop_token_ids)
        wish.ignore_eos = not self._speech.stops
        return wish

    def _look_at(self, job: Job[Running], *, alone: bool) -> None:
        running = _of(job)
        status = running.handle.get_status()
        going_on = status == openvino_genai.GenerationStatus.RUNNING
        if going_on and not job.request.stop:
            return
        finish = self._read(running)
        if going_on:
            if self._says_stop(job.request.stop, running.tokens):
                self._end(job, "stop")
        elif status == openvino_genai.GenerationStatus.FINISHED:
            self._end(job, finish)
        else:
            self._crowded_out(job, alone=alone)

    def _crowded_out(self, job: Job[Running], *, alone: bool) -> None:
        """The pipeline had no room for its keys and values, and has dropped it."""
        running = _of(job)
        log.warning("engine.crowded", tokens=len(running.prompt) + len(running.tokens))
        if not alone:
            self._take_out(job)
            self._alone.append(job)
        elif running.tokens:
            self._end(job, "length")
        else:
            self._leave(job)
            job.end(Refused("the prompt does not fit into the memory for keys and values; raise inference.keep_mb"))

    def _read(self, running: Running) -> Literal["stop", "length"]:
        """Take over the tokens that have come; how it ended, where it has."""
        finish: Literal["stop", "length"] = "stop"
        while running.handle.can_read():  # else `read` waits, for a step that this thread itself would have to do
            for output in running.handle.read().values():
                running.tokens += output.generated_ids
                if output.finish_reason == openvino_genai.GenerationFinishReason.LENGTH:
                    finish = "length"
        if running.tokens and running.tokens[-1] in self._speech.stops:
            running.tokens.pop()
        return finish

    def _end(self, job: Job[Running], finish: Literal["stop", "length"]) -> None:
        running = _of(job)
        self._leave(job)
        job.end(self._result(job, len(running.prompt), running.tokens, finish))

    def _failed(self, error: Exception) -> None:
        log.warning("engine.step_failed", requests=len(self._running), why=f"{type(error).__name__}: {error}"[:300])
        alone = len(self._running) == 1
        for job in list(self._running):
            if alone:
                self._give_up(job, error)
            else:
                self._take_out(job)
                self._alone.append(job)
        self._count_failure(error)

    def _give_up(self, job: Job[Running], error: Exception) -> None:
        log.error("engine.request_failed", tokens=len(_of(job).prompt), why=f"{type(error).__name__}: {error}"[:300])
        self._leave(job)
        job.end(StepFailed(f"the model failed in a step of this request: {type(error).__name__}"))

    def _take_out(self, job: Job[Running]) -> None:
        self._running.remove(job)
        running = _of(job)
        if running.handle is not None:
            running.handle.cancel()  # where it has ended already, that changes nothing
            running.handle = None

    def _leave(self, job: Job[Running]) -> None:
        del self._jobs[_of(job).number]
        if job in self._running:
            self._take_out(job)
        elif job in self._alone:
            self._alone.remove(job)
        else:
            self._waiting.remove(job)

    def _put_down(self) -> None:
        for job in list(self._running):
            self._take_out(job)
        with contextlib.suppress(Exception):  # it complains on standard error of whoever is left in it
            self._pipeline.step()


def _of(job: Job[Running]) -> Running:
    assert job.work is not None  # noqa: S101 - whoever is in a queue here was admitted
    return job.work


def load(settings: Settings, inference: Inference) -> Paged:
    """
    The model in the folder that MODEL names, ready to run.

    Raises:
        ConfigurationError: it is not readable, or there is no such device.
    """
    folder, device = Path(weights.find(settings).name), _device(inference.device)
    try:
        shape = Shape.of(folder)
        config = _json(folder / "config.json")
        words = Words(
            Tokenizer(folder),
            template=inference.chat_template,
            config=config.get("text_config", config),
            generation=_json(folder / "generation_config.json") if (folder / "generation_config.json").exists() else {},
            vocabulary=shape.vocabulary,
        )
        pipeline = pipelined(folder, shape, inference, device, words.context_length)
    except ConfigurationError:  # of the chat template
        raise
    except Exception as error:  # whatever a foreign folder makes its reader raise, it is the folder that is wrong
        raise ConfigurationError(
            f"environment: MODEL = {settings.model!r}: OpenVINO cannot open it ({type(error).__name__}: "
            f"{weights.first_line(error)}); make it anew with `cauce model export`"
        ) from error
    about = About(
        name=settings.model,
        dtype=shape.dtype,
        device=device,
        parameters=shape.parameters,
        chat_template=words.chat,
    )
    return Paged(pipeline, words, about, slots=inference.slots)


def pipelined(folder: Path, shape: Shape, inference: Inference, device: str, context_length: int) -> Any:
    """The pipeline over a folder, as [inference] wishes it."""
    properties: dict[str, Any] = {}
    if device == "CPU":
        properties["INFERENCE_NUM_THREADS"] = inference.threads or machine.threads(shape.parameters)
    if inference.dtype != "auto":
        properties["INFERENCE_PRECISION_HINT"] = _PRECISIONS[inference.dtype]
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
        # A state is (people, heads, tokens, size); a byte for each number, and a quarter more for their scales.
        states = [variable.info.data_shape for variable in model.get_variables()]
        numbers = sum(state[1].get_length() * state[3].get_length() for state in states)
        logits = next(output for output in model.outputs if "logits" in output.get_names())
        return cls(
            parameters=sum(counts.values()),
            dtype=max(counts, key=lambda kind: counts[kind]),
            token_bytes=numbers + numbers // 4,
            vocabulary=logits.get_partial_shape()[2].get_length(),
        )


def _room(inference: Inference, context_length: int, shape: Shape, block: int) -> Any:
    """
    How much the pipeline may hold: keys and values of those in it, and of what was said before, share one memory.

    At least one whole context fits, so that nobody is turned away; where there is too little for all, some wait.
    """
    keep = machine.free_memory() // 4 if inference.keep_mb is None else inference.keep_mb << 20
    room = openvino_genai.SchedulerConfig()
    room.enable_prefix_caching = keep > 0
    budget = keep or machine.free_memory() // 4
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


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
