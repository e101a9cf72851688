"""
OpenVINO in `make bench-inference`: the engine of Cauce on it, and the same pipeline driven by nothing but a loop.

The model of a shape is exported once and kept in the machine's folder for temporary files.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy

from processors.inference import graph
from processors.inference.calls import Heard
from processors.inference.exchange import Open, Process
from processors.inference.generation import Drawing, Line, Request, Tool
from processors.inference.openvino import About, Paged
from processors.inference.pipeline import opened as pipelined
from processors.inference.quietly import openvino, openvino_genai
from processors.inference.weights import EXPORTED
from streams.tables import Inference

CONTEXT = 2048
SLOTS = 16


def exported(model: Any, shape: str, weights: str) -> Path:
    """A folder with this model, made where it is not there yet."""
    folder = Path(tempfile.gettempdir()) / "cauce-bench" / f"{shape}-{weights}"
    if not (folder / "generation_config.json").exists():
        made = graph.converted(model.float())
        if weights == "int8":
            graph.compress(made)
        openvino.save_model(made, folder / EXPORTED, compress_to_fp16=weights == "float16")
        model.config.save_pretrained(folder)
        model.generation_config.save_pretrained(folder)
    return folder


class _Numbers:
    """A prompt is its tokens' numbers in words, and so is a reply.  See `door.Speech`."""

    context_length = CONTEXT
    stops = frozenset[int]()
    drawing = Drawing()

    def offered(self, _tools: Sequence[Tool]) -> Sequence[Tool]:
        return ()

    def hear(self, _prompt: Sequence[int], tokens: Sequence[int], _tools: Sequence[Tool]) -> Heard:
        return Heard(self.decode(tokens))

    def encode(self, lines: Sequence[Line], max_tokens: int, tools: Sequence[Tool]) -> list[int]:
        return [int(word) for word in lines[-1].content.split()]

    def check(self, tokens: Sequence[int]) -> None:
        return None

    def decode(self, tokens: Sequence[int]) -> str:
        return " ".join(map(str, tokens))


def _how(folder: Path, threads: int, dtype: Any) -> Open:
    return Open(str(folder), Inference(threads=threads, slots=SLOTS, dtype=dtype, keep_mb=2048), CONTEXT)


def opened(name: str, folder: Path, threads: int, dtype: Any) -> Any:
    """What answers, ready: a process with the pipeline for the engine, or the pipeline."""
    how = _how(folder, threads, dtype)
    return Process(how) if name == "openvino" else pipelined(how)[0].whole


class _Lent:
    """A process that outlives its engine, for the next run."""

    def __init__(self, process: Process) -> None:
        self.step = process.step

    def close(self) -> None:
        return None


def engine(process: Process, asked: Sequence[Any], _threads: int) -> list[float]:
    """Seconds until each reply is there, by the engine of Cauce."""

    async def story() -> list[float]:
        about = About(name="random", dtype="", device="CPU", parameters=0, chat_template=False, tools=False)
        paged = Paged(_Lent(process), _Numbers(), about, slots=SLOTS)
        began = time.monotonic()

        async def one(each: Any) -> float:
            words = " ".join(map(str, each.prompt))
            said = await paged.generate(Request(lines=[Line("user", words)], max_tokens=each.tokens))
            if said.tokens != each.tokens:
                raise SystemExit(f"bench: {said.tokens} tokens where {each.tokens} were asked for")
            return time.monotonic() - began

        ended = await asyncio.gather(*map(one, asked))
        await paged.close()
        return list(ended)

    return asyncio.run(story())


def direct(pipeline: Any, asked: Sequence[Any], _threads: int) -> list[float]:
    """The same, by nothing but the pipeline: everybody is put in, and it steps until all are done."""
    began, ended = time.monotonic(), list[float]()
    waiting = []
    for number, each in enumerate(asked):
        wish = openvino_genai.GenerationConfig()
        wish.max_new_tokens, wish.do_sample, wish.ignore_eos = each.tokens, False, True
        wish.set_eos_token_id(0)
        ids = openvino.Tensor(numpy.array([each.prompt], dtype=numpy.int64))
        waiting.append(pipeline.add_request(number, ids, wish))
    while pipeline.has_non_finished_requests():
        pipeline.step()
        done = [handle for handle in waiting if handle.get_status() == openvino_genai.GenerationStatus.FINISHED]
        waiting = [handle for handle in waiting if handle not in done]
        ended += [time.monotonic() - began] * len(done)
    return ended
