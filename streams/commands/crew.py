"""
Processes that are watched together: started, waited for, and stopped stage by stage.

Knows signals, and what every process of ours is told; what each does, and which comes first, is its callers' business.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

import aiohttp
from prometheus_client.multiprocess import mark_process_dead

from streams import groups, layout, log
from streams.commands.entry import ACCEPTED, Place
from streams.commands.program import Program
from streams.commands.screen import Screen
from streams.errors import ConfigurationError
from streams.settings import PROBE_SOCKET, Settings
from streams.stores import Stores
from streams.topology import Topology

EXTRA_GRACE = 10.0
"""Seconds beyond SHUTDOWN_GRACE before a process that does not end is killed."""

PATIENCE = 10.0
"""Seconds that a process has to be ready before the next change goes ahead of it."""

_log = log.get("up")


class Crew:
    """
    Args:
        place: the files that every process is led to as well.
        folder: of this run; sockets and shared metrics lie there.
    """

    def __init__(self, settings: Settings, place: Place, screen: Screen, folder: Path) -> None:
        self.folder = folder
        self._grace = settings.shutdown_grace + EXTRA_GRACE
        self._screen = screen
        # -P: the folder we are started in must not stand before our own packages.
        self._cauce = [sys.executable, "-P", "-m", "streams.cli", *place.arguments]
        self._key = secrets.token_hex(16)
        self._programs = 0
        self._stages: Sequence[Sequence[Program]] = ()
        self._terminals = [number for number in range(3) if os.isatty(number)]
        self._stop = asyncio.Event()
        self._hangup = asyncio.Event()
        self._now = asyncio.Event()
        (folder / "metrics").mkdir()
        self._config = place.config
        self.accept()
        self._listen_for_signals()

    @classmethod
    @contextlib.contextmanager
    def gathered(cls, settings: Settings, place: Place, screen: Screen) -> Iterator[Crew]:
        """With a folder that goes when all is over."""
        # In /tmp, because a unix socket's path has to be short.
        with tempfile.TemporaryDirectory(prefix="cauce-", dir="/tmp", ignore_cleanup_errors=True) as folder:
            yield cls(settings, place, screen, Path(folder))

    def accept(self) -> None:
        """Whoever is started from now on gets streams.toml as it is now."""
        new = self.folder / "accepted.new"
        shutil.copyfile(self._config, new)
        new.replace(self.folder / "accepted.toml")

    def program(
        self, name: str, *command: str, url: str, environ: Mapping[str, str], pass_fds: Sequence[int] = ()
    ) -> Program:
        """
        `cauce COMMAND`, ready when its /health/ready says so.

        Args:
            url: where Redis is.
            environ: what only this one is told.
        """
        self._programs += 1
        path = self.folder / f"{self._programs}.sock"
        told = {
            **os.environ,
            "REDIS_URL": url,
            "PYTHONUNBUFFERED": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(self.folder / "metrics"),
            log.KEY_VARIABLE: self._key,
            ACCEPTED: str(self.folder / "accepted.toml"),
            PROBE_SOCKET: str(path),
            **environ,
        }
        return Program(
            name, [*self._cauce, *command], self._screen, lambda: _ready(path), environ=told, died=self._forget,
            pass_fds=pass_fds,
        )  # fmt: skip

    def _forget(self, pid: int) -> None:
        """Take a dead process's gauges out of what /metrics adds up."""
        mark_process_dead(pid, str(self.folder / "metrics"))  # type: ignore[no-untyped-call]

    async def run(
        self,
        stages: Sequence[Sequence[Program]],
        *,
        ready: Callable[[], None],
        reload: Callable[[], Awaitable[None]],
        closing: Callable[[], None],
    ) -> None:
        """
        Start all, and stop them at a signal: each stage once those before it have ended.

        Args:
            ready: called when all are.
            reload: called at SIGHUP, one call after the other; cancelled when all are to stop.
            closing: called before the first is told to stop.

        Raises:
            ConfigurationError: one cannot be started; all others have been stopped then.
        """
        self._stages = stages
        programs = self.programs
        for program in programs:
            self._screen.introduce(program.name)
            program.start()
        try:
            if await self.until_ready(programs):
                ready()
                await self._attend(reload)
            self.blame(programs)
        finally:
            closing()
            await self._shut_down(self._stages)

    @property
    def programs(self) -> list[Program]:
        """All that there are, in the order in which they stop."""
        return [program for stage in self._stages for program in stage]

    async def _attend(self, reload: Callable[[], Awaitable[None]]) -> None:
        """Until they are to stop."""
        stop = asyncio.create_task(self._stop.wait())
        while not stop.done():
            hangup = asyncio.create_task(self._hangup.wait())
            await asyncio.wait([stop, hangup], return_when=asyncio.FIRST_COMPLETED)
            if hangup.done() and not stop.done():
                self._hangup.clear()
                reloading = asyncio.ensure_future(reload())
                await asyncio.wait([stop, reloading], return_when=asyncio.FIRST_COMPLETED)
                if not reloading.done():
                    reloading.cancel()
                    await asyncio.wait([reloading])
                elif error := reloading.exception():
                    raise error
            hangup.cancel()

    async def change(self, stages: Sequence[Sequence[Program]], again: Collection[Program]) -> list[str]:
        """
        Go over to these stages: stop what is not in them, start what is new, start anew what is to be.

        What is new starts at once; what is started anew, one after the other and each once the one before it is ready,
        so that those that share a group's or a port's work are never away together.

        Returns:
            the names of those that are not ready; they are started again and again.
        """
        before, after = self.programs, [program for stage in stages for program in stage]
        gone = [program for program in before if program not in after]
        new = [program for program in after if program not in before]
        self._stages = [*stages, gone]
        for program in gone:  # first, for what is new may get its port
            await program.stop(self._grace)
        for program in new:
            self._screen.introduce(program.name)
            program.was_ready = True  # it does not start: a reason to say so, and none to end all others
            program.start()
        back = dict(zip(new, await asyncio.gather(*map(self._is_back, new)), strict=True))
        for program in after:
            if program in again:
                await program.again(self._grace)
                back[program] = await self._is_back(program)
        self._stages = stages
        return [program.name for program in after if not back.get(program, True)]

    async def _is_back(self, program: Program) -> bool:
        """True once it is ready; False where it has died first, or takes long and we are told to go over to another."""
        loop = asyncio.get_running_loop()
        patient = loop.time() + PATIENCE
        while program.status != "starting again" and (loop.time() < patient or not self._hangup.is_set()):
            if await program.ready():
                return True
            await asyncio.sleep(0.1)
        return False

    def blame(self, programs: Sequence[Program]) -> None:
        """Raises ConfigurationError with the last words of one that starting again cannot help."""
        for program in programs:
            if program.hopeless.is_set() and not self._stop.is_set():
                raise ConfigurationError(f"{program.name} does not start: {program.last_words.removeprefix('cauce: ')}")

    async def until_ready(self, programs: Sequence[Program]) -> bool:
        """False where one never will be, or where we are told to stop."""
        loop, waiting = asyncio.get_running_loop(), list(programs)
        start = said = loop.time()
        ends = [asyncio.create_task(self._stop.wait()), *_hopeless(programs)]
        try:
            while waiting:
                ready = await asyncio.gather(*(program.ready() for program in waiting))
                waiting = [program for program, good in zip(waiting, ready, strict=True) if not good]
                states = "  ".join(f"{program.name}: {program.status}" for program in programs)
                self._screen.progress(f"{states}  ({loop.time() - start:.0f} s)" if waiting else "")
                if waiting and not self._screen.terminal and loop.time() - said > 10:
                    said = loop.time()
                    _log.info("pipeline.starting", waiting_for=[program.name for program in waiting])
                done, _ = await asyncio.wait(ends, timeout=0.1 if waiting else 0, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    return False
            return True
        finally:
            self._screen.progress("")
            for end in ends:
                end.cancel()

    async def _shut_down(self, stages: Sequence[Sequence[Program]]) -> None:
        for stage in stages:
            _log.info("pipeline.stopping", processes=[program.name for program in stage])
            hurry = asyncio.create_task(self._hurry([program for each in stages for program in each]))
            await asyncio.gather(*(program.stop(self._grace) for program in stage))
            hurry.cancel()

    async def _hurry(self, programs: Sequence[Program]) -> None:
        await self._now.wait()
        for program in programs:
            program.signal(signal.SIGKILL)

    def _listen_for_signals(self) -> None:
        def on_signal() -> None:
            if self._stop.is_set():
                self._now.set()
            else:
                self._screen.progress("")
                _log.info("pipeline.draining", hint="once more to stop at once")
            self._stop.set()

        def on_hangup() -> None:
            # The kernel sends it too, when the terminal that we were started in is closed.
            if all(map(os.isatty, self._terminals)):
                self._hangup.set()
            else:
                on_signal()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        loop.add_signal_handler(signal.SIGHUP, on_hangup)


async def agree(topology: Topology, settings: Settings, url: str) -> None:
    """
    Look at Redis before anybody is started: what is wrong with it is said once then, and not by each.

    Raises:
        ConfigurationError: it holds another layout, or what a group has taken from another stream.
        Unavailable: it cannot be reached.
    """
    stores = Stores.open(url, namespace=settings.namespace, shards=topology.shards, patience=3)
    try:
        await layout.agree(stores)
        await groups.refuse_moved(stores, topology, topology.groups)
    finally:
        await stores.close()


def named(name: str, count: int) -> list[str]:
    """What so many processes of one kind are called: `egress`, or `egress.1`, `egress.2`, …"""
    return [name] if count == 1 else [f"{name}.{number}" for number in range(1, count + 1)]


def _hopeless(programs: Sequence[Program]) -> list[asyncio.Task[bool]]:
    return [asyncio.create_task(program.hopeless.wait()) for program in programs]


async def _ready(path: Path) -> bool:
    """Whether the process that serves on this unix socket says so."""
    connector = aiohttp.UnixConnector(str(path))
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=2)) as session,
            session.get("http://process/health/ready") as answer,
        ):
            return answer.status == 200
    except (aiohttp.ClientError, OSError, TimeoutError):
        return False
