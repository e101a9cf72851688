"""
`cauce up`: the whole pipeline on one machine, in processes that are watched.

Knows the order things start and stop in: Redis, then everybody; and back along the data's way, so that whoever writes
has stopped before its reader does.  What the processes do is theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import aiohttp
from prometheus_client.multiprocess import mark_process_dead

from streams import embedded, layout, log, probe, welcome
from streams.errors import ConfigurationError
from streams.program import Program
from streams.screen import Screen
from streams.settings import Settings
from streams.stores import Stores
from streams.topology import Topology

EXTRA_GRACE = 10.0
"""Seconds beyond SHUTDOWN_GRACE before a process that does not end is killed."""

_log = log.get("up")


class Pipeline:
    """
    All processes of one `cauce up`.

    Args:
        arguments: options of the command line (`--config …`) that every process gets as well.
    """

    def __init__(self, topology: Topology, settings: Settings, arguments: list[str], screen: Screen) -> None:
        self._topology = topology
        self._settings = settings
        self._arguments = arguments
        self._screen = screen
        self._folder = Path()
        """Sockets and shared metrics of this run."""
        self._redis: Program | None = None
        self._ingress: Program | None = None
        self._workers: list[list[Program]] = []
        """By stage: whoever is in one reads what those before it write."""
        self._stop = asyncio.Event()
        self._now = asyncio.Event()
        self._ports = _ports(settings, len(topology.groups))

    async def run(self) -> None:
        """
        Until a signal.

        Raises:
            ConfigurationError: a port or DATA_DIR is taken, there is no server to start, or a process says that its
                configuration is wrong; all others have been stopped then.
            Unavailable: the Redis of REDIS_URL cannot be reached.
        """
        _check_port(self._settings)
        self._listen_for_signals()
        # In /tmp, because a unix socket's path has to be short.
        with tempfile.TemporaryDirectory(prefix="cauce-", dir="/tmp", ignore_cleanup_errors=True) as folder:
            self._folder = Path(folder)
            (self._folder / "metrics").mkdir()
            await self._run()

    async def _run(self) -> None:
        async with self._with_redis() as url:
            if url is None:
                return
            self._make(url)
            for program in self._programs:
                self._screen.introduce(program.name)
                program.start()
            try:
                await self._watch()
            finally:
                await self._shut_down()

    @property
    def _programs(self) -> list[Program]:
        return [*([self._ingress] if self._ingress else []), *(each for stage in self._workers for each in stage)]

    @contextlib.asynccontextmanager
    async def _with_redis(self) -> AsyncIterator[str | None]:
        """The address of a Redis that answers; None where we were told to stop before it did."""
        if not self._settings.embedded:
            yield await self._foreign()
            return
        holder = embedded.Embedded(self._settings.data_dir)
        try:
            holder.clear()
            self._redis = Program("redis", holder.command, self._screen, _asks(holder), quiet=True, must_start=True)
            self._screen.introduce("redis")
            self._redis.start()
            good = await self._until_ready([self._redis])
            version = ".".join(map(str, holder.binary.version))
            if good:
                _log.info("redis.embedded", version=version, data=str(holder.folder), binary=holder.binary.path)
            self._blame([self._redis])
            yield holder.url if good else None
        finally:
            if self._redis:
                # Never killed while it can still write its file; a minute is for a slow disk.
                await self._redis.stop(60)
            holder.release()

    async def _foreign(self) -> str:
        assert self._settings.redis_url is not None  # noqa: S101 - it is not embedded
        url = self._settings.redis_url.reveal()
        stores = Stores.open(url, namespace=self._settings.namespace, shards=self._topology.shards, patience=3)
        try:
            await layout.agree(stores)
        finally:
            await stores.close()
        return url

    def _make(self, url: str) -> None:
        environ = {
            **os.environ,
            "REDIS_URL": url,
            "INGRESS_PORT": str(self._ports[0]),
            "PYTHONUNBUFFERED": "1",
            "PROMETHEUS_MULTIPROC_DIR": str(self._folder / "metrics"),
            log.KEY_VARIABLE: secrets.token_hex(16),
        }
        environ.pop("WORKER_PORT", None)
        # -P: the folder we are started in must not stand before our own packages.
        cauce = [sys.executable, "-P", "-m", "streams.cli", *self._arguments]
        address = welcome.address(self._settings, self._ports[0])
        self._ingress = Program(
            "ingress", [*cauce, "ingress"], self._screen, _answers(f"{address}/health/ready"), environ=environ,
            died=self._forget,
        )  # fmt: skip
        number = 0
        for stage in stages(self._topology):
            programs = []
            for group in stage:
                number += 1
                path = self._folder / f"{number}.sock"
                own = {**environ, probe.SOCKET: str(path), "WORKER_PORT": str(self._ports[number])}
                command = [*cauce, "work", group]
                check = _answers("http://worker/health/ready", path)
                programs.append(Program(group, command, self._screen, check, environ=own, died=self._forget))
            self._workers.append(programs)

    def _forget(self, pid: int) -> None:
        """Take a dead process's gauges out of what /metrics adds up."""
        mark_process_dead(pid, str(self._folder / "metrics"))  # type: ignore[no-untyped-call]

    async def _watch(self) -> None:
        if await self._until_ready(self._programs):
            self._screen.progress("")
            _log.info("pipeline.ready", url=welcome.address(self._settings, self._ports[0]))
            if self._settings.log_format == "console":
                self._screen.write(welcome.text(self._settings, self._ports[0], self._screen.bold))
            ends = [asyncio.create_task(self._stop.wait()), *self._hopeless(self._programs)]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            for end in ends:
                end.cancel()
        self._blame(self._programs)

    def _blame(self, programs: list[Program]) -> None:
        """Raises ConfigurationError with the last words of one that starting again cannot help."""
        for program in programs:
            if program.hopeless.is_set() and not self._stop.is_set():
                raise ConfigurationError(f"{program.name} does not start: {program.last_words.removeprefix('cauce: ')}")

    async def _until_ready(self, programs: list[Program]) -> bool:
        """False where one never will be, or where we are told to stop."""
        loop, waiting = asyncio.get_running_loop(), list(programs)
        start = said = loop.time()
        ends = [asyncio.create_task(self._stop.wait()), *self._hopeless(programs)]
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

    def _hopeless(self, programs: list[Program]) -> list[asyncio.Task[bool]]:
        return [asyncio.create_task(program.hopeless.wait()) for program in programs]

    async def _shut_down(self) -> None:
        """The ingress first, so that nothing new comes in; then each stage, once nobody writes to it any more."""
        grace = self._settings.shutdown_grace + EXTRA_GRACE
        for stage in [[self._ingress] if self._ingress else [], *self._workers]:
            _log.info("pipeline.stopping", processes=[program.name for program in stage])
            hurry = asyncio.create_task(self._hurry())
            await asyncio.gather(*(program.stop(grace) for program in stage))
            hurry.cancel()

    async def _hurry(self) -> None:
        await self._now.wait()
        for program in self._programs:
            program.signal(signal.SIGKILL)

    def _listen_for_signals(self) -> None:
        def on_signal() -> None:
            if self._stop.is_set():
                self._now.set()
            else:
                self._screen.progress("")
                _log.info("pipeline.draining", hint="once more to stop at once")
            self._stop.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, on_signal)


