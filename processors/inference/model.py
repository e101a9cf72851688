"""
The model itself: loading, and the arithmetic of a step.  With rows.py the only file that knows torch.

Each running sequence has a row of a key/value memory of our own (rows.py), behind a stock transformers model.  Which
sequences run is scheduler.py's to say; when, engine.py's.  What a row held is kept when its sequence leaves (kept.py):
the next turn of a conversation, or the next prompt with the same system lines, is read from where they part.
"""

from __future__ import annotations

import inspect
import random
from collections.abc import Sequence as Series
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.cache_utils import Cache

from processors.inference import machine, weights
from processors.inference.generation import Drawing
from processors.inference.kept import BLOCK, Kept
from processors.inference.rows import Layer, Saved, Window
from processors.inference.scheduler import Move, Sequence
from processors.inference.words import Words
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Inference

_LARGE = 100_000_000
"""Parameters from which a CPU computes in bfloat16 where it can."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Model(Words):
    """See `engine.Runner`; how it reads and writes, `Words` knows."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        threads: int = 0,
        template: str | None = None,
        keep_bytes: int = 0,
    ) -> None:
        config = model.config.get_text_config()
        super().__init__(
            tokenizer,
            template=template,
            config=config.to_dict(),
            generation=model.generation_config.to_dict(),
            vocabulary=int(model.get_input_embeddings().num_embeddings),
        )
        self._model = model.eval()
        self._name = name
        takes = inspect.signature(model.forward).parameters
        self._keeps_last = "logits_to_keep" in takes
        # Its name since transformers 5.24; the older one warns there, and is the only one before.
        self._cache_name = "cache" if "cache" in takes else "past_key_values"
        self._window = Window()
        self._layers = [Layer(self._window) for _ in range(config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        self._kept = Kept[Saved](keep_bytes)
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        self._threads = threads or machine.threads(self._parameters)
        _flatten_head(model)

    def start(self) -> None:
        torch.set_num_threads(self._threads)

    @torch.inference_mode()
    def recall(self, row: int, sequence: Sequence) -> int:
        if (best := self._kept.best(sequence.prompt)) is None:
            return 0
        saved, tokens = best
        tokens = min(tokens, len(sequence.prompt) - 1)  # the last one is read, for what comes after it
        for layer, states in zip(self._layers, saved, strict=True):
            layer.restore(row, tokens, states)
        return tokens

    @torch.inference_mode()
    def prefill(self, row: int, sequence: Sequence, end: int) -> int | None:
        window, begin = self._window, sequence.read
        window.first, window.rows, window.positions, window.begin, window.width = row, 1, None, begin, end
        device = self._model.device
        ids = torch.tensor([sequence.prompt[begin:end]], device=device)
        positions = torch.arange(begin, end, device=device)
        mask = None
        if begin:  # (1, 1, tokens, width): each sees itself and what is before it
            beyond = torch.arange(end, device=device)[None] > positions[:, None]
            mask = self._mask(beyond)[None, None]
        if end < len(sequence.prompt):
            self._forward(self._model.base_model, ids, positions[None], mask)
            return None
        return self._choose(self._logits(ids, positions[None], mask), [sequence])[0]

    @torch.inference_mode()
    def keep(self, row: int, sequence: Sequence) -> None:
        whole = sequence.read == len(sequence.prompt)
        # The newest token has been drawn, and not been read yet.
        tokens = sequence.prompt + sequence.generated[:-1] if whole else sequence.prompt[: sequence.read]
        if len(tokens) < BLOCK or not self._kept.budget or self._kept.has(tokens):
            return
        saved = [layer.save(row, len(tokens)) for layer in self._layers]
        self._kept.keep(tokens, saved, sum(states.nbytes for pair in saved for states in pair))

    @torch.inference_mode()
    def step(self, first_row: int, sequences: Series[Sequence]) -> list[int]:
        return self._choose(self._step(first_row, sequences), sequences)

    def _step(self, first_row: int, sequences: Series[Sequence]) -> Tensor:
        """Logits for the newest token of each sequence, (rows, vocabulary)."""
        window, device = self._window, self._model.device
        at = [sequence.length - 1 for sequence in sequences]
        window.first, window.rows, window.width = first_row, len(sequences), max(at) + 1
        window.positions = torch.tensor(at, device=device)
        ids = torch.tensor([[sequence.generated[-1]] for sequence in sequences], device=device)
        # (rows, 1, 1, width): what lies beyond a row's own end is another sequence's, or nothing.
        beyond = torch.arange(window.width, device=device)[None] > window.positions[:, None]
        return self._logits(ids, window.positions[:, None], self._mask(beyond)[:, None, None])

    def _mask(self, beyond: Tensor) -> Tensor:
        """What is added to the scores: nothing, or so little that it counts for nothing."""
        mask = torch.zeros(beyond.shape, dtype=self._model.dtype, device=beyond.device)
        return mask.masked_fill_(beyond, torch.finfo(mask.dtype).min)

    def _logits(self, ids: Tensor, positions: Tensor, mask: Tensor | None) -> Tensor:
        """Of each row's last token, (rows, vocabulary), float32."""
        more = {"logits_to_keep": 1} if self._keeps_last else {}
        logits: Tensor = self._forward(self._model, ids, positions, mask, **more).logits[:, -1].float()
        return logits

    def _forward(self, model: Any, ids: Tensor, positions: Tensor, mask: Tensor | None, **more: Any) -> Any:
        more[self._cache_name] = self._cache
        return model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=True, **more)

    def _choose(self, logits: Tensor, sequences: Series[Sequence]) -> list[int]:
        if not torch.isfinite(logits.amax(dim=-1)).all():
            raise ArithmeticError("the model's logits are not finite")
        if all(_greedy(sequence.drawing) for sequence in sequences):
            best: list[int] = logits.argmax(dim=-1).tolist()
            return best
        return [choose(row, sequence) for row, sequence in zip(logits, sequences, strict=True)]

    @torch.inference_mode()
    def move(self, move: Move) -> None:
        for layer in self._layers:
            layer.move(move)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "engine": "slots",
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "device": str(self._model.device),
            "parameters": self._parameters,
            "context_length": self.context_length,
            "chat_template": self.chat,
        }

    @torch.inference_mode()
    def verify(self) -> None:
        """
        Compare this file's arithmetic with the model's own on a few tokens, in two rows.

        Raises:
            ConfigurationError: they differ; the architecture keeps more than keys and values, or ignores positions.
        """
        chosen = [number % self._vocabulary for number in (11, 7, 23, 5, 13, 3)]
        rows = [Sequence(number=0, prompt=chosen[:count], max_tokens=8, stops=frozenset()) for count in (5, 2)]
        try:
            for row, sequence in enumerate(rows):
                for end in sorted({3, len(sequence.prompt)} if row == 0 else {len(sequence.prompt)}):
                    self.prefill(row, sequence, end)
                    sequence.read = end
                sequence.generated = [chosen[-1]]
            ours = self._step(0, rows)
            for sequence, logits in zip(rows, ours, strict=True):
                ids = torch.tensor([[*sequence.prompt, chosen[-1]]], device=self._model.device)
                stock = self._model(input_ids=ids, use_cache=False).logits[0, -1].float()
                if torch.cosine_similarity(logits, stock, dim=0) < 0.99:
                    raise ValueError("its logits differ")
        except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
            kind = type(self._model).__name__
            raise ConfigurationError(
                f"environment: MODEL = {self._name!r}: {kind} does not work with the slot engine "
                f"({weights.first_line(error)}); choose a decoder with plain attention, such as Qwen, Llama or GPT-2"
            ) from error


