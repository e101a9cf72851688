"""
The async door to a thread that owns a model, whatever the model is made of.

The event loop hands requests in and gets results back, and never waits on the model.  What an engine does in its thread
with those whom it has taken in is its own: engine.py runs a batch of rows, openvino.py another library's pipeline.

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
from abc import ABC, abstractmethod
from collections.abc import Sequence as Series
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from processors.inference.calls import Heard
from processors.inference.generation import Drawing, Generated, Line, Refused, Request, StepFailed, Tool, until
from streams import log as logs
from streams import metrics
from streams.errors import CauceError, Crash, Retry

log = logs.get("inference")

_RUNNING, _WAITING = (metrics.ENGINE_REQUESTS.labels(state) for state in ("running", "waiting"))

HOPELESS = 8
"""Steps in a row in which the model failed for everybody: it will not recover (a GPU after an assertion does not)."""

STUCK_SECONDS = 300.0
"""A step that takes longer will not end: a driver that hangs, for one."""
_LOOKS = 10
"""At a step, until it has taken that long."""


class Speech(Protocol):
    """A model's words: how it reads a prompt, and writes a reply.  Called by one thread only."""

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


Work = TypeVar("Work")
"""What an engine knows of a request that it has taken in."""


class Job(Generic[Work]):
    """A request on its way, with the loop and the future that wait for it."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Generated] = self.loop.create_future()
        self.since = time.monotonic()
        self.cancelled = False
        self.forgotten = False
        """Somebody was erased while it was in work: nothing of it is kept."""
        self.tools: Series[Tool] = ()
        """Those that the model was offered."""
        self.work: Work | None = None

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


class Load(NamedTuple):
    """How much an engine has to do."""

    running: int
    """Requests in its batch."""
    waiting: int
    """Requests for which there is no place in it yet."""


class _Stop:
    pass


class _Forget:
    pass


class Died(CauceError):
    """The engine's thread has ended, and with it all that this process can do."""


class Crashed(Died, Crash):
    """It ended within a step, or its pipeline's process did: any of those in work may be why."""


class _Hopeless(RuntimeError):
    """The model works for nobody, which is nobody's fault."""


def _told(watch: asyncio.Future[None]) -> None:
    if not watch.done():
        watch.set_result(None)


_CLOSED = "the engine is closed"