def stages(topology: Topology) -> list[list[str]]:
    """Groups in the data's order: those of a stage read only what earlier stages, or the ingress, write."""
    left, found = dict(topology.groups), list[list[str]]()
    while left:
        written = {stream for group in left.values() for stream in group.writes if stream != group.reads}
        # A circle has no first; whoever is in it stops together.
        first = [name for name, group in left.items() if group.reads not in written] or list(left)
        found.append(first)
        for name in first:
            del left[name]
    return found


def _ports(settings: Settings, workers: int) -> list[int]:
    """The ingress's port, and each worker's: WORKER_PORT and those after it, or 0 for none."""
    port = settings.ingress_port
    if port == 0:
        with socket.socket() as any_port:
            any_port.bind(("127.0.0.1", 0))
            port = any_port.getsockname()[1]
    first = settings.worker_port or 0
    return [port, *(first + number if first else 0 for number in range(workers))]


def _check_port(settings: Settings) -> None:
    host, port = settings.ingress_host, settings.ingress_port
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(address)
    except OSError as error:
        remedy = f"INGRESS_PORT={port + 1}" if port else "another INGRESS_HOST"
        raise ConfigurationError(
            f"environment: nothing can listen on {host}:{port} ({error.strerror or error}); stop what uses it, "
            f"or try {remedy}"
        ) from error


def _asks(holder: embedded.Embedded) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await asyncio.to_thread(embedded.answers, holder.socket)

    return ready


def _answers(url: str, path: Path | None = None) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        connector = aiohttp.UnixConnector(str(path)) if path else aiohttp.TCPConnector()
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=2)) as session,
                session.get(url) as answer,
            ):
                return answer.status == 200
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False

    return ready