def _greedy(how: Drawing) -> bool:
    return how.temperature == 0 and how.repetition_penalty == 1


def choose(logits: Tensor, sequence: Sequence) -> int:
    """
    The next token of one sequence: penalty, temperature, top-k, top-p, in the order in which `generate` applies them.

    Drawn from the seed and the place alone, so that neither batchmates nor a repeat of the step change it.

    Args:
        logits: float32 (vocabulary,)
    """
    how = sequence.drawing
    if how.repetition_penalty != 1:
        seen = torch.tensor(sorted({*sequence.prompt, *sequence.generated}), device=logits.device)
        score = logits[seen]
        logits = logits.clone()
        logits[seen] = torch.where(score < 0, score * how.repetition_penalty, score / how.repetition_penalty)
    if how.temperature == 0:
        return int(logits.argmax())
    count = min(how.top_k or logits.numel(), logits.numel())
    scores, tokens = (logits / how.temperature).topk(count)
    chances = scores.softmax(dim=-1).cpu()
    if how.top_p < 1:
        # Those before whom less than top_p has been given out; the likeliest always stays.
        before = chances.cumsum(dim=-1) - chances
        chances = chances[before < how.top_p] if how.top_p > 0 else chances[:1]
    sums = chances.double().cumsum(dim=-1)
    draw = random.Random(f"{how.seed}:{len(sequence.generated)}").random() * float(sums[-1])  # noqa: S311 - no secret
    return int(tokens[min(int(torch.searchsorted(sums, draw, right=True)), len(sums) - 1)])


