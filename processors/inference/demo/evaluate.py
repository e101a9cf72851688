"""
Measures the demo model on conversations that were kept away from its training.

    python -m processors.inference.demo.evaluate
    python -m processors.inference.demo.evaluate --int8     what weights of eight bits make of it

Greedy decoding through transformers' `generate`, each conversation with the model's own replies in its history.  A
turn is sensible when its reply contains all that heldout.toml asks of it, and claims nothing that no reply may claim.
"""

from __future__ import annotations

import argparse
import json
import re
import tomllib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoModelForCausalLM, AutoTokenizer

from processors.inference.demo.dialogues import dialogues
from processors.inference.demo.noise import plain
from processors.inference.linear import to_int8

SHIPPED = Path(__file__).with_name("model")
HELD_OUT = Path(__file__).with_name("heldout.toml")


@dataclass(frozen=True)
class Verdict:
    """One held-out turn: what was written, what was answered, and what was wrong with that."""

    about: str
    user: str
    reply: str
    wrong: tuple[str, ...]
    seen: bool
    """The same words occur in a training dialogue."""


class Speaker:
    """A model that answers greedily."""

    def __init__(self, folder: Path, *, int8: bool = False) -> None:
        self._tokenizer: Any = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        self._model: Any = AutoModelForCausalLM.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, dtype=torch.float32
        )
        if int8:
            to_int8(self._model)

    def reply(self, messages: list[dict[str, str]]) -> str:
        """
        What the assistant says next.

        Args:
            messages: `role` and `content`, oldest first; the last is the person's.
        """
        prompt = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        given = self._tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            ids = self._model.generate(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
        return str(self._tokenizer.decode(ids[0, given["input_ids"].shape[1] :], skip_special_tokens=True))


def wrong_with(reply: str, must: list[str], rules: dict[str, dict[str, str]]) -> tuple[str, ...]:
    """The expectations that a reply fails."""
    said = plain(reply).lower().replace("ñ", "n")
    named = {want: re.sub(r"@(\w+)", lambda name: rules["checks"][name[1]], want) for want in must}
    missing = [want for want, pattern in named.items() if not re.search(pattern, said)]
    claimed = [name for name, pattern in rules["never"].items() if re.search(pattern, said)]
    return (*missing, *claimed)


def judge(speaker: Speaker, file: Path = HELD_OUT, seen: frozenset[str] = frozenset()) -> list[Verdict]:
    rules = tomllib.loads(HELD_OUT.read_text(encoding="utf-8"))
    verdicts = []
    for talk in tomllib.loads(file.read_text(encoding="utf-8"))["talk"]:
        messages: list[dict[str, str]] = []
        for turn in talk["turns"]:
            messages.append({"role": "user", "content": turn["user"]})
            reply = speaker.reply(messages)
            messages.append({"role": "assistant", "content": reply})
            wrong = wrong_with(reply, turn["must"], rules)
            verdicts.append(Verdict(turn["about"], turn["user"], reply, wrong, folded(turn["user"]) in seen))
    return verdicts


def folded(text: str) -> str:
    """Only the letters and digits, small and without accents: how two wordings are compared."""
    return re.sub(r"[^a-z0-9]+", " ", plain(text).lower().replace("ñ", "n")).strip()


def trained_on(folder: Path) -> frozenset[str]:
    """All that people write in the dialogues that this model was trained on."""
    record = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return frozenset(folded(turn.user) for talk in dialogues(record["seed"], record["dialogues"]) for turn in talk)


def report(verdicts: list[Verdict], console: Console, *, failures: bool) -> None:
    """A table of the share of sensible replies by what the turn is about."""
    by_kind: defaultdict[str, list[Verdict]] = defaultdict(list)
    for verdict in verdicts:
        by_kind[verdict.about].append(verdict)
    table = Table("about", "turns", "sensible", "share", box=None)
    for name, group in [*by_kind.items(), ("all", verdicts)]:
        table.add_row(name, *_counted(group))
    table.add_row("all, wording not in training", *_counted([verdict for verdict in verdicts if not verdict.seen]))
    console.print(table)
    for verdict in verdicts:
        if failures and verdict.wrong:
            console.print(f"{verdict.about}: {verdict.user!r} → {verdict.reply!r} lacks {verdict.wrong}", markup=False)


def _counted(group: list[Verdict]) -> tuple[str, str, str]:
    good = sum(not verdict.wrong for verdict in group)
    return str(len(group)), str(good), f"{100 * good / max(1, len(group)):.0f} %"


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m processors.inference.demo.evaluate",
        description="Print the demo model's share of sensible replies on the conversations held out of its training.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--model", type=Path, default=SHIPPED, help="the folder of a model that train.py wrote")
    parser.add_argument("--file", type=Path, default=HELD_OUT, help="the conversations")
    parser.add_argument("--failures", action="store_true", help="also print each reply that is not sensible")
    parser.add_argument("--int8", action="store_true", help="with weights of eight bits, as inference.dtype has it")
    options = parser.parse_args()
    torch.set_num_threads(2)
    speaker = Speaker(options.model, int8=options.int8)
    report(judge(speaker, options.file, trained_on(options.model)), Console(), failures=options.failures)


if __name__ == "__main__":
    main()
