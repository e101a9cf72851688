"""
The model itself: loading, and the arithmetic of a step.

Each running sequence has a row of a key/value memory of our own (rows.py), behind a stock transformers model.  Which
sequences run is scheduler.py's to say; when, engine.py's.  What a row held is kept when its sequence leaves (kept.py):
the next turn of a conversation, or the next prompt with the same system lines, is read from where they part.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence as Series
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers.cache_utils import Cache

from processors.inference import machine, weights
from processors.inference.attention import NAME, WINDOW, Packed, mask_of
from processors.inference.drawing import choose_all
from processors.inference.kept import BLOCK, Kept
from processors.inference.linear import straighten, to_int8
from processors.inference.rows import Layer, Saved, Span, Window, cache_argument
from processors.inference.scheduler import Move, Piece, Sequence
from processors.inference.words import Words
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Inference

_LARGE = 100_000_000
"""Parameters from which a CPU computes in bfloat16 where it can."""

INT8 = "int8"
"""Eight bits for the weights alone; everything else as `auto` has it."""

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
        int8: bool = False,
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
        self._keeps_some = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._cache_name = cache_argument(model)
        self._window = Window()
        self._layers = [Layer(self._window) for _ in range(config.num_hidden_layers)]
        self._cache = Cache(layers=list(self._layers))
        self._kept = Kept[Saved](keep_bytes)
        self._parameters = sum(parameter.numel() for parameter in model.parameters())
        self._threads = threads or machine.threads(self._parameters)
        if int8:
            to_int8(model)
        straighten(model)
        self._weights = "int8" if int8 else str(model.dtype).removeprefix("torch.")
        self._stock = model.config._attn_implementation
        self._packs = self._attend_with(NAME)

    def _attend_with(self, name: str) -> bool:
        """Whether the model lets its attention be chosen."""
        self._model.set_attn_implementation(name)
        return self._model.config._attn_implementation == name  # type: ignore[no-any-return]

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
    def keep(self, row: int, sequence: Sequence) -> None:
        if sequence.read < len(sequence.prompt):
            return  # nobody has looked yet whether what came of it are numbers
        tokens = sequence.prompt + sequence.generated[:-1]  # the newest has been drawn, and not been read yet
        if len(tokens) < BLOCK or not self._kept.budget or self._kept.has(tokens):
            return
        saved = [layer.save(row, len(tokens)) for layer in self._layers]
        self._kept.keep(tokens, saved, sum(states.nbytes for pair in saved for states in pair))

    @torch.inference_mode()
    def forget(self, rows: int) -> None:
        self._kept.forget()
        for layer in self._layers:
            layer.forget(rows)

    @torch.inference_mode()
    def step(
        self, first_row: int, sequences: Series[Sequence], piece: Piece | None = None
    ) -> tuple[list[int], int | None]:
        logits = self._pass(first_row, sequences, piece)
        chosen = [*sequences, piece.sequence] if piece and piece.whole else list(sequences)
        tokens = choose_all(logits, chosen) if logits is not None else []
        return tokens[: len(sequences)], tokens[-1] if len(chosen) > len(sequences) else None

    def _pass(self, first_row: int, sequences: Series[Sequence], piece: Piece | None) -> Tensor | None:
        """
        One forward pass over the newest token of each sequence and a piece of a prompt.

        Returns:
            logits of each sequence, and of the piece where it ends its prompt, (rows, vocabulary); None without any.
        """
        ids = [sequence.generated[-1] for sequence in sequences]
        ends = [sequence.length for sequence in sequences]
        spans = [Span(row, end - 1, end) for row, end in enumerate(ends, first_row)]
        if piece:
            ids += piece.sequence.prompt[piece.sequence.read : piece.end]
            spans.append(Span(piece.row, piece.sequence.read, piece.end))
        last = [*range(len(sequences)), len(ids) - 1] if piece and piece.whole else list(range(len(sequences)))
        window, device, dtype = self._window, self._model.device, self._model.dtype
        window.open(spans, device)
        window.packed = Packed.of(spans, dtype, device) if self._packs else None
        mask = None if self._packs else mask_of(spans, dtype, device)
        told = WINDOW.set(window)
        try:
            return self._forward(torch.tensor([ids], device=device), window.positions[None], mask, last)
        finally:
            WINDOW.reset(told)

    def _forward(self, ids: Tensor, positions: Tensor, mask: Tensor | None, last: list[int]) -> Tensor | None:
        """Logits of the tokens at `last`, float32 (len(last), vocabulary)."""
        how: dict[str, Any] = {"input_ids": ids, "position_ids": positions, "attention_mask": mask, "use_cache": True}
        how[self._cache_name] = self._cache
        if not last:
            self._model.base_model(**how)
            return None
        kept = torch.tensor(last, device=ids.device)
        if self._keeps_some:
            logits: Tensor = self._model(**how, logits_to_keep=kept).logits[0]
        else:
            logits = self._model(**how).logits[0, kept]
        return logits.float()

    @torch.inference_mode()
    def move(self, move: Move) -> None:
        for layer in self._layers:
            layer.move(move)

    def describe(self) -> dict[str, Any]:
        return {
            "name": self._name,
            "engine": "slots",
            "dtype": self._weights,
            "device": str(self._model.device),
            "parameters": self._parameters,
            "context_length": self.context_length,
            "chat_template": self.chat,
            "tools": self.tools,
        }

    @torch.inference_mode()
    def verify(self) -> None:
        """
        Compare this file's arithmetic with the model's own on a few tokens, in two rows.

        Raises:
            ConfigurationError: they differ; the architecture keeps more than keys and values, or ignores positions.
        """
        for again in (False, True):
            try:
                self._compare()
                return
            except (ValueError, TypeError, RuntimeError, AttributeError, IndexError) as error:
                if self._packs and not again:  # its attention is one of its own
                    self._packs = not self._attend_with(self._stock)
                    continue
                kind = type(self._model).__name__
                raise ConfigurationError(
                    f"environment: MODEL = {self._name!r}: {kind} does not work with the slot engine "
                    f"({weights.first_line(error)}); {weights.CHOOSE}"
                ) from error

    def _compare(self) -> None:
        chosen = [number % self._vocabulary for number in (11, 7, 23, 5, 13, 3)]
        rows = [Sequence(number=0, prompt=chosen[:count], max_tokens=8, stops=frozenset()) for count in (5, 2)]
        running: list[Sequence] = []
        for row, ends in enumerate(((3, 5), (2,))):
            for end in ends:
                self._pass(0, running, Piece(row, rows[row], end))
                rows[row].read = end
            rows[row].generated = [chosen[-1]]
            running.append(rows[row])
        ours = self._pass(0, rows, None)
        assert ours is not None  # noqa: S101 - there are two
        for sequence, logits in zip(rows, ours, strict=True):
            ids = torch.tensor([[*sequence.prompt, chosen[-1]]], device=self._model.device)
            stock = self._model(input_ids=ids, use_cache=False).logits[0, -1].float()
            if torch.cosine_similarity(logits, stock, dim=0) < 0.99:
                raise ValueError("its logits differ")


def load(settings: Settings, inference: Inference) -> Model:
    """
    The model that MODEL names, ready to run.

    What is on this machine is taken before the network is asked.  Weights are safetensors only, and no code that comes
    with them is run.

    Raises:
        ConfigurationError: it is not there, not readable, or not a model that the engine can run.
    """
    machine.arrange_memory()
    # Each thread that computes gets helpers of its own (OpenMP's), and where there are more than cores all of them
    # sleep between any two products instead of waiting awake: a half slower.  So only the engine's thread has any.
    torch.set_num_threads(1)
    place = weights.find(settings)
    device = _device(inference.device)
    try:
        tokenizer = from_pretrained(transformers.AutoTokenizer, place)
        model = causal(place, dtype="auto")
        model = model.to(device=device, dtype=_dtype(inference.dtype, model, device))
    except Exception as error:  # whatever a foreign folder makes its reader raise, it is the name that is wrong
        raise weights.unusable(settings, place, error) from error
    loaded = Model(
        model,
        tokenizer,
        name=settings.model,
        threads=inference.threads,
        template=inference.chat_template,
        keep_bytes=machine.keep_bytes(inference.keep_mb, _free(device)),
        int8=inference.dtype == INT8,
    )
    loaded.verify()
    return loaded


def causal(place: weights.Place, dtype: Any) -> Any:
    """
    A causal language model, of safetensors alone.

    Raises:
        ConfigurationError: some of its weights are nowhere; transformers fills them at random, and says so in a log.
        Exception: whatever a foreign folder makes its reader raise.
    """
    kind = transformers.AutoModelForCausalLM
    model, told = from_pretrained(kind, place, use_safetensors=True, dtype=dtype, output_loading_info=True)
    if missing := sorted(told["missing_keys"]):
        raise ConfigurationError(
            f"environment: MODEL = {place.name!r} lacks {len(missing)} of its weights ({missing[0]}, …), so it would "
            "speak at random: it was made for something else than the next word, or its files are not all there"
        )
    return model


def from_pretrained(kind: Any, place: weights.Place, **how: Any) -> Any:
    """What a class of transformers makes of a place; the hub is asked only for what is not on this machine."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call] # a library without annotations
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
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
    if name not in ("auto", INT8):
        raise ConfigurationError(f"streams.toml: inference.dtype = {name!r}; write auto, int8, {', '.join(_DTYPES)}")
    stored: torch.dtype = model.dtype
    if device.type != "cpu":
        return stored
    native = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
    return torch.bfloat16 if native and model.num_parameters() >= _LARGE else torch.float32


def _free(device: torch.device) -> int:
    """Bytes."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else machine.free_memory()
