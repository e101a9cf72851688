"""
The thread that owns the model, behind the door of door.py.

Requests join and leave the running batch at every step; in a step at most one piece of one prompt is read besides, so
that a long one does not silence those who are being answered.  Knows no tensor: a Runner does the arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence as Series
from functools import partial
from typing import Any, Protocol

from processors.inference.door import Door, Job, Load, Speech
from processors.inference.generation import StepFailed
from processors.inference.scheduler import Move, Piece, Scheduler, Sequence
from streams import log as logs
from streams import metrics

log = logs.get("inference")

PIECE = 256
"""Tokens of a prompt that are read in one step."""


_Stepped = tuple[list[int], int | None]
"""What `Runner.step` returns."""


class Runner(Speech, Protocol):
    """The model.  Called by one thread only."""

    def start(self) -> None:
        """In the thread that owns the model, before the first step."""
        ...

    def recall(self, row: int, sequence: Sequence) -> int:
        """Put into a row what is still known of the prompt's beginning; how many tokens that are."""
        ...

    def keep(self, row: int, sequence: Sequence) -> None:
        """It leaves: what the row holds may serve the beginning of another prompt."""
        ...

    def forget(self, rows: int) -> None:
        """Drop all that is kept, and what lies in the rows behind the first so many."""
        ...

    def step(
        self, first_row: int, sequences: Series[Sequence], piece: Piece | None = None
    ) -> tuple[list[int], int | None]:
        """
        The next token of each, for the rows from `first_row` on, and a piece of a prompt read beside them.

        May be repeated after a failure.

        Returns:
            their tokens, and where the piece ends its prompt the first token after it.
        """
        ...

    def move(self, move: Move) -> None: ...

    def describe(self) -> dict[str, Any]: ...


class Threaded(Door[Sequence]):
    """See `generation.Engine`."""

    def __init__(self, runner: Runner, *, slots: int) -> None:
        super().__init__(runner)
        self._runner = runner
        self._scheduler = Scheduler(slots)
        self.open()

    def describe(self) -> dict[str, Any]:
        return self._runner.describe() | {"slots": self._scheduler.slots} | self.load()

    # What follows runs in the thread.

    def _begin(self) -> None:
        self._runner.start()

    @property
    def _busy(self) -> bool:
        return self._scheduler.busy

    @property
    def _load(self) -> Load:
        scheduler = self._scheduler
        return Load(len(scheduler.running) + (scheduler.reading is not None), len(scheduler.waiting))

    def _admit(self, number: int, job: Job[Sequence], prompt: list[int], max_tokens: int) -> None:
        job.work = Sequence(
            number=number,
            prompt=prompt,
            max_tokens=max_tokens,
            stops=self._runner.stops,
            drawing=job.request.sampling.over(self._runner.drawing),
            generated=[],
        )
        self._scheduler.add(job.work)

    def _step(self) -> None:
        piece, running = self._piece(), list(self._scheduler.running)
        if not (piece or running):
            return
        metrics.ENGINE_BATCH.observe(len(running) + bool(piece))
        try:
            tokens, first = self._runner.step(0, running, piece)
        except Exception as error:
            log.warning("engine.step_failed", requests=len(running) + bool(piece), why=type(error).__name__)
            self._one_by_one(running, piece)
            return
        self._count([(tokens, first)])
        for sequence, token in zip(running, tokens, strict=True):
            self._accept(sequence, token)
        if piece:
            self._read(piece, first)

    def _piece(self) -> Piece | None:
        """What is read of a prompt in this step."""
        if (sequence := self._scheduler.admit()) is None:
            return None
        row = len(self._scheduler.running)
        if not sequence.read:
            try:
                sequence.read = sequence.recalled = self._runner.recall(row, sequence)
            except Exception as error:
                self._failed(sequence, error)
                self._count_failure(error)
                return None
        return Piece(row, sequence, min(len(sequence.prompt), sequence.read + PIECE))

    def _read(self, piece: Piece, first: int | None) -> None:
        piece.sequence.read = piece.end
        if first is not None:
            self._scheduler.begin()
            self._accept(piece.sequence, first)

    def _one_by_one(self, running: list[Sequence], piece: Piece | None) -> None:
        """A step that failed for all is repeated for each, so that only the guilty goes."""
        steps = [(sequence, partial(self._runner.step, row, [sequence])) for row, sequence in enumerate(running)]
        if piece:
            steps.append((piece.sequence, partial(self._runner.step, 0, [], piece)))
        results: list[tuple[Sequence, _Stepped | Exception]] = []
        for sequence, step in steps:
            try:
                results.append((sequence, step()))
            except Exception as error:
                results.append((sequence, error))
        for sequence, result in results:
            if isinstance(result, Exception):
                self._failed(sequence, result)
            elif result[0]:
                self._accept(sequence, result[0][0])
            elif piece:
                self._read(piece, result[1])
        self._count([result for _, result in results])

    def _count(self, results: Series[_Stepped | Exception]) -> None:
        """Whether the model still works.  A piece that does not end its prompt shows nothing: nobody looks at it."""
        errors = [result for result in results if isinstance(result, Exception)]
        if len(errors) == len(results):
            self._count_failure(errors[0])
        elif any(result[0] or result[1] is not None for result in results if not isinstance(result, Exception)):
            self._failures = 0

    def _failed(self, sequence: Sequence, error: Exception) -> None:
        log.error("engine.request_failed", tokens=sequence.length, why=f"{type(error).__name__}: {error}"[:300])
        job = self._jobs[sequence.number]
        self._leave(job, sound=False)
        job.end(StepFailed(f"the model failed in a step of this request: {type(error).__name__}"))

    def _accept(self, sequence: Sequence, token: int) -> None:
        finish = self._scheduler.accept(sequence, token)
        job = self._jobs[sequence.number]
        if finish is None and self._says_stop(job, sequence.prompt, sequence.generated):
            finish = "stop"
        if finish is None:
            return
        self._leave(job)
        job.end(self._result(job, sequence.prompt, sequence.generated, finish, sequence.recalled))

    def _leave(self, job: Job[Sequence], *, sound: bool = True) -> None:
        """
        Args:
            sound: what its row holds is right.
        """
        sequence = job.work
        assert sequence is not None  # noqa: S101 - only admitted jobs are in _jobs
        del self._jobs[sequence.number]
        if sound and not job.forgotten and (row := self._scheduler.row(sequence)) is not None:
            try:
                self._runner.keep(row, sequence)
            except Exception as error:  # it is served all the same
                log.warning("engine.not_kept", tokens=sequence.length, why=type(error).__name__)
        for move in self._scheduler.leave(sequence):
            self._runner.move(move)
        if job.forgotten and not any(each.forgotten for each in self._jobs.values()):
            self._forget()

    def _forget(self) -> None:
        self._runner.forget(self._scheduler.rows)
