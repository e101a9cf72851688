"""
The thread that owns the model, and the async door to it.

Requests join and leave the running batch at every step; between two steps at most one piece of one prompt is read, so
that a long one does not silence those who are being answered.  The event loop hands requests in and gets results back,
and never waits on the model.  Knows no tensor: a Runner does the arithmetic.

Every request ends in exactly one result: generated, refused, failed, or given up because its caller was cancelled.  A
thread that dies says so to all who wait, and to all who come.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Sequence as Series
from functools import partial
from typing import Any, Protocol

from processors.inference.calls import Heard
from processors.inference.generation import Drawing, Generated, Line, Refused, Request, StepFailed, Tool, until
from processors.inference.scheduler import Finish, Move, Piece, Scheduler, Sequence
from streams import log as logs
from streams.errors import CauceError, Retry

log = logs.get("inference")

PIECE = 256
"""Tokens of a prompt that are read between two steps."""

HOPELESS = 8
"""Steps in a row in which the model failed for everybody: it will not recover (a GPU after an assertion does not)."""


class Runner(Protocol):
    """The model.  Called by one thread only."""

    stops: frozenset[int]
    context_length: int
    drawing: Drawing
    """How tokens are drawn where a request wishes nothing else."""

    def offered(self, tools: Series[Tool]) -> Series[Tool]:
        """These, or nothing where it cannot offer them to the model."""
        ...

    def encode(self, lines: Series[Line], max_tokens: int, tools: Series[Tool]) -> list[int]:
        """The prompt's tokens, leaving room for `max_tokens`.  Raises Refused."""
        ...

    def check(self, tokens: Series[int]) -> None:
        """Raises Refused: empty, too long, or with a token that the model has not."""
        ...

    def decode(self, tokens: Series[int]) -> str:
        """Tokens as text, without control tokens."""
        ...

    def hear(self, prompt: Series[int], tokens: Series[int], tools: Series[Tool]) -> Heard:
        """Tokens as words and calls, where these tools were offered."""
        ...

    def start(self) -> None:
        """In the thread that owns the model, before the first step."""
        ...

    def recall(self, row: int, sequence: Sequence) -> int:
        """Put into a row what is still known of the prompt's beginning; how many tokens that are."""
        ...

    def keep(self, row: int, sequence: Sequence) -> None:
        """It leaves: what the row holds may serve the beginning of another prompt."""
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


class _Job:
    """A request on its way, with the loop and the future that wait for it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Generated] = self.loop.create_future()
        self.since = time.monotonic()
        self.cancelled = False
        self.tools: Series[Tool] = ()
        """Those that the model was offered."""
        self.sequence: Sequence | None = None

    def end(self, result: Generated | Exception) -> None:
        """Hand the result over to the loop; callable from any thread."""
        try:
            self.loop.call_soon_threadsafe(self._set, result)
        except RuntimeError:
            pass  # the loop has closed: nobody waits any more

    def _set(self, result: Generated | Exception) -> None:
        if self.future.done():
            return  # its caller was cancelled
        if isinstance(result, Exception):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class _Stop:
    pass


class Died(CauceError):
    """The engine's thread has ended, and with it all that this process can do."""


def _told(watch: asyncio.Future[None]) -> None:
    if not watch.done():
        watch.set_result(None)


_CLOSED = "the engine is closed"