class Door(ABC, Generic[Work]):
    """See `generation.Engine`.  Who inherits starts the thread, by `open`, once it is ready for it."""

    def __init__(self, speech: Speech) -> None:
        self._speech = speech
        self._inbox: queue.SimpleQueue[Job[Work] | _Stop | _Forget] = queue.SimpleQueue()
        self._jobs: dict[int, Job[Work]] = {}
        self._numbers = itertools.count(1)
        self._failures = 0
        self._told = Load(0, 0)
        self._over: str | None = None
        """Why nothing is generated any more."""
        self._death: type[Died] = Died
        self._step_began: float | None = None
        """When the step in work began, on the monotonic clock."""
        self._hangs = False
        self._watching: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []
        """Who wants to know when it dies."""
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)

    def open(self) -> None:
        self._thread.start()

    async def generate(self, request: Request) -> Generated:
        job = Job[Work](request)
        self._inbox.put(job)
        # Looked at after the put: a thread that dies empties the inbox once, and what comes later it does not see.
        if self._over is not None:
            raise Retry(self._over, counted=False)
        try:
            return await job.future
        finally:
            job.cancelled = True

    @abstractmethod
    def describe(self) -> dict[str, Any]: ...

    def load(self) -> dict[str, int]:
        """How much there is to do, as `describe` tells it."""
        return {"running": self._told.running, "waiting": self._told.waiting + self._inbox.qsize()}

    def ready(self) -> bool:
        return self._over is None and self._thread.is_alive()

    def forget(self) -> None:
        self._inbox.put(_Forget())

    async def failed(self) -> None:
        """
        Wait until the thread dies or hangs in a step, which is for ever where it does not.

        Raises:
            Died: it has.
        """
        loop = asyncio.get_running_loop()
        watch = loop.create_future()
        self._watching.append((loop, watch))
        seen, looks = None, 0
        while self._over is None:  # after the append: who dies says so first, and then to all who watch by then
            await asyncio.wait([watch], timeout=STUCK_SECONDS / _LOOKS)
            # Looks are counted, not seconds: a process that was frozen has not been in a step meanwhile.
            looks = looks + 1 if seen is not None and self._step_began == seen else 0
            seen = self._step_began
            if looks == _LOOKS:
                self._over, self._death, self._hangs = "the engine has died: it hangs in a step", Crashed, True
                log.error("engine.died", why=f"it has been in one step for {STUCK_SECONDS:g} s")
        raise self._death(self._over or "the engine has died")

    async def close(self) -> None:
        """Stop after the step in work, unless that hangs; who waits is told to come again."""
        self._inbox.put(_Stop())
        if not self._hangs:
            await asyncio.to_thread(self._thread.join)

    # What follows runs in the thread.

    @abstractmethod
    def _begin(self) -> None:
        """Before the first step."""

    @property
    @abstractmethod
    def _busy(self) -> bool:
        """A step would do something."""

    @property
    @abstractmethod
    def _load(self) -> Load: ...

    @abstractmethod
    def _admit(self, number: int, job: Job[Work], prompt: list[int], max_tokens: int) -> None:
        """
        Take in a request whose prompt is in order.

        Args:
            max_tokens: of the reply, as many as the request wants and the context has room for.
        """

    @abstractmethod
    def _step(self) -> None:
        """One step of those who are in work, and whatever follows from it."""

    @abstractmethod
    def _leave(self, job: Job[Work]) -> None:
        """Free what a request holds, and forget it."""

    @abstractmethod
    def _forget(self) -> None:
        """Drop what is kept of requests that have left; those in work are marked `forgotten`."""

    def _put_down(self) -> None:
        """After the last step, when all have been told."""
        return None

    def _run(self) -> None:
        why = _CLOSED
        try:
            self._begin()
            while self._read_inbox():
                self._drop_cancelled()
                self._tell()
                self._step_began = time.monotonic()
                self._step()
                self._step_began = None
                self._tell()
        except BaseException as error:
            why = f"the engine has died: {type(error).__name__}"
            self._death = Died if isinstance(error, _Hopeless) else Crashed
            log.exception("engine.died", why=type(error).__name__)
        finally:
            self._over = why
            in_work, unread = list(self._jobs.values()), self._unread()
            for loop, watch in self._watching if why != _CLOSED else ():
                with contextlib.suppress(RuntimeError):  # that loop has closed
                    loop.call_soon_threadsafe(_told, watch)
            for job in [*in_work, *unread]:  # an exception each: it keeps its own traceback
                suspect = self._death is Crashed and job not in unread
                job.end(Crashed(why) if suspect else Retry(why, counted=False))
            self._jobs.clear()
            self._put_down()

    def _tell(self) -> None:
        """What there is to do now, where that has changed."""
        if (load := self._load) != self._told:
            self._told = load
            _RUNNING.set(load.running)
            _WAITING.set(load.waiting)

    def _unread(self) -> list[Job[Work]]:
        jobs = []
        while True:
            try:
                if isinstance(job := self._inbox.get_nowait(), Job):
                    jobs.append(job)
            except queue.Empty:
                return jobs

    def _read_inbox(self) -> bool:
        """Take in what has come, waiting only if there is nothing else to do; False: stop."""
        wait = not self._busy
        while True:
            try:
                job = self._inbox.get(block=wait)
            except queue.Empty:
                return True
            if isinstance(job, _Stop):
                return False
            wait = False
            if isinstance(job, _Forget):
                self._forget_all()
            else:
                self._take_in(job)

    def _forget_all(self) -> None:
        for job in self._jobs.values():
            job.forgotten = True
        try:
            self._forget()
        except Exception as error:
            log.warning("engine.not_forgotten", why=type(error).__name__)

    def _take_in(self, job: Job[Work]) -> None:
        """Refused before it is admitted, a bad request harms only itself."""
        if job.cancelled:
            return
        request = job.request
        try:
            job.tools = self._speech.offered(request.tools)
            prompt = self._speech.encode(request.lines, request.max_tokens, job.tools)
            self._speech.check(prompt)
        except Refused as refused:
            job.end(refused)
            return
        except Exception as error:
            log.exception("engine.unreadable", why=type(error).__name__)
            job.end(Refused(f"the prompt cannot be encoded: {type(error).__name__}"))
            return
        number = next(self._numbers)
        self._jobs[number] = job
        self._admit(number, job, prompt, max(1, min(request.max_tokens, self._speech.context_length - len(prompt))))

    def _drop_cancelled(self) -> None:
        for job in [job for job in self._jobs.values() if job.cancelled]:
            self._leave(job)

    def _count_failure(self, error: Exception) -> None:
        """A step has failed for everybody.  Raises _Hopeless where that goes on."""
        self._failures += 1
        if self._failures >= HOPELESS:
            raise _Hopeless("the model fails in every step") from error

    def _says_stop(self, job: Job[Work], prompt: Series[int], generated: Series[int]) -> bool:
        """The text may have begun some tokens ago; a token is one byte of it at least."""
        stop = job.request.stop
        if not stop:
            return False
        try:
            tail = self._speech.decode(generated[-max(len(each.encode()) for each in stop) - 1 :])
            if job.tools and any(each in tail for each in stop):
                tail = self._hear(job, prompt, generated).words  # within a call it stops nothing
        except Exception:
            return False  # said of the whole reply, at its end
        return any(each in tail for each in stop)

    def _hear(self, job: Job[Work], prompt: Series[int], generated: Series[int]) -> Heard:
        if not job.tools:
            return Heard(self._speech.decode(generated))
        return self._speech.hear(prompt, generated, job.tools)

    def _result(
        self,
        job: Job[Work],
        prompt: Series[int],
        generated: Series[int],
        finish: Literal["stop", "length"],
        recalled: int = 0,
    ) -> Generated | Exception:
        """
        Args:
            recalled: how many of the prompt's tokens were known already.
        """
        try:
            heard = self._hear(job, prompt, generated)
        except Exception as error:
            return StepFailed(f"the tokens cannot be decoded: {type(error).__name__}")
        return Generated(
            text=until(heard.words, job.request.stop),
            calls=heard.calls,
            tokens=len(generated),
            prompt_tokens=len(prompt),
            recalled_tokens=recalled,
            ms=(time.monotonic() - job.since) * 1000,
            finish=finish,
        )
