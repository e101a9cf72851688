"""The model's arithmetic against transformers' own: the same tokens, whoever shares the batch."""

from __future__ import annotations

import asyncio
import os
import random
import socket
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

from processors.inference.engine import Threaded
from processors.inference.generation import Drawing, Generated, Line, Refused, Request, Sampling, open_engine
from processors.inference.scheduler import Piece, Scheduler, Sequence
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Inference

pytestmark = pytest.mark.slow

KINDS = ["gpt2", "llama", "qwen2", "mistral", "gemma2"]


def runner(tiny: Any, kind: str, **how: Any) -> Any:
    from processors.inference.model import Model

    made = Model(tiny.causal(kind), tiny.byte_level(), name=kind, **how)
    if kind in KINDS:
        made.verify()  # as when it is loaded, which also finds out how its attention is computed
    return made


def prompts(count: int, longest: int = 30) -> list[list[int]]:
    chance = random.Random(3)  # noqa: S311 - any numbers, but the same ones
    return [[chance.randrange(320) for _ in range(chance.randrange(1, longest))] for _ in range(count)]


def generated_by_transformers(model: Any, prompt: list[int], tokens: int, **how: Any) -> list[int]:
    import torch

    ids = torch.tensor([prompt])
    out = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0, **how
    )
    return [int(token) for token in out[0, len(prompt) :]]


def generated_by_slots(runner: Any, sequences: list[Sequence], slots: int, length: int = 256) -> None:
    """Everything joins and leaves as in the engine, without its thread."""
    scheduler = Scheduler(slots)
    for sequence in sequences:
        scheduler.add(sequence)
    while scheduler.busy:
        piece = None
        if (new := scheduler.admit()) is not None:
            row = len(scheduler.running)
            if not new.read:
                new.read = new.recalled = runner.recall(row, new)
            piece = Piece(row, new, min(len(new.prompt), new.read + length))
        running = list(scheduler.running)
        tokens, first = runner.step(0, running, piece)
        for each, token in zip(running, tokens, strict=True):
            accepted(runner, scheduler, each, token)
        if piece:
            piece.sequence.read = piece.end
        if piece and first is not None:
            scheduler.begin()
            accepted(runner, scheduler, piece.sequence, first)


def accepted(runner: Any, scheduler: Scheduler, sequence: Sequence, token: int) -> None:
    if scheduler.accept(sequence, token):
        row = scheduler.row(sequence)
        assert row is not None
        runner.keep(row, sequence)
        for move in scheduler.leave(sequence):
            runner.move(move)