def load(settings: Settings, inference: Inference) -> Model:
    """
    The model that MODEL names, ready to run.

    What is on this machine is taken before the network is asked.  Weights are safetensors only, and no code that comes
    with them is run.

    Raises:
        ConfigurationError: it is not there, not readable, or not a model that the engine can run.
    """
    place = weights.find(settings)
    device = _device(inference.device)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call] # a library without annotations
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        tokenizer = from_pretrained(transformers.AutoTokenizer, place)
        model = from_pretrained(transformers.AutoModelForCausalLM, place, use_safetensors=True, dtype="auto")
        model = model.to(device=device, dtype=_dtype(inference.dtype, model, device))
    except Exception as error:  # whatever a foreign folder makes its reader raise, it is the name that is wrong
        raise weights.unusable(settings, place, error) from error
    loaded = Model(
        model,
        tokenizer,
        name=settings.model,
        threads=inference.threads,
        template=inference.chat_template,
        keep_bytes=_quarter_of_free(device) if inference.keep_mb is None else inference.keep_mb << 20,
    )
    loaded.start()
    loaded.verify()
    return loaded


def from_pretrained(kind: Any, place: weights.Place, **how: Any) -> Any:
    """What a class of transformers makes of a place; the hub is asked only for what is not on this machine."""
    how |= {"token": place.token, "cache_dir": place.cache, "trust_remote_code": False}
    try:
        return kind.from_pretrained(place.name, local_files_only=True, **how)
    except OSError:
        if place.local_only:
            raise
    weights.ask_hub()
    return kind.from_pretrained(place.name, **how)


def _device(name: str) -> torch.device:
    try:
        return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)
    except RuntimeError as error:
        raise ConfigurationError(
            f"streams.toml: inference.device = {name!r} is no device; write auto, cpu, cuda or cuda:0"
        ) from error


def _dtype(name: str, model: Any, device: torch.device) -> torch.dtype:
    """`auto`: the checkpoint's on a GPU; on a CPU float32, or bfloat16 for a large model where the CPU has it."""
    if name in _DTYPES:
        return _DTYPES[name]
    if name != "auto":
        raise ConfigurationError(f"streams.toml: inference.dtype = {name!r}; write auto, {', '.join(_DTYPES)}")
    stored: torch.dtype = model.dtype
    if device.type != "cpu":
        return stored
    native = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if native and model.num_parameters() >= _LARGE else torch.float32


def _quarter_of_free(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0]) // 4
    return machine.free_memory() // 4


def _flatten_head(model: Any) -> None:
    """
    Give the output layer two dimensions instead of three.

    The slice (rows, 1, hidden) of the last tokens cannot be folded, so torch multiplies it as a batch and copies the
    whole vocabulary matrix at every step.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        return
    forward = head.forward

    def flat(hidden: Tensor) -> Tensor:
        return forward(hidden.reshape(-1, hidden.shape[-1])).reshape(*hidden.shape[:-1], -1)

    head.forward = flat  # type: ignore[method-assign, assignment] # its parameter has another name
