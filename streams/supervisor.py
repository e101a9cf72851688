"""
`cauce up`: the whole pipeline on one machine, in processes that are watched.

Knows the order things start and stop in: Redis, then everybody; and back along the data's way, so that whoever writes
has stopped before its reader does.  What the processes do is theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from ingress import listening, workers
from streams import embedded, log, welcome
from streams.crew import Crew, agree, named
from streams.errors import ConfigurationError
from streams.program import Program
from streams.screen import Screen
from streams.settings import Settings
from streams.topology import Topology

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

    async def run(self) -> None:
        """
        Until a signal.

        Raises:
            ConfigurationError: a port or DATA_DIR is taken, there is no server to start, or a process says that its
                configuration is wrong; all others have been stopped then.
            Unavailable: the Redis of REDIS_URL cannot be reached.
        """
        listeners = listening.bind(self._settings, self._settings.ingress_workers)
        ports = _ports(self._topology, self._settings, listeners[0].port)
        with Crew.gathered(self._settings, self._arguments, self._screen) as crew:
            async with self._with_redis(crew) as url:
                if url is not None:
                    await crew.run(
                        [workers.programs(crew, listeners, url), *self._workers(crew, url, ports)],
                        ready=lambda: self._welcome(listeners[0].port),
                        closing=lambda: workers.close(listeners),
                    )

    def _welcome(self, port: int) -> None:
        _log.info("pipeline.ready", url=welcome.address(self._settings, port))
        if self._settings.log_format == "console":
            self._screen.write(welcome.text(self._settings, port, self._screen.bold))

    def _workers(self, crew: Crew, url: str, ports: Sequence[int]) -> list[list[Program]]:
        """By stage: whoever is in one reads what those before it write."""
        left = iter(ports)
        return [
            [
                crew.program(name, "work", group, url=url, environ={"WORKER_PORT": str(next(left))})
                for group in stage
                for name in named(group, self._topology.group(group).processes)
            ]
            for stage in stages(self._topology)
        ]

    @contextlib.asynccontextmanager
    async def _with_redis(self, crew: Crew) -> AsyncIterator[str | None]:
        """The address of a Redis that answers; None where we were told to stop before it did."""
        if not self._settings.embedded:
            assert self._settings.redis_url is not None  # noqa: S101 - it is not embedded
            url = self._settings.redis_url.reveal()
            await agree(self._topology, self._settings, url)
            yield url
            return
        holder = embedded.Embedded(self._settings.data_dir)
        redis: Program | None = None
        try:
            holder.clear()
            redis = Program("redis", holder.command, self._screen, _asks(holder), quiet=True, must_start=True)
            self._screen.introduce("redis")
            redis.start()
            good = await crew.until_ready([redis])
            version = ".".join(map(str, holder.binary.version))
            if good:
                _log.info("redis.embedded", version=version, data=str(holder.folder), binary=holder.binary.path)
            crew.blame([redis])
            yield holder.url if good else None
        finally:
            if redis:
                # Never killed while it can still write its file; a minute is for a slow disk.
                await redis.stop(60)
            holder.release()


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


def _ports(topology: Topology, settings: Settings, ingress: int) -> list[int]:
    """
    Each worker's port: WORKER_PORT and those after it, or 0 for none.

    Raises:
        ConfigurationError: they do not fit in beside the ingress's.
    """
    count, first = sum(group.processes for group in topology.groups.values()), settings.worker_port or 0
    last = first + count - 1
    if first and (last > 65535 or first <= ingress <= last):
        why = "there is no port above 65535" if last > 65535 else f"the ingress has {ingress}"
        raise ConfigurationError(
            f"environment: WORKER_PORT = {first} is the first of {count}, one for each process: {why}; choose another"
        )
    return [first + number if first else 0 for number in range(count)]


def _asks(holder: embedded.Embedded) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await asyncio.to_thread(embedded.answers, holder.socket)

    return ready