class Threaded:
    """See `generation.Engine`."""

    def __init__(self, runner: Runner, *, slots: int) -> None:
        self._runner = runner
        self._scheduler = Scheduler(slots)
        self._inbox: queue.SimpleQueue[_Job | _Stop] = queue.SimpleQueue()
        self._jobs: dict[int, _Job] = {}
        self._numbers = itertools.count(1)
        self._failures = 0
        self._over: str | None = None
        """Why nothing is generated any more."""
        self._watching: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        """Who wants to know when it dies."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    async def generate(self, request: Request) -> Generated:
        job = _Job(request)
        self._inbox.put(job)
        # Looked at after the put: a thread that dies empties the inbox once, and what comes later it does not see.
        if self._over is not None:
            raise Retry(self._over, counted=False)
        try:
            return await job.future
        finally:
            job.cancelled = True

    def describe(self) -> dict[str, Any]:
        return self._runner.describe() | {"slots": self._scheduler.slots}

    def ready(self) -> bool:
        return self._over is None and self._thread.is_alive()

    async def failed(self) -> None:
        """
        Wait until the thread dies, which is for ever where it does not.

        Raises:
            Died: it has.
        """
        loop = asyncio.get_running_loop()
        watch = loop.create_future()
        self._watching.append((loop, watch))
        if self._over is None:  # after the append: who dies says so first, and then to all who watch by then
            await watch
        raise Died(self._over or "the engine has died")

    async def close(self) -> None:
        """Stop after the step in work; who waits is told to come again."""
        self._inbox.put(_Stop())
        await asyncio.to_thread(self._thread.join)

    # What follows runs in the thread.

    def _run(self) -> None:
        why = _CLOSED
        try:
            self._runner.start()
            while self._read_inbox():
                self._drop_cancelled()
                self._step()
        except BaseException as error:
            why = f"the engine has died: {type(error).__name__}"
            log.exception("engine.died", why=type(error).__name__)
        finally:
            self._over = why
            left = [*self._jobs.values(), *self._unread()]
            for loop, watch in self._watching if why != _CLOSED else ():
                with contextlib.suppress(RuntimeError):  # that loop has closed
                    loop.call_soon_threadsafe(_told, watch)
            for job in left:
                job.end(Retry(why, counted=False))  # one each: an exception keeps its own traceback
            self._jobs.clear()

    def _unread(self) -> list[_Job]:
        jobs = []
        while True:
            try:
                if isinstance(job := self._inbox.get_nowait(), _Job):
                    jobs.append(job)
            except queue.Empty:
                return jobs

    def _read_inbox(self) -> bool:
        """Take in what has come, waiting only if there is nothing else to do; False: stop."""
        wait = not self._scheduler.busy
        while True:
            try:
                job = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            if isinstance(job, _Stop):
                return False
            wait = False
            self._take_in(job)

    def _take_in(self, job: _Job) -> None:
        """Refused before it is admitted, a bad request harms only itself."""
        if job.cancelled:
            return
        request = job.request
        try:
            job.tools = self._runner.offered(request.tools)
            prompt = self._runner.encode(request.lines, request.max_tokens, job.tools)
            self._runner.check(prompt)
        except Refused as refused:
            job.end(refused)
            return
        except Exception as error:
            log.exception("engine.unreadable", why=type(error).__name__)
            job.end(Refused(f"the prompt cannot be encoded: {type(error).__name__}"))
            return
        job.sequence = Sequence(
            number=next(self._numbers),
            prompt=prompt,
            max_tokens=max(1, min(request.max_tokens, self._runner.context_length - len(prompt))),
            stops=self._runner.stops,
            drawing=request.sampling.over(self._runner.drawing),
            generated=[],
        )
        self._jobs[job.sequence.number] = job
        self._scheduler.add(job.sequence)

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._jobs.values() if job.cancelled]:
            self._leave(job)

    def _step(self) -> None:
        piece, running = self._piece(), list(self._scheduler.running)
        if not (piece or running):
            return
        try:
            tokens, first = self._runner.step(0, running, piece)
        except Exception as error:
            log.warning("engine.step_failed", requests=len(running) + bool(piece), why=type(error).__name__)
            self._one_by_one(running, piece)
            return
        self._failures = 0
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
        results: list[tuple[Sequence, tuple[list[int], int | None] | Exception]] = []
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
        errors = [result for _, result in results if isinstance(result, Exception)]
        if len(errors) == len(results):
            self._count_failure(errors[0])
        else:
            self._failures = 0

    def _count_failure(self, error: Exception) -> None:
        self._failures += 1
        if self._failures >= HOPELESS:
            raise RuntimeError("the model fails in every step") from error

    def _failed(self, sequence: Sequence, error: Exception) -> None:
        log.error("engine.request_failed", tokens=sequence.length, why=f"{type(error).__name__}: {error}"[:300])
        job = self._jobs[sequence.number]
        self._leave(job, sound=False)
        job.end(StepFailed(f"the model failed in a step of this request: {type(error).__name__}"))

    def _accept(self, sequence: Sequence, token: int) -> None:
        finish = self._scheduler.accept(sequence, token)
        job = self._jobs[sequence.number]
        if finish is None and self._says_stop(job, sequence):
            finish = "stop"
        if finish is None:
            return
        self._leave(job)
        job.end(self._result(job, sequence, finish))

    def _says_stop(self, job: _Job, sequence: Sequence) -> bool:
        """The text may have begun some tokens ago; a token is one byte of it at least."""
        stop = job.request.stop
        if not stop:
            return False
        try:
            tail = self._runner.decode(sequence.generated[-max(len(each.encode()) for each in stop) - 1 :])
            if job.tools and any(each in tail for each in stop):
                tail = self._hear(job, sequence).words  # within a call it stops nothing
        except Exception:
            return False  # said of the whole reply, at its end
        return any(each in tail for each in stop)

    def _hear(self, job: _Job, sequence: Sequence) -> Heard:
        if not job.tools:
            return Heard(self._runner.decode(sequence.generated))
        return self._runner.hear(sequence.prompt, sequence.generated, job.tools)

    def _result(self, job: _Job, sequence: Sequence, finish: Finish) -> Generated | Exception:
        try:
            heard = self._hear(job, sequence)
        except Exception as error:
            return StepFailed(f"the tokens cannot be decoded: {type(error).__name__}")
        return Generated(
            text=until(heard.words, job.request.stop),
            calls=heard.calls,
            tokens=len(sequence.generated),
            prompt_tokens=len(sequence.prompt),
            recalled_tokens=sequence.recalled,
            ms=(time.monotonic() - job.since) * 1000,
            finish=finish,
        )

    def _leave(self, job: _Job, *, sound: bool = True) -> None:
        """
        Args:
            sound: what its row holds is right.
        """
        sequence = job.sequence
        assert sequence is not None  # noqa: S101 - only admitted jobs are in _jobs
        del self._jobs[sequence.number]
        if sound and (row := self._scheduler.row(sequence)) is not None:
            try:
                self._runner.keep(row, sequence)
            except Exception as error:  # it is served all the same
                log.warning("engine.not_kept", tokens=sequence.length, why=type(error).__name__)
        for move in self._scheduler.leave(sequence):
            self._runner.move(move)
