"""
The engine on OpenVINO: a folder that `cauce model export` made, run by OpenVINO GenAI's continuous batching.

Which tokens are computed in a step, where keys and values lie, and what is known already of a prompt's beginning is the
pipeline's to say, in its process (pipeline.py); who is in it is decided here.  It gets tokens, never text, so that what
a person writes stays text (encoding.py).  Nothing of this needs torch or transformers.
"""

from __future__ import annotations

import importlib.util
import json
from collections import deque
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec

from processors.inference import weights
from processors.inference.door import Door, Job, Load, Speech
from processors.inference.exchange import Failed, News, Open, Opened, Process, Put, Stepped, Turn, Unopened
from processors.inference.generation import Refused, StepFailed
from processors.inference.tokenizer import Tokenizer
from processors.inference.words import Words, context_length
from streams import log as logs
from streams import metrics
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Inference

log = logs.get("inference")


class Steps(Protocol):
    """The pipeline, wherever it is."""

    def step(self, turn: Turn) -> Stepped | Failed: ...

    def close(self) -> None: ...


class Running(msgspec.Struct, eq=False):
    """A request in the pipeline, or on its way there."""

    number: int
    """Of the job."""
    prompt: list[int]
    max_tokens: int
    tokens: list[int] = []
    """Of the reply, so far."""
    inside: int = 0
    """The number by which the pipeline knows it; a new one each time that it is put in."""


class About(msgspec.Struct, frozen=True, kw_only=True):
    """What a model is, as `GET /model/info` shows it."""

    name: str
    dtype: str
    """Of the weights; what is computed in, OpenVINO chooses by the device unless `inference.dtype` says so."""
    device: str
    parameters: int
    chat_template: bool
    tools: bool


class Paged(Door[Running]):
    """
    See `generation.Engine`.

    Args:
        steps: this engine's alone.
        slots: how many are in it at once; who else comes waits here, where a step that fails does not reach them.
    """

    def __init__(self, steps: Steps, speech: Speech, about: About, *, slots: int) -> None:
        super().__init__(speech)
        self._steps, self._about, self._slots = steps, about, slots
        self._waiting: deque[Job[Running]] = deque()
        self._running: dict[int, Job[Running]] = {}
        """By the pipeline's number."""
        self._alone: deque[Job[Running]] = deque()
        """Who was in a step that failed, so that only the guilty goes, or had no room beside the others."""
        self._out: list[int] = []
        """Who is to be taken out with the next step."""
        self._stale = False
        """The pipeline keeps what is to be forgotten: when those in it have ended it is opened anew."""
        self.open()

    def describe(self) -> dict[str, Any]:
        return msgspec.structs.asdict(self._about) | {
            "engine": "openvino",
            "context_length": self._speech.context_length,
            "slots": self._slots,
            **self.load(),
        }

    # What follows runs in the thread.

    def _begin(self) -> None:
        return None

    @property
    def _busy(self) -> bool:
        return bool(self._jobs or self._out or self._stale)

    @property
    def _load(self) -> Load:
        return Load(len(self._running), len(self._waiting) + len(self._alone))

    def _admit(self, number: int, job: Job[Running], prompt: list[int], max_tokens: int) -> None:
        job.work = Running(number, prompt, max_tokens)
        self._waiting.append(job)

    def _step(self) -> None:
        anew = self._stale and not self._running
        put = [] if self._stale and self._running else self._fill()
        if not (self._running or self._out or anew):
            return
        if self._running:
            metrics.ENGINE_BATCH.observe(len(self._running))
        turn, self._out = Turn(self._out, put, anew), []
        self._stale = self._stale and not anew
        stepped, alone = self._steps.step(turn), len(self._running) == 1
        if isinstance(stepped, Failed):
            self._failed(stepped.why)
            return
        self._failures = 0
        for news in stepped.news:
            self._note(news, alone=alone)

    def _fill(self) -> list[Put]:
        if self._alone:
            return [] if self._running else [self._put_in(self._alone.popleft())]
        count = min(self._slots - len(self._running), len(self._waiting))
        return [self._put_in(self._waiting.popleft()) for _ in range(count)]

    def _put_in(self, job: Job[Running]) -> Put:
        running = _of(job)
        running.tokens, running.inside = [], next(self._numbers)
        self._running[running.inside] = job
        drawing = job.request.sampling.over(self._speech.drawing)
        return Put(running.inside, running.prompt, running.max_tokens, drawing, self._speech.stops)

    def _note(self, news: News, *, alone: bool) -> None:
        job = self._running[news.number]
        running = _of(job)
        running.tokens += news.tokens
        if running.tokens and running.tokens[-1] in self._speech.stops:
            running.tokens.pop()
        match news.state:
            case "running":
                if self._says_stop(job, running.prompt, running.tokens):
                    self._end(job, "stop")
            case "stop" | "length":
                self._end(job, news.state)
            case "crowded":
                self._crowded_out(job, alone=alone)
            case "failed":
                self._give_up(job, "the pipeline does not take it")

    def _crowded_out(self, job: Job[Running], *, alone: bool) -> None:
        """The pipeline had no room for its keys and values, and has dropped it."""
        running = _of(job)
        log.warning("engine.crowded", tokens=len(running.prompt) + len(running.tokens))
        if not alone:
            self._take_out(job)
            self._alone.append(job)
        elif running.tokens:
            self._end(job, "length")
        else:
            self._leave(job)
            job.end(Refused("the prompt does not fit into the memory for keys and values; raise inference.keep_mb"))

    def _end(self, job: Job[Running], finish: Literal["stop", "length"]) -> None:
        running = _of(job)
        self._leave(job)
        job.end(self._result(job, running.prompt, running.tokens, finish))

    def _failed(self, why: str) -> None:
        log.warning("engine.step_failed", requests=len(self._running), why=why)
        alone = len(self._running) == 1
        for job in list(self._running.values()):
            if alone:
                self._give_up(job, why)
            else:
                self._take_out(job)
                self._alone.append(job)
        self._count_failure(RuntimeError(why))

    def _give_up(self, job: Job[Running], why: str) -> None:
        log.error("engine.request_failed", tokens=len(_of(job).prompt), why=why)
        self._leave(job)
        job.end(StepFailed(f"the model failed in a step of this request: {why}"))

    def _take_out(self, job: Job[Running]) -> None:
        inside = _of(job).inside
        del self._running[inside]
        self._out.append(inside)  # where it has ended already, that changes nothing

    def _leave(self, job: Job[Running]) -> None:
        running = _of(job)
        del self._jobs[running.number]
        if self._running.get(running.inside) is job:
            self._take_out(job)
        elif job in self._alone:
            self._alone.remove(job)
        else:
            self._waiting.remove(job)

    def _forget(self) -> None:
        self._stale = True

    def _put_down(self) -> None:
        self._steps.close()


