"""
`python -m bench.talks`: what people and operators notice of the engine while many talk with it.

    python -m bench.talks                               the shape of Qwen2.5-0.5B, 50 people with ten turns each
    python -m bench.talks --shape small --people 200
    python -m bench.talks --int8                        with weights of eight bits

Three processes, one after the other: `step` is one request alone, beside what the memory of this machine could give at
best; `kept` are the conversations as they are served, `cold` the same with nothing kept from one turn to the next.  In
`kept` and `cold` the event loop is asked every 5 ms how late it is.  The weights are random, as in bench/inference.py.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from bench.inference import SHAPES, Ask, Asked, Figures, in_its_own_process, opened, shaped

KEPT_BYTES = 256 << 20
EVERY = 0.005
"""Seconds between two looks at the loop."""


def main() -> None:
    options = _options()
    if options.alone:
        print(json.dumps(_ALONE[options.alone](options)))
        return
    console = Console()
    console.print(
        f"{options.shape}, {'int8' if options.int8 else 'bfloat16'}, {options.threads} threads; "
        f"{options.people} people with {options.turns} turns each"
    )
    found: dict[str, Figures] = {}
    for name in _ALONE:
        found[name] = in_its_own_process("bench.talks", name)
    found["kept / cold"] = {
        row: found["kept"][row] / found["cold"][row] for row in ("replies/s", "a reply, p50 s", "a reply, p99 s")
    }
    for name, figures in found.items():
        table = Table(name, "", show_header=True)
        for row, value in figures.items():
            table.add_row(row, f"{value:.3g}" if value < 1_000 else f"{value:,.0f}")
        console.print(table)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.talks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0])
    parser.add_argument("--people", type=int, default=50)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of torch")
    parser.add_argument("--int8", action="store_true", help="weights of eight bits")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    return parser.parse_args()


def _step(options: argparse.Namespace) -> Figures:
    """One token of one request, against all weights read once as fast as this machine reads memory."""
    import torch

    torch.set_num_threads(1)
    model = shaped(options.shape, "bfloat16")
    size = sum(weight.numel() for weight in model.parameters()) * (1 if options.int8 else 2)
    tokens = 60

    async def story() -> float:
        async with opened(model, options.threads, int8=options.int8, keep_bytes=0) as ask:
            await ask(Asked([1] * 64, 2))
            took = []
            for _ in range(3):
                began = time.monotonic()
                await ask(Asked([1] * 64, 1))
                first = time.monotonic()
                await ask(Asked([1] * 64, tokens + 1))
                took.append((time.monotonic() - first - (first - began)) / tokens)
            return min(took)

    step = asyncio.run(story())
    torch.set_num_threads(options.threads)
    much = torch.ones(1 << 28)  # 1 GiB: beyond any cache
    much.sum()
    read = min(_seconds(much.sum) for _ in range(5)) / much.nbytes
    bound = size * read
    return {
        "memory, GB/s": 1e-9 / read,
        "all weights read once, ms": bound * 1e3,
        "a token of one request, ms": step * 1e3,
        "× the bound": step / bound,
    }


def _seconds(work: Callable[[], Any]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


class _Crowd:
    """People who talk, and what is noticed of it."""

    def __init__(self, vocabulary: int, turns: int) -> None:
        self._draw = random.Random(3)  # noqa: S311 - no secret
        self._vocabulary, self._turns = vocabulary, turns
        self._here, self._at_once = psutil.Process(), asyncio.Semaphore(16)
        self.late: list[float] = []
        """Seconds by which the event loop was, at each look."""
        self.took: list[float] = []
        """Seconds for each reply."""
        self.sizes: list[int] = []
        """Bytes of this process, after each."""

    async def talk(self, ask: Ask, people: int) -> float:
        """So many of them, sixteen at once; the seconds that takes."""
        await ask(Asked(self._tokens(200, 200), 8))
        watching = asyncio.create_task(self._watch())
        began = time.monotonic()
        await asyncio.gather(*(self._person(ask) for _ in range(people)))
        seconds = time.monotonic() - began
        watching.cancel()
        return seconds

    def _tokens(self, least: int, most: int) -> list[int]:
        return [self._draw.randrange(self._vocabulary) for _ in range(self._draw.randint(least, most))]

    async def _watch(self) -> None:
        while True:
            due = time.perf_counter() + EVERY
            await asyncio.sleep(EVERY)
            self.late.append(time.perf_counter() - due)

    async def _person(self, ask: Ask) -> None:
        async with self._at_once:
            said = self._tokens(80, 120)  # the system prompt and a greeting
            for _ in range(self._turns):
                said += self._tokens(8, 40)
                began = time.monotonic()
                said += await ask(Asked(list(said), self._draw.randint(10, 40)))
                self.took.append(time.monotonic() - began)
                self.sizes.append(self._here.memory_info().rss)


def _talks(options: argparse.Namespace, keep_bytes: int) -> Figures:
    import torch

    torch.set_num_threads(1)
    model = shaped(options.shape, "bfloat16")
    weights = sum(weight.numel() * (1 if options.int8 else 2) for weight in model.parameters())

    async def story() -> tuple[_Crowd, float]:
        crowd = _Crowd(int(model.config.vocab_size), options.turns)
        async with opened(model, options.threads, int8=options.int8, keep_bytes=keep_bytes) as ask:
            return crowd, await crowd.talk(ask, options.people)

    crowd, seconds = asyncio.run(story())
    turns = options.people * options.turns
    early = max(1, turns // 5)
    return {
        "replies/s": turns / seconds,
        "a reply, p50 s": quantiles(crowd.took, n=2)[0],
        "a reply, p99 s": quantiles(crowd.took, n=100)[98],
        "event loop late, p50 ms": quantiles(crowd.late, n=2)[0] * 1e3,
        "event loop late, p99 ms": quantiles(crowd.late, n=100)[98] * 1e3,
        "weights + kept + 1 GB, MB": (weights + keep_bytes + (1 << 30)) / 1e6,
        f"memory after {early} turns, MB": max(crowd.sizes[:early]) / 1e6,
        f"after {turns} turns, MB": max(crowd.sizes) / 1e6,
    }


_ALONE: dict[str, Callable[[argparse.Namespace], Figures]] = {
    "step": _step,
    "kept": lambda options: _talks(options, KEPT_BYTES),
    "cold": lambda options: _talks(options, 0),
}


if __name__ == "__main__":
    main()
