"""
Trains the demo model: a small Llama and its tokenizer, from dialogues.py, on the CPU, from one seed.

    python -m processors.inference.demo.train

It replaces processors/inference/demo/model/ once everything is written, so that a running worker never reads half a
model.  Needs the `inference` extra; uses no network.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from processors.inference.demo.dialogues import Turn, dialogues, fingerprint

Example = tuple[list[int], list[bool]]

SHIPPED = Path(__file__).with_name("model")

CONTEXT = 1024
PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"

# A person's words always follow a space, at the start of a line as in its middle, so that a word has one spelling in
# tokens and can be copied.  System lines are passed over: a model of this size follows no instructions.
TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{{- '<|user|> ' + message['content'] | trim | replace('\\n', '\\n ') + '<|end|>' -}}"
    "{%- elif message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' + message['content'] | trim + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)

_OTHERS_WORDS = 0.1
"""What guessing the person's next word counts beside the assistant's; measured a little better than nothing."""


def tokenizer_of(talks: Sequence[Sequence[Turn]], size: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE, small enough that unfamiliar words come in pieces; digits stand alone."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((f" {turn.user}\n{turn.reply}" for talk in talks for turn in talk), trainer)
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=bpe,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=[USER, ASSISTANT],
        chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
        model_max_length=CONTEXT,
    )


def tokens_of(talk: Sequence[Turn], tokenizer: PreTrainedTokenizerFast) -> Example:
    """A conversation as token ids, and which of them the assistant says (its end of turn included)."""
    user, assistant, end = (tokenizer.get_vocab()[mark] for mark in (USER, ASSISTANT, END))
    ids: list[int] = []
    said: list[bool] = []
    for turn in talk:
        asked = tokenizer.encode(" " + turn.user.strip().replace("\n", "\n "), add_special_tokens=False)
        answered = tokenizer.encode(turn.reply, add_special_tokens=False)
        ids += [user, *asked, end, assistant, *answered, end]
        said += [False] * (len(asked) + 3) + [True] * (len(answered) + 1)
    return ids[:CONTEXT], said[:CONTEXT]


def batches(
    examples: Sequence[Example], tokens: int, pad: int, rng: Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """
    Each conversation once, beside others of its length: hardly any padding, and no conversation sees another.

    Yields:
        ids:  int64 (conversations, longest), right-padded
        said: bool  (conversations, longest), the assistant's tokens
    """
    order = sorted(range(len(examples)), key=lambda index: (len(examples[index][0]), rng.random()))
    groups: list[list[int]] = [[]]
    for index in order:
        if groups[-1] and (len(groups[-1]) + 1) * len(examples[index][0]) > tokens:
            groups.append([])
        groups[-1].append(index)
    rng.shuffle(groups)
    for group in groups:
        rows = [examples[index] for index in group]
        longest = max(len(ids) for ids, _ in rows)
        yield (
            torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
            torch.tensor([said + [False] * (longest - len(said)) for _, said in rows]),
        )


def loss_of(model: LlamaForCausalLM, ids: torch.Tensor, said: torch.Tensor, pad: int) -> torch.Tensor:
    """Mean cross-entropy over what the assistant says, and a little of what the person does."""
    wanted, ours = ids[:, 1:], said[:, 1:]
    theirs = (wanted != pad) & ~ours
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), wanted, reduction="none")
    return losses[ours].mean() + _OTHERS_WORDS * losses[theirs].mean()


def new_model(options: argparse.Namespace, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(options.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            intermediate_size=options.hidden * 11 // 4,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def optimizers_of(model: LlamaForCausalLM, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside, AdamW for embeddings and norms: measured, half the steps of AdamW alone."""
    inner = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    outer = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    return [
        torch.optim.Muon(inner, lr=rate, momentum=0.95, weight_decay=0.05),
        torch.optim.AdamW(outer, lr=rate * 0.15, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def train(options: argparse.Namespace) -> None:
    torch.set_num_threads(options.threads)
    talks = list(dialogues(options.seed, options.dialogues))
    tokenizer = tokenizer_of(talks[:20_000], options.vocabulary)
    model = new_model(options, tokenizer)
    examples = [tokens_of(talk, tokenizer) for talk in talks]
    size, count = sum(p.numel() for p in model.parameters()), sum(len(ids) for ids, _ in examples)
    print(f"{size / 1e6:.2f} M parameters, {len(talks):,} dialogues, {count / 1e6:.2f} M tokens")
    began, began_cpu = time.perf_counter(), time.process_time()
    loss = fit(model, examples, options)
    wall, cpu = (time.perf_counter() - began) / 60, (time.process_time() - began_cpu) / 60
    print(f"loss {loss:.4f}; {wall:.1f} minutes, {cpu:.1f} CPU minutes")
    made = {
        "seed": options.seed, "dialogues": len(talks), "fingerprint": fingerprint(options.seed), "tokens": count,
        "loss": round(loss, 4), "minutes": round(wall, 1), "cpu_minutes": round(cpu, 1),
    }  # fmt: skip
    save(model, tokenizer, options.out, made)


def fit(model: LlamaForCausalLM, examples: Sequence[Example], options: argparse.Namespace) -> float:
    """One pass over the examples; returns the running mean of the loss."""
    pad = model.config.pad_token_id or 0
    plan = list(batches(examples, options.batch, pad, Random(options.seed)))  # noqa: S311 - repeatable is the point
    steps = len(plan)
    optimizers = optimizers_of(model, options.rate)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: _rate(step, steps)) for each in optimizers]
    columns = (
        TextColumn("training"), BarColumn(), TextColumn("loss {task.fields[loss]:.4f}"),
        TimeElapsedColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    mean = math.nan
    with Progress(*columns, disable=options.quiet) as progress:
        task = progress.add_task("", total=steps, loss=mean)
        for step, (ids, said) in enumerate(plan):
            loss = loss_of(model, ids, said, pad)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for optimizer, schedule in zip(optimizers, schedules, strict=True):
                optimizer.step()
                schedule.step()
            model.zero_grad(set_to_none=True)
            mean = loss.item() if math.isnan(mean) else 0.98 * mean + 0.02 * loss.item()
            progress.update(task, advance=1, loss=mean)
            if options.quiet and step % 100 == 0:
                print(f"step {step} of {steps}, loss {mean:.4f}", flush=True)
    return mean


def _rate(step: int, steps: int) -> float:
    """Up in a straight line over the first 3 %, down along a cosine."""
    rise = max(1, steps * 3 // 100)
    return (step + 1) / rise if step < rise else 0.5 * (1 + math.cos(math.pi * (step - rise) / (steps - rise))) + 0.01


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path, made: dict[str, Any]) -> None:
    """Write a folder beside `out`, then put it in its place."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".model-") as scratch:
        folder = Path(scratch) / "new"
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model.generation_config = GenerationConfig(do_sample=False, max_new_tokens=120, **ends)  # type: ignore[no-untyped-call]
        model.half().save_pretrained(folder)  # type: ignore[no-untyped-call]
        tokenizer.save_pretrained(folder)
        _inline_template(folder)
        (folder / "training.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
        for file in folder.iterdir():
            file.chmod(0o644)  # the weights come out readable by their writer alone
        if out.exists():
            os.rename(out, Path(scratch) / "old")
        os.rename(folder, out)
        shutil.rmtree(Path(scratch) / "old", ignore_errors=True)


def _inline_template(folder: Path) -> None:
    """The chat template beside the tokenizer's other settings, where every version of transformers looks for it."""
    apart = folder / "chat_template.jinja"
    if apart.exists():
        file = folder / "tokenizer_config.json"
        settings: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        settings["chat_template"] = apart.read_text(encoding="utf-8")
        file.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        apart.unlink()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m processors.inference.demo.train",
        description="Train the demo model from dialogues made here, and measure it on the ones held out.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--seed", type=int, default=7, help="of the dialogues, the weights and the order")
    parser.add_argument("--dialogues", type=int, default=30_000, help="conversations to make; each is read once")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="where the model goes; replaced when it is complete")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--hidden", type=int, default=256, help="width")
    parser.add_argument("--layers", type=int, default=4, help="depth")
    parser.add_argument("--heads", type=int, default=4, help="attention heads in a layer")
    parser.add_argument("--vocabulary", type=int, default=1536, help="tokens")
    parser.add_argument("--batch", type=int, default=3072, help="tokens in a step")
    parser.add_argument("--rate", type=float, default=0.02, help="the highest learning rate of the inner matrices")
    parser.add_argument("--quiet", action="store_true", help="lines instead of a progress bar")
    return parser.parse_args()


def main() -> None:
    train(arguments())


if __name__ == "__main__":
    main()
