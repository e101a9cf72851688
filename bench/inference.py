"""
`make bench-inference`: the engine beside transformers' own ways of generating, in the same run on the same machine.

    make bench-inference                                              the shape of Qwen2.5-0.5B, three rounds
    make bench-inference BENCH="--shape gpt2-medium --rounds 1"
    make bench-inference BENCH="--systems one,slots --requests 8"     a quick look

The weights are random, for only their shape costs time: so nobody stops early, and each reply has the length that the
workload says.  The workload: requests that come at once, with prompts of 200 to 600 tokens and replies of 8 to 96.
Systems take turns within a round, each in a process of its own, and every ratio is taken within its round.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.util
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

BASELINE = "one"
ABOUT = {
    "one": "transformers' generate, one request at a time",
    "padded": "the same, in left-padded batches of 16, shortest first",
    "manager": "transformers' own continuous batching",
    "slots": "the engine of Cauce, 16 slots",
    "int8": "the same with weights of eight bits",
    "openvino": "the engine of Cauce on OpenVINO, 16 slots",
    "genai": "OpenVINO GenAI's continuous batching, driven by nothing but a loop",
}
ON_OPENVINO = ("openvino", "genai")
SHAPES = ("qwen2.5-0.5b", "gpt2-medium", "small")
Figures = dict[str, float]


class Asked(NamedTuple):
    """One request of the workload."""

    prompt: list[int]
    tokens: int


Ask = Callable[[Asked], Coroutine[Any, Any, list[int]]]
"""Generate that many tokens after a prompt."""


def main() -> None:
    options = _options()
    if options.alone:
        print(json.dumps(_measured(options.alone, options)))
        return
    systems = options.systems.split(",") if options.systems else [name for name in ABOUT if _there(name)]
    if unknown := set(systems) - set(ABOUT):
        raise SystemExit(f"bench: no system {sorted(unknown)}; there are {', '.join(ABOUT)}")
    console = Console()
    tokens = sum(each.tokens for each in workload(options.requests, 1_000))
    console.print(
        f"{options.shape}, {options.dtype}, {options.threads} threads; {options.requests} requests, {tokens} tokens"
    )
    rounds: dict[str, list[Figures]] = {name: [] for name in systems}
    for number in range(options.rounds):
        for name in systems:
            rounds[name].append(in_its_own_process("bench.inference", name))
            told = ", ".join(f"{row} {value:.3g}" for row, value in rounds[name][-1].items())
            console.print(f"round {number + 1}: {name}: {told}", highlight=False)
    console.print(_table(rounds))
    if options.json:
        options.json.write_text(json.dumps(rounds, indent=1), encoding="utf-8")


def _there(name: str) -> bool:
    return name not in ON_OPENVINO or importlib.util.find_spec("openvino_genai") is not None


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.inference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--systems", help=f"with commas between them: {', '.join(ABOUT)}")
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0])
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--weights", choices=("int8", "float16", "float32"), default="int8", help="on OpenVINO")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=32)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="that compute")
    parser.add_argument("--json", type=Path, help="where to leave every figure")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    return parser.parse_args()


def in_its_own_process(module: str, name: str) -> Any:
    """The JSON that `python -m module … --alone name` prints last, with this process's own arguments."""
    command = [sys.executable, "-m", module, *sys.argv[1:], "--alone", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _table(rounds: dict[str, list[Figures]]) -> Table:
    table = Table("", *rounds)
    for row in max((found[0] for found in rounds.values()), key=len):
        cells = []
        for found in rounds.values():
            if row not in found[0]:
                cells.append("–")
                continue
            cell = f"{median(each[row] for each in found):.3g}"
            if BASELINE in rounds and found is not rounds[BASELINE] and row in rounds[BASELINE][0]:
                ratios = [ours[row] / theirs[row] for ours, theirs in zip(found, rounds[BASELINE], strict=True)]
                cell += f"\n×{median(ratios):.2f} [{min(ratios):.2f}–{max(ratios):.2f}]"
            cells.append(cell)
        table.add_row(row, *cells)
    return table


def workload(count: int, vocabulary: int, seed: int = 1) -> list[Asked]:
    """The same for whoever asks: prompts of 200 to 600 random tokens, replies of 8 to 96."""
    draw = random.Random(seed)  # noqa: S311 - no secret
    return [
        Asked([draw.randrange(vocabulary) for _ in range(draw.randint(200, 600))], draw.randint(8, 96))
        for _ in range(count)
    ]


def _measured(name: str, options: argparse.Namespace) -> Figures:
    import torch

    torch.set_num_threads(1)  # as when a model is loaded: helpers are for the thread that answers alone
    model = shaped(options.shape, options.dtype)
    torch.set_num_threads(options.threads)
    vocabulary = model.config.vocab_size
    asked = workload(options.requests, vocabulary)
    run: Callable[[Any, Sequence[Asked], int], list[float]]
    if name in ON_OPENVINO:
        from bench import openvino

        run = openvino.engine if name == "openvino" else openvino.direct
        folder = openvino.exported(model, options.shape, options.weights)
        model = openvino.opened(name, folder, options.threads, options.dtype)
    else:
        ways: dict[str, Callable[[Any, Sequence[Asked], int], list[float]]] = {
            "one": _one, "padded": _padded, "manager": _manager, "slots": _slots, "int8": partial(_slots, int8=True),
        }  # fmt: skip
        run = ways[name]
    run(model, workload(2, vocabulary, seed=2), options.threads)  # nobody is measured while it warms up
    began = time.monotonic()
    latencies = sorted(run(model, asked, options.threads))
    seconds = time.monotonic() - began
    more = _turns(model, options.threads) if name == "slots" else {}
    return {
        "tokens/s": sum(each.tokens for each in asked) / seconds,
        "replies/s": len(asked) / seconds,
        "p50 s": latencies[len(latencies) // 2],
        "longest s": latencies[-1],
        **more,
    }


def shaped(shape: str, dtype: str) -> Any:
    """A model of this shape with random weights."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

    torch.manual_seed(0)
    config: Any
    if shape == "gpt2-medium":
        config = GPT2Config(n_embd=1024, n_layer=24, n_head=16)
    else:
        small = shape == "small"
        config = Qwen2Config(
            vocab_size=2_000 if small else 151_936,
            hidden_size=128 if small else 896,
            intermediate_size=256 if small else 4_864,
            num_hidden_layers=2 if small else 24,
            num_attention_heads=4 if small else 14,
            num_key_value_heads=2,
            tie_word_embeddings=True,
        )
    model: Any = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))  # type: ignore[no-untyped-call]
    model.eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = 0
    return model


def _one(model: Any, asked: Sequence[Asked], _threads: int) -> list[float]:
    import torch

    began, ended = time.monotonic(), list[float]()
    for each in asked:
        ids = torch.tensor([each.prompt])
        with torch.inference_mode():
            model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=each.tokens)
        ended.append(time.monotonic() - began)
    return ended


def _padded(model: Any, asked: Sequence[Asked], _threads: int) -> list[float]:
    import torch

    began, ended = time.monotonic(), list[float]()
    queue = sorted(asked, key=lambda each: each.tokens)
    for batch in (queue[first : first + 16] for first in range(0, len(queue), 16)):
        width = max(len(each.prompt) for each in batch)
        ids = torch.tensor([[0] * (width - len(each.prompt)) + each.prompt for each in batch])
        mask = torch.tensor([[0] * (width - len(each.prompt)) + [1] * len(each.prompt) for each in batch])
        with torch.inference_mode():
            most = max(each.tokens for each in batch)
            model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=most)
        ended += [time.monotonic() - began] * len(batch)
    return ended


def _manager(model: Any, asked: Sequence[Asked], _threads: int) -> list[float]:
    from transformers import GenerationConfig

    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=max(each.tokens for each in asked)
    )
    manager = model.init_continuous_batching(generation_config=config)
    manager.start()
    began = time.monotonic()
    ended: list[float] = []
    try:
        for number, each in enumerate(asked):
            manager.add_request(each.prompt, request_id=f"r{number}", max_new_tokens=each.tokens)
        while len(ended) < len(asked):
            result = manager.get_result(timeout=1)
            if result is not None and result.is_finished():
                ended.append(time.monotonic() - began)
            elif not manager.is_running():
                raise SystemExit("bench: transformers' manager has stopped")
    finally:
        manager.stop(block=True)
    return ended


@contextlib.asynccontextmanager
async def opened(model: Any, threads: int, *, int8: bool = False, keep_bytes: int = 1 << 30) -> AsyncIterator[Ask]:
    """The engine of Cauce over this model; a prompt is its tokens' numbers in words."""
    import torch

    from processors.inference import machine
    from processors.inference.engine import Threaded
    from processors.inference.generation import Line, Request, Sampling, Tool
    from processors.inference.model import Model

    class Numbers(Model):
        def encode(self, lines: Sequence[Line], max_tokens: int, tools: Sequence[Tool]) -> list[int]:
            return [int(word) for word in lines[-1].content.split()]

        def decode(self, tokens: Sequence[int]) -> str:
            return " ".join(map(str, tokens))

    machine.arrange_memory()  # as when a model is loaded, and so is the next
    torch.set_num_threads(1)
    runner = Numbers(model, _Tokenizer(), name="random", threads=threads, keep_bytes=keep_bytes, int8=int8)
    engine = Threaded(runner, slots=16)

    async def ask(each: Asked) -> list[int]:
        words = " ".join(map(str, each.prompt))
        how = Sampling(temperature=0.0, repetition_penalty=1.0)
        said = await engine.generate(Request(lines=[Line("user", words)], max_tokens=each.tokens, sampling=how))
        if said.tokens != each.tokens:
            raise SystemExit(f"bench: {said.tokens} tokens where {each.tokens} were asked for")
        return [int(word) for word in said.text.split()]

    try:
        yield ask
    finally:
        await engine.close()


def _slots(model: Any, asked: Sequence[Asked], threads: int, *, int8: bool = False) -> list[float]:
    async def story() -> list[float]:
        async with opened(model, threads, int8=int8) as ask:
            began = time.monotonic()

            async def one(each: Asked) -> float:
                await ask(each)
                return time.monotonic() - began

            return await asyncio.gather(*map(one, asked))

    return asyncio.run(story())


def _turns(model: Any, threads: int) -> Figures:
    """How long the first token of a conversation's first and second turn takes, alone and beside eight others."""
    draw = random.Random(7)  # noqa: S311 - no secret

    def tokens(count: int) -> list[int]:
        return [draw.randrange(model.config.vocab_size) for _ in range(count)]

    async def first_token(ask: Ask, prompt: list[int]) -> float:
        began = time.monotonic()
        await ask(Asked(prompt, 1))
        return time.monotonic() - began

    async def story() -> Figures:
        found: Figures = {}
        async with opened(model, threads) as ask:
            for name, others in (("", 0), (" beside 8", 8)):
                busy = [asyncio.create_task(ask(Asked(tokens(200), 400))) for _ in range(others)]
                await asyncio.sleep(8 if others else 0)  # until they are generated
                talk = tokens(600)
                found[f"first turn{name}, s"] = await first_token(ask, talk)
                talk = [*talk, *await ask(Asked(talk, 30)), *tokens(25)]
                found[f"second turn{name}, s"] = await first_token(ask, talk)
                for each in busy:
                    each.cancel()
                await asyncio.gather(*busy, return_exceptions=True)
        return found

    return asyncio.run(story())


class _Tokenizer:
    """As much of one as the engine looks at."""

    chat_template = None
    added_tokens_decoder: dict[int, Any] = {}  # noqa: RUF012 - nobody writes to it
    all_special_ids: list[int] = []  # noqa: RUF012
    all_special_tokens: list[str] = []  # noqa: RUF012
    unk_token_id = None
    eos_token_id = -1
    bos_token_id = None

    def encode(self, text: str, **_how: Any) -> list[int]:
        return [1] * len(text)


if __name__ == "__main__":
    main()
