"""
`python -m bench.whole`: a model through the whole pipeline, beside its engine alone.

Messages of people come at once over HTTP, and their replies go out as webhooks, as in `make bench`, but with a model of
this shape; then the same requests go to the engine alone, in a process of its own.  The weights are random, and the
scores of all that the demonstration's tokenizer cannot say are nothing: so the replies are words, and none ends early.

    python -m bench.whole                                 64 people, the shape of Qwen2.5-0.5B, three rounds
    python -m bench.whole --shape small --rounds 1
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from bench.inference import SHAPES, in_its_own_process, shaped
from bench.stage import Stage, staged
from bench.systems import OURS, ROOT

_RULES = ROOT / "processors" / "inference" / "system_prompt.es.md"
LENGTH = 300
"""Characters of a message."""


def main() -> None:
    options = _options()
    if options.alone:
        print(asyncio.run(_engine_alone(options.alone, options)))
        return
    console = Console()
    with tempfile.TemporaryDirectory(prefix="cauce-whole-") as folder:
        _save(options, Path(folder))
        ratios = []
        for number in range(options.rounds):
            whole = asyncio.run(_whole(Path(folder), options))
            alone = in_its_own_process("bench.whole", folder)
            ratios.append(whole / alone)
            told = f"whole {whole:.2f} replies/s, engine alone {alone:.2f}, ×{ratios[-1]:.2f}"
            console.print(f"round {number + 1}: {told}", highlight=False)
    console.print(f"whole / alone ×{median(ratios):.2f} [{min(ratios):.2f}–{max(ratios):.2f}]", markup=False)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.whole", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=SHAPES, default=SHAPES[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--people", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=48, help="of a reply")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    return parser.parse_args()


def _save(options: argparse.Namespace, folder: Path) -> None:
    import torch
    from transformers import AutoTokenizer

    from processors.inference.weights import DEMO

    tokenizer: Any = AutoTokenizer.from_pretrained(str(DEMO))
    model = shaped(options.shape, "bfloat16")
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows[len(tokenizer) :] = 0
        rows[tokenizer.all_special_ids] = 0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


async def _whole(folder: Path, options: argparse.Namespace) -> float:
    """Replies a second, from the first message to the last reply."""
    system = dataclasses.replace(OURS, environment=OURS.environment | {"MODEL": str(folder)})
    inference = f"[inference]\nmax_tokens = {options.tokens}\n"
    async with staged(system, more=inference) as stage:
        stage.start(*system.workers)
        await _answered(stage, 0, 2)  # nobody is measured while it loads and warms up
        return await _answered(stage, 2, options.people)


async def _answered(stage: Stage, before: int, people: int) -> float:
    sent = await stage.say(people, people, length=LENGTH)
    await stage.arrived(before + people)
    arrivals = await stage.arrivals()
    if missing := [number for number in range(before, before + people) if number not in arrivals]:
        raise SystemExit(f"bench: {len(missing)} of {people} were not answered")
    last: float = max(arrivals.values())
    return people / (last - sent.began)


async def _engine_alone(folder: str, options: argparse.Namespace) -> float:
    from processors.inference.engine import Threaded
    from processors.inference.generation import Line, Request, Sampling
    from processors.inference.model import load
    from streams.settings import Settings
    from streams.tables import Inference

    rules = _RULES.read_text(encoding="utf-8")
    how = Inference()
    engine = Threaded(load(Settings(model=folder), how), slots=how.slots)

    async def ask(number: int) -> None:
        lines = [Line("system", rules), Line("user", f"{number} ".ljust(LENGTH, "x"))]
        said = await engine.generate(Request(lines=lines, max_tokens=options.tokens, sampling=Sampling(seed=number)))
        if said.tokens < options.tokens:
            raise SystemExit(f"bench: a reply of {said.tokens} tokens, where {options.tokens} were asked for")

    try:
        await asyncio.gather(ask(0), ask(1))
        began = time.monotonic()
        await asyncio.gather(*map(ask, range(2, 2 + options.people)))
        seconds = time.monotonic() - began
        return float(options.people / seconds)
    finally:
        await engine.close()


if __name__ == "__main__":
    main()