def sequence(number: int, prompt: list[int], tokens: int, **drawing: Any) -> Sequence:
    return Sequence(
        number=number, prompt=prompt, max_tokens=tokens, stops=frozenset(), drawing=Drawing(**drawing), generated=[]
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_output_is_that_of_generate_token_for_token(tiny: Any, kind: str, penalty: float) -> None:
    # Given more requests than slots, of different lengths, so that they join, leave and change rows in between
    model = runner(tiny, kind)
    wanted = [
        sequence(number, prompt, 3 + number * 5 % 17, repetition_penalty=penalty)
        for number, prompt in enumerate(prompts(9))
    ]
    generated_by_slots(model, wanted, slots=4)

    stock = tiny.causal(kind)
    for each in wanted:
        assert each.generated == generated_by_transformers(
            stock, each.prompt, each.max_tokens, repetition_penalty=penalty
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_read_in_pieces_beside_others_gives_the_same_tokens(tiny: Any, kind: str) -> None:
    model, stock = runner(tiny, kind), tiny.causal(kind)
    wanted = [sequence(number, prompt, 8) for number, prompt in enumerate(prompts(7, 45))]
    generated_by_slots(model, wanted, slots=3, length=7)
    for each in wanted:
        assert each.generated == generated_by_transformers(stock, each.prompt, 8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_turn_of_a_conversation_is_read_from_where_it_goes_on(tiny: Any, kind: str) -> None:
    model, stock = runner(tiny, kind, keep_bytes=1 << 20), tiny.causal(kind)
    talks = prompts(3, 20)
    for turn in range(3):
        talks = [[*talk, *prompts(1, 9 + turn)[0]] for talk in talks]
        asked = [sequence(number, talk, 6) for number, talk in enumerate(talks)]
        generated_by_slots(model, asked, slots=2)
        for each in asked:
            assert each.generated == generated_by_transformers(stock, each.prompt, 6)
        talks = [[*talk, *each.generated] for talk, each in zip(talks, asked, strict=True)]
        if turn == 2:
            # All that was there when the turn before was over, but for its newest token
            assert all(each.recalled >= len(each.prompt) - 9 - turn - 1 for each in asked)
    # And a prompt that only begins as another did is read from where they part
    begins = sequence(9, [*talks[0][:20], 5, 9, 5], 6)
    generated_by_slots(model, [begins], slots=1)
    assert begins.recalled >= 20
    assert begins.generated == generated_by_transformers(stock, begins.prompt, 6)


def test_what_is_kept_has_its_bound_in_bytes(tiny: Any) -> None:
    model = runner(tiny, "llama", keep_bytes=20_000)
    for number in range(12):
        generated_by_slots(model, [sequence(number, [number] * 40, 4)], slots=1)
        assert 0 < model._kept.size <= 20_000
    off = runner(tiny, "llama")
    again = [sequence(number, [7] * 40, 4) for number in range(2)]
    generated_by_slots(off, again, slots=1)
    assert [each.recalled for each in again] == [0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_to_be_forgotten_is_in_no_row_and_nobody_else_notices(tiny: Any, kind: str) -> None:
    model, stock = runner(tiny, kind, keep_bytes=1 << 20), tiny.causal(kind)
    generated_by_slots(model, [sequence(number, [7 + number] * 40, 4) for number in range(3)], slots=3)
    # Given one who is being answered, in the first row
    going = sequence(9, prompts(1, 30)[0], 6)
    going.generated.append(model.step(0, [], Piece(0, going, len(going.prompt)))[1])
    going.read = len(going.prompt)
    model.forget(1)
    assert model._kept.size == 0
    assert all(not layer.keys[1:].any() and not layer.values[1:].any() for layer in model._layers)
    while len(going.generated) < 6:
        going.generated += model.step(0, [going])[0]
    assert going.generated == generated_by_transformers(stock, going.prompt, 6)
    again = sequence(1, [7] * 40, 4)
    generated_by_slots(model, [again], slots=1)
    assert again.recalled == 0


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_memory_grows_beyond_what_it_began_with(tiny: Any, kind: str) -> None:
    model = runner(tiny, kind)
    long, short = sequence(0, prompts(1, 60)[0], 180), sequence(1, [5, 9], 150)
    generated_by_slots(model, [long, short], slots=2)

    stock = tiny.causal(kind)
    assert long.generated == generated_by_transformers(stock, long.prompt, 180)
    assert short.generated == generated_by_transformers(stock, short.prompt, 150)


def test_a_sampled_reply_depends_on_its_seed_and_not_on_its_batchmates(tiny: Any) -> None:
    how = {"temperature": 0.9, "top_k": 40, "top_p": 0.9, "repetition_penalty": 1.1}
    model = runner(tiny, "llama")
    alone = sequence(0, [3, 4, 5], 20, seed=11, **how)
    generated_by_slots(model, [alone], slots=4)

    crowd = [sequence(number, prompt, 20, seed=number, **how) for number, prompt in enumerate(prompts(5))]
    again, other = sequence(7, [3, 4, 5], 20, seed=11, **how), sequence(8, [3, 4, 5], 20, seed=12, **how)
    generated_by_slots(model, [*crowd, again, other], slots=4)
    assert again.generated == alone.generated
    assert other.generated != alone.generated


def test_a_model_is_spoken_with_as_its_author_says_unless_something_else_is_wished(tiny: Any) -> None:
    from transformers import GenerationConfig

    from processors.inference.model import Model

    def drawing(**says: Any) -> Drawing:
        model = tiny.causal("llama")
        model.generation_config = GenerationConfig(**says)
        return Model(model, tiny.byte_level(), name="tiny").drawing

    assert drawing(do_sample=False) == Drawing()
    assert drawing(do_sample=True, temperature=0.2).temperature == 0.2
    assert drawing().temperature == 0.7
    assert Sampling(top_k=3, seed=5).over(drawing(do_sample=False)) == Drawing(top_k=3, seed=5)
    assert Sampling(temperature=0).over(drawing()).temperature == 0


@pytest.mark.parametrize("bad", [[], [400], [-1], [1] * 256, [1] * 9000])
def test_a_bad_prompt_is_refused_before_it_is_admitted(tiny: Any, bad: list[int]) -> None:
    with pytest.raises(Refused):
        runner(tiny, "llama").check(bad)


def test_memory_that_was_poisoned_does_not_reach_the_next_in_its_row(tiny: Any) -> None:
    import torch

    model = runner(tiny, "llama")
    sick = sequence(0, prompts(1, 60)[0], 40)
    model.step(0, [], Piece(0, sick, len(sick.prompt)))
    with torch.inference_mode():
        for layer in model._layers:
            layer.keys[0] = torch.nan
            layer.values[0] = torch.nan
    sick.generated = [3]
    with pytest.raises(ArithmeticError):
        model.step(0, [sick])

    healthy = [sequence(1, [5, 9, 2], 12), sequence(2, prompts(1, 50)[0], 12)]
    generated_by_slots(model, healthy, slots=2)
    assert healthy[0].generated == generated_by_transformers(tiny.causal("llama"), [5, 9, 2], 12)


def test_the_flat_head_leaves_every_logit_where_it_was(tiny: Any) -> None:
    import torch

    stock = tiny.causal("qwen2")
    ids = torch.tensor([[4, 8, 15], [16, 23, 42]])
    with torch.inference_mode():
        before = stock(input_ids=ids).logits
        runner(tiny, "qwen2")
        from processors.inference.linear import straighten

        straighten(stock)
        assert torch.equal(stock(input_ids=ids).logits, before)
        assert torch.allclose(stock(input_ids=ids, logits_to_keep=1).logits, before[:, -1:], atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_weights_of_eight_bits_leave_the_scores_nearly_where_they_were(tiny: Any, kind: str) -> None:
    import torch

    if not any(torch.cpu.get_capabilities().get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8")):
        pytest.skip("this processor has no VNNI")
    # Given a model with and without, and its head among what has eight bits
    whole, small = runner(tiny, kind), runner(tiny, kind, int8=True)
    assert small.describe()["dtype"] == "int8"
    assert small.describe()["parameters"] == whole.describe()["parameters"]
    assert type(small._model.get_output_embeddings()).__name__ == "Int8"
    asked = [sequence(number, prompt, 8) for number, prompt in enumerate(prompts(6))]
    for each in asked:
        # Then the scores point the same way, and are not the same
        with torch.inference_mode():
            logits = [model._pass(0, [], Piece(0, each, len(each.prompt)))[0] for model in (whole, small)]
        assert 0.99 < torch.cosine_similarity(*logits, dim=0) < 0.999999
    # And rows are served together as with any other weights: what a token comes to does not depend on its batchmates
    again = [sequence(number, prompt, 8) for number, prompt in enumerate(prompts(6))]
    generated_by_slots(small, asked, slots=3)
    for each in again:
        generated_by_slots(small, [each], slots=1)
    assert [each.generated for each in again] == [each.generated for each in asked]


def test_eight_bits_are_refused_where_the_processor_has_no_instruction_for_them(tiny: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr("torch.cpu.get_capabilities", dict)
    with pytest.raises(ConfigurationError, match=r"inference\.dtype = 'int8' needs a processor with VNNI"):
        runner(tiny, "llama", int8=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_works_is_verified(tiny: Any, kind: str) -> None:
    runner(tiny, kind).verify()


@pytest.mark.parametrize("kind", ["mamba", "bloom"])
def test_a_model_that_the_slots_cannot_run_is_named_before_it_answers_anybody(tiny: Any, kind: str) -> None:
    with pytest.raises(ConfigurationError, match="does not work with the slot engine"):
        runner(tiny, kind).verify()


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_that_is_asked_of_a_model_is_on_its_way_out(tiny: Any, kind: str) -> None:
    with warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        runner(tiny, kind).verify()
    assert [str(each.message) for each in given] == []


def test_a_window_of_attention_bounds_the_context(tiny: Any) -> None:
    assert runner(tiny, "mistral").context_length == 64


async def test_many_people_are_answered_at_once_by_a_real_model(tiny: Any, tmp_path: Path) -> None:
    # Given a folder of safetensors, loaded as MODEL names it
    folder = tiny.saved(tmp_path, "qwen2", tiny.CHATML)
    engine = await asyncio.to_thread(open_engine, Settings(model=str(folder)), Inference(slots=4, threads=1))
    try:
        asked = [
            Request(lines=[Line("system", "Eres un bot."), Line("user", f"hola {number}" * number)], max_tokens=12)
            for number in range(1, 9)
        ]
        together = await asyncio.gather(*map(engine.generate, asked))
        # Then each gets what it gets alone
        for request, generated in zip(asked, together, strict=True):
            alone = await engine.generate(request)
            assert (alone.text, alone.finish) == (generated.text, generated.finish)
        assert engine.describe()["slots"] == 4
        assert engine.ready()
    finally:
        await engine.close()
    assert not engine.ready()


async def test_a_prompt_that_is_far_too_long_loses_its_oldest_turns_and_is_answered(tiny: Any) -> None:
    engine = Threaded(runner(tiny, "llama"), slots=2)
    try:
        history = [Line("user" if number % 2 == 0 else "assistant", "necesito una cita " * 9) for number in range(40)]
        generated: Generated = await engine.generate(Request(lines=[*history, Line("user", "hola")], max_tokens=10))
        assert generated.prompt_tokens <= 246
        assert generated.tokens == 10
    finally:
        await engine.close()


def test_what_is_no_model_is_said_in_one_line(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def why(model: str) -> str:
        with pytest.raises(ConfigurationError) as caught:
            open_engine(Settings(model=model, hf_home=str(tmp_path / "cache")), Inference())
        assert "\n" not in str(caught.value)
        return str(caught.value)

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "not found in the cache" in why("nobody/has-this-model")
    assert "no such folder" in why("./not/here")
    assert "no such folder" in why("a b c")
    (tmp_path / "empty").mkdir()
    assert "without a config.json" in why(str(tmp_path / "empty"))

    folder = tiny.saved(tmp_path / "whole")
    weights = folder / "model.safetensors"
    kept = weights.read_bytes()
    weights.write_bytes(kept[: len(kept) // 2])
    assert "cannot be loaded" in why(str(folder))
    weights.unlink()
    (folder / "pytorch_model.bin").write_bytes(b"PK")
    assert "safetensors" in why(str(folder))
    weights.write_bytes(kept)
    (folder / "config.json").write_text('{"model_type": "unheard_of"}')
    assert "cannot be loaded" in why(str(folder))


def test_weights_that_are_nowhere_are_not_made_up(tiny: Any, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import BertConfig, BertModel

    # Given a model of which one tensor was not copied, and an encoder, which has no head to speak with
    torn = tiny.saved(tmp_path / "torn")
    held = load_file(torn / "model.safetensors")
    del held["model.layers.1.mlp.up_proj.weight"]
    save_file(held, torn / "model.safetensors", metadata={"format": "pt"})
    encoder = tiny.saved(tmp_path / "encoder")
    small = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=400)
    BertModel(small).save_pretrained(encoder)
    for folder, lacking in ((torn, "model.layers.1.mlp.up_proj.weight"), (encoder, "cls.predictions")):
        # Then neither is served
        with pytest.raises(ConfigurationError, match=rf"lacks \d+ of its weights \({lacking}"):
            open_engine(Settings(model=str(folder)), Inference())


def test_a_hub_that_cannot_be_reached_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:  # bound and not listening: it refuses
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("HTTPS_PROXY", raising=False)
        monkeypatch.delenv("https_proxy", raising=False)
        with pytest.raises(ConfigurationError, match="cannot be reached"):
            open_engine(Settings(model="nobody/has-this-model", hf_home=str(tmp_path)), Inference())


@pytest.mark.parametrize(
    ("inference", "why"),
    [(Inference(device="tpu"), "inference.device"), (Inference(dtype="int3"), "inference.dtype")],
)
def test_a_device_or_dtype_that_is_none_is_named(tiny: Any, tmp_path: Path, inference: Inference, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why):
        open_engine(Settings(model=str(tiny.saved(tmp_path))), inference)


def test_only_the_thread_that_answers_has_helpers(tiny: Any, tmp_path: Path) -> None:
    # In a process of its own: helpers of a thread, once there, stay
    story = """
import os, sys, torch
from processors.inference.model import load
from streams.settings import Settings
from streams.tables import Inference

def threads():
    return len(os.listdir("/proc/self/task"))

before = threads()
model = load(Settings(model=sys.argv[1]), Inference(device="cpu", threads=3))
loaded = threads() - before
model.start()
torch.rand(1024, 1024) @ torch.rand(1024, 1024)
print(loaded, threads() - before)
"""
    if not Path("/proc/self/task").is_dir():
        pytest.skip("this system does not show its threads")
    command = [sys.executable, "-c", story, str(tiny.saved(tmp_path))]
    alone = os.environ | {"TOKENIZERS_PARALLELISM": "false"}  # the tokenizer's helpers are no concern of torch's
    told = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
    assert told.stdout.split() == ["0", "2"]


def test_half_precision_on_disk_is_computed_in_float32_on_a_cpu(tiny: Any, tmp_path: Path) -> None:
    from processors.inference.model import load

    tiny.byte_level().save_pretrained(tmp_path)
    tiny.causal("llama").half().save_pretrained(tmp_path)
    assert load(Settings(model=str(tmp_path)), Inference(device="cpu")).describe()["dtype"] == "float32"
