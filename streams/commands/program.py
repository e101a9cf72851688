"""
One supervised process: started, listened to, started again when it dies, stopped when asked.

Knows no group and no Redis: a command, its environment, and a question that tells whether it is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import re
import signal
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence

from streams import log
from streams.commands.screen import Screen

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds before a dead process is started again: doubled each time."""

LONG_LIFE = 30.0
"""Seconds of life after which the pause begins small again."""

MISCONFIGURED = 2
"""The exit status that says: starting me again will not help."""

_log = log.get("up")
_BREAK = re.compile(rb"\r?\n")
_LONGEST_LINE = 1 << 20


class Program:
    """
    Args:
        name: shown before its lines.
        ready: asked while it starts.
        quiet: keep its output, and show the end of it only when it dies.
        must_start: any death before it was ready is final, as MISCONFIGURED is for every program.
        pass_fds: descriptors that it inherits, however often it is started.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        screen: Screen,
        ready: Callable[[], Awaitable[bool]],
        *,
        environ: Mapping[str, str] | None = None,
        quiet: bool = False,
        must_start: bool = False,
        died: Callable[[int], None] = lambda pid: None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        self.was_ready = False
        self.hopeless = asyncio.Event()
        """Set when it ended in a way that starting it again cannot mend."""
        self.status = "starting"
        self.last_words = "it said nothing"
        self._command = command
        self._environ = environ
        self._screen = screen
        self._ready = ready
        self._quiet = quiet
        self._must_start = must_start
        self._died = died
        self._pass_fds = pass_fds
        self._said: deque[str] = deque(maxlen=20)
        self._stopping = asyncio.Event()
        self._process: Process | None = None
        self._running: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process and self._process.returncode is None else None

    def start(self) -> None:
        self._running = asyncio.create_task(self._run(), name=self.name)

    async def ready(self) -> bool:
        """Whether it is ready now; from the first yes on it is started again whatever it dies of."""
        if self.pid and await self._ready():
            self.was_ready, self.status = True, "ready"
            return True
        return False

    async def again(self, grace: float) -> None:
        """Stop it, and start it anew, with what it reads then."""
        await self.stop(grace)
        self._stopping.clear()
        self.status = "starting"
        self.start()

    async def stop(self, grace: float) -> None:
        """SIGTERM, and SIGKILL after `grace` seconds."""
        if not self._stopping.is_set():  # a second one would say: at once
            self._stopping.set()
            self.signal(signal.SIGTERM)
        if self._running is None:
            return
        done, _ = await asyncio.wait({self._running}, timeout=grace)
        if not done:
            _log.warning("process.killed", process=self.name, after_s=grace)
            self.signal(signal.SIGKILL)
            await asyncio.wait({self._running})

    def signal(self, number: signal.Signals) -> None:
        if self.pid and self._process:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while not self._stopping.is_set():
            born = time.monotonic()
            code = await self._live()
            if self._stopping.is_set():
                return
            if not self.was_ready and (code == MISCONFIGURED or self._must_start):
                self._show_what_it_said()
                self.hopeless.set()
                return
            if time.monotonic() - born >= LONG_LIFE:
                pause = FIRST_PAUSE
            self._show_what_it_said()
            _log.error("process.died", process=self.name, why=_why(code), restart_s=pause)
            self.status = "starting again"
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _live(self) -> int:
        process = self._process = await asyncio.create_subprocess_exec(
            *self._command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=PIPE,
            stderr=STDOUT,
            env=self._environ,
            pass_fds=self._pass_fds,
            # In a session of its own: Ctrl-C is for us alone, who know the order to stop in.
            start_new_session=True,
            preexec_fn=_dies_with_us(),
        )
        if self._stopping.is_set():
            self.signal(signal.SIGTERM)
        _log.debug("process.started", process=self.name, pid=process.pid)
        listening = asyncio.create_task(self._listen(process))
        code = await process.wait()
        # A grandchild may hold the pipe open for ever.
        await asyncio.wait({listening}, timeout=1)
        listening.cancel()
        self._died(process.pid)
        return code

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None  # noqa: S101 - PIPE gives one
        rest = b""
        while chunk := await process.stdout.read(1 << 16):
            *lines, rest = _BREAK.split(rest + chunk)
            for line in lines:
                self._hear(line)
            if b"\r" in rest and (step := rest.rstrip(b"\r").rpartition(b"\r")[2].strip()):
                self.status = step.decode(errors="replace")[:100]  # a progress bar
                rest = step
            if len(rest) > _LONGEST_LINE:
                self._hear(rest)
                rest = b""
        if rest:
            self._hear(rest)

    def _hear(self, line: bytes) -> None:
        text = line.rpartition(b"\r")[2].decode(errors="replace")
        if not text.strip():
            return
        self.last_words = text.strip()
        if self._quiet:
            self._said.append(text)
        else:
            self._screen.line(self.name, text)

    def _show_what_it_said(self) -> None:
        for text in self._said:
            self._screen.line(self.name, text)
        self._said.clear()


def _why(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _dies_with_us() -> Callable[[], None] | None:
    """Linux: have the kernel send SIGTERM to the child when we are gone, even if we are killed."""
    if not sys.platform.startswith("linux"):
        return None
    libc, us, pr_set_pdeathsig = ctypes.CDLL(None), os.getpid(), 1

    def before_exec() -> None:
        libc.prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != us:
            os._exit(1)

    return before_exec
