"""
`cauce model export`: a model of transformers as a folder that the engine on OpenVINO opens.

Loads as the other engine does (safetensors only, none of the model's own code, what is on this machine before the hub),
makes the graph (graph.py), and compares what comes out with the model before anybody may use it.  A folder is there
whole or not at all.
"""

from __future__ import annotations

import errno
import random
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy
import torch
import transformers

from processors.inference import echo, graph, weights
from processors.inference.model import causal, from_pretrained
from processors.inference.quietly import openvino, openvino_genai
from processors.inference.tokenizer import Tokenizer
from streams.errors import ConfigurationError
from streams.settings import Settings

KINDS = {"int8": 1, "float16": 2, "float32": 4}
"""What weights are stored as, and the bytes of one."""

Say = Callable[[str], None]

_BESIDES = 64 << 20
"""Bytes: the graph, the tokenizer."""

_TEXT = "¿Qué tal?  Mi niña (4 años) tiene 38,5 °C…\n\t¿Puedo ir el martes, 13:30? 🙏 </s> <|im_end|>"

_NEAR = {"int8": 0.25, "float16": 0.05, "float32": 0.02}
"""How far below the model's own choice a token may lie, of the distance between that and the average token."""


def export(settings: Settings, name: str, to: Path | None, kind: str, say: Say) -> Path:
    """
    Prepare a model; where it lies afterwards.

    Args:
        name: as in MODEL.
        to: None is a folder of its own under DATA_DIR.
        kind: one of KINDS.

    Raises:
        ConfigurationError: there is no such model, the engine cannot run it, or there is no room for it.
    """
    if kind not in KINDS:
        raise ConfigurationError(f"--weights {kind!r} is none of {', '.join(KINDS)}")
    asked = msgspec.structs.replace(settings, model=name)
    place = _place(asked)
    folder = to or settings.data_dir / "models" / f"{Path(place.name).name if name != 'demo' else name}-{kind}"
    if folder.exists():
        raise ConfigurationError(f"{folder} is there already: delete it, or name another folder with --to")
    began = time.monotonic()
    say(f"[1/4] loading {name}")
    model, tokenizer = _loaded(asked, place)
    part = folder.with_name(f"{folder.name}.part")
    try:
        _make_room(part, model, kind)
        _write(model, tokenizer, part, kind, name, say)
        say("[4/4] comparing it with the model")
        compare(model, part, kind, name)
        compare_words(tokenizer, part, name)
        part.rename(folder)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror or error}{_more(error)}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    size = sum(file.stat().st_size for file in folder.iterdir())
    say(f"{folder}: {size / 1e6:,.0f} MB, in {time.monotonic() - began:.0f} s.  To use it: MODEL={folder}")
    return folder


def _place(asked: Settings) -> weights.Place:
    if echo.is_echo(asked.model):
        raise ConfigurationError(f"{asked.model!r} has no weights to export; name a model")
    if weights.is_exported(asked.model):
        raise ConfigurationError(f"{asked.model!r} is exported already: MODEL={asked.model} runs it")
    try:
        return weights.find(asked)
    except ConfigurationError as error:
        raise _of_the_argument(error) from error


def _loaded(asked: Settings, place: weights.Place) -> tuple[Any, Any]:
    try:
        tokenizer = from_pretrained(transformers.AutoTokenizer, place)
        model = causal(place, dtype=torch.float32).eval()
    except Exception as error:  # whatever a foreign folder makes its reader raise, it is the name that is wrong
        raise _of_the_argument(weights.unusable(asked, place, error)) from error
    if not getattr(tokenizer, "is_fast", False):
        raise ConfigurationError(f"{asked.model!r}: its tokenizer has no tokenizer.json; choose another model")
    return model, tokenizer


def _of_the_argument(error: ConfigurationError) -> ConfigurationError:
    """It was not MODEL that named the model."""
    return ConfigurationError(str(error).removeprefix("environment: MODEL = "))