def _of(job: Job[Running]) -> Running:
    assert job.work is not None  # noqa: S101 - whoever is in a queue here was admitted
    return job.work


def load(settings: Settings, inference: Inference) -> Paged:
    """
    The model in the folder that MODEL names, ready to run.

    Raises:
        ConfigurationError: it is not readable, or there is no such device.
        ModuleNotFoundError: OpenVINO is not installed.
    """
    if importlib.util.find_spec("openvino_genai") is None:
        raise ModuleNotFoundError("OpenVINO is not installed", name="openvino_genai")
    folder = Path(weights.find(settings).name)
    process: Process | None = None
    try:
        config = _json(folder / "config.json")
        config = config.get("text_config", config)
        process = Process(Open(str(folder), inference, context_length(config)))
        told = _opened(process)
        words = Words(
            Tokenizer(folder),
            template=inference.chat_template,
            config=config,
            generation=_json(folder / "generation_config.json") if (folder / "generation_config.json").exists() else {},
            vocabulary=told.vocabulary,
        )
    except Exception as error:  # whatever a foreign folder makes its reader raise, it is the folder that is wrong
        if process is not None:
            process.close()
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(
            f"environment: MODEL = {settings.model!r}: OpenVINO cannot open it ({weights.first_line(error)}); "
            "make it anew with `cauce model export`"
        ) from error
    about = About(
        name=settings.model,
        dtype=told.dtype,
        device=told.device,
        parameters=told.parameters,
        chat_template=words.chat,
        tools=words.tools,
    )
    return Paged(process, words, about, slots=inference.slots)


def _opened(process: Process) -> Opened:
    match process.told:
        case Opened() as told:
            return told
        case Unopened(why, ours):
            raise ConfigurationError(why) if ours else ValueError(why)
    raise AssertionError(process.told)


def _json(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found