def _make_room(part: Path, model: Any, kind: str) -> None:
    """An empty folder, on a disk with enough room."""
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    wanted = sum(parameter.numel() for parameter in model.parameters()) * KINDS[kind] + _BESIDES
    if (free := shutil.disk_usage(part).free) < wanted:
        raise OSError(errno.ENOSPC, f"it takes {wanted / 1e6:,.0f} MB, and {free / 1e6:,.0f} MB are free")


def _more(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "; make room, name another place with --to, or take --weights int8"
    return "; name another place with --to"


def _write(model: Any, tokenizer: Any, part: Path, kind: str, name: str, say: Say) -> None:
    say("[2/4] making the graph")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a trace would lose: the comparison sees whether it did
        try:
            made = graph.converted(model)
            if kind == "int8":
                graph.compress(made)
        except Exception as error:  # an architecture fails in any way a program can
            raise _no_decoder(name, model, error) from error
    say(f"[3/4] writing {kind} weights")
    openvino.save_model(made, part / weights.EXPORTED, compress_to_fp16=kind == "float16")
    tokenizer.save_pretrained(part)
    model.config.save_pretrained(part)
    model.generation_config.save_pretrained(part)


def _no_decoder(name: str, model: Any, error: Exception) -> ConfigurationError:
    # OpenVINO says first where in its sources it failed, and last why.
    why = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
    return ConfigurationError(f"{name!r}: {type(model).__name__} cannot be exported ({why}); {weights.CHOOSE}")


@torch.inference_mode()
def compare(model: Any, folder: Path, kind: str, name: str) -> None:
    """
    Let the pipeline say something, and ask the model what it thinks of each token.

    Raises:
        ConfigurationError: the pipeline cannot run it, or says what the model would not.
    """
    vocabulary = int(model.get_input_embeddings().num_embeddings)
    draw = random.Random(5)  # noqa: S311 - no secret
    prompt = [draw.randrange(vocabulary) for _ in range(40)]
    try:
        said = _said(folder, prompt)
        logits = model(input_ids=torch.tensor([prompt + said]), use_cache=False).logits[0, len(prompt) - 1 : -1]
        own, chosen = logits.amax(dim=-1), logits[range(len(said)), said]
        below = float(((own - chosen) / (own - logits.mean(dim=-1))).max())
        if not below <= _NEAR[kind]:
            raise ValueError(f"its tokens lie {below:.2f} below the model's own")
    except (RuntimeError, ValueError, IndexError) as error:
        raise _no_decoder(name, model, error) from error


def compare_words(tokenizer: Any, folder: Path, name: str) -> None:
    """Raises ConfigurationError: without transformers a text has other tokens."""
    try:
        own = Tokenizer(folder)
        for marks in (True, False):
            if own.encode(_TEXT, add_special_tokens=marks) != tokenizer.encode(_TEXT, add_special_tokens=marks):
                raise ValueError("a text has other tokens")
    except Exception as error:  # a foreign tokenizer fails in any way a library can
        raise ConfigurationError(
            f"{name!r}: its tokenizer cannot be read without transformers ({weights.first_line(error)}); "
            "choose another model"
        ) from error


def _said(folder: Path, prompt: list[int]) -> list[int]:
    """A few tokens, greedily, in full precision."""
    room = openvino_genai.SchedulerConfig()
    room.num_kv_blocks = 8
    how = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    pipeline = openvino_genai.ContinuousBatchingPipeline(folder, room, "CPU", how)
    wish = openvino_genai.GenerationConfig()
    wish.max_new_tokens, wish.do_sample, wish.ignore_eos = 16, False, True
    wish.set_eos_token_id(0)  # one has to be named, although none counts
    handle = pipeline.add_request(0, openvino.Tensor(numpy.array([prompt], dtype=numpy.int64)), wish)
    while pipeline.has_non_finished_requests():
        pipeline.step()
    return [token for output in handle.read_all() for token in output.generated_ids]
