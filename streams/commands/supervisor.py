"""
`cauce up`: the whole pipeline on one machine, in processes that are watched.

Knows the order things start and stop in: Redis, then everybody; and back along the data's way, so that whoever writes
has stopped before its reader does.  What the processes do is theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import msgspec

from ingress import listening, workers
from streams import anew, embedded, log
from streams.commands import entry, welcome
from streams.commands.crew import Crew, agree, named
from streams.commands.program import Program
from streams.commands.reload import Notice, Outcome, concerned, fixed, moved, parts
from streams.commands.screen import Screen
from streams.errors import ConfigurationError, Unavailable
from streams.settings import Settings
from streams.topology import Topology

_log, _reload_log = log.get("up"), log.get("reload")


class Pipeline:
    """
    All processes of one `cauce up`.

    Args:
        place: where topology and settings were read, and are read again.
    """

    def __init__(self, place: entry.Place, topology: Topology, settings: Settings, screen: Screen) -> None:
        self._place = place
        self._topology = topology
        self._settings = settings
        self._screen = screen
        self._parts = parts(topology, settings)
        self._ports: dict[str, int] = {}
        """WORKER_PORT of each process."""
        self._programs: dict[str, Program] = {}
        """Of workers."""

    async def run(self) -> None:
        """
        Until a signal.

        Raises:
            ConfigurationError: a port or DATA_DIR is taken, there is no server to start, or a process says that its
                configuration is wrong; all others have been stopped then.
            Unavailable: the Redis of REDIS_URL cannot be reached.
        """
        listeners = listening.bind(self._settings, self._settings.ingress_workers)
        port = listeners[0].port
        self._give_ports(self._topology, port)
        with (
            Crew.gathered(self._settings, self._place, self._screen) as crew,
            Notice.posted(self._settings.data_dir) as notice,
        ):
            async with self._with_redis(crew) as url:
                if url is not None:
                    ingress = workers.programs(crew, listeners, url)
                    await crew.run(
                        [ingress, *self._workers(crew, url, self._topology)],
                        ready=lambda: self._welcome(port),
                        reload=lambda: self._reload(crew, ingress, url, port, notice),
                        closing=lambda: workers.close(listeners),
                    )

    def _welcome(self, port: int) -> None:
        _log.info("pipeline.ready", url=welcome.address(self._settings, port))
        if self._settings.log_format == "console":
            self._screen.write(welcome.text(self._settings, port, self._screen.bold))

    def _workers(self, crew: Crew, url: str, topology: Topology) -> list[list[Program]]:
        """By stage: whoever is in one reads what those before it write.  Those that there are already stay the same."""
        before, self._programs = self._programs, {}
        for name, group in names(topology).items():
            self._programs[name] = before.get(name) or crew.program(
                name, "work", group, url=url, environ={"WORKER_PORT": str(self._ports[name])}
            )
        groups = names(topology)
        return [[self._programs[name] for name in groups if groups[name] in stage] for stage in stages(topology)]

    def _give_ports(self, topology: Topology, ingress: int) -> None:
        """Each process keeps the port that it has.  Raises ConfigurationError."""
        kept = {name: port for name, port in self._ports.items() if name in names(topology)}
        free = iter(_ports(topology, self._settings, ingress, taken=set(kept.values())))
        self._ports = {name: kept[name] if name in kept else next(free) for name in names(topology)}

    async def _reload(self, crew: Crew, ingress: list[Program], url: str, port: int, notice: Notice) -> None:
        """Go over to the configuration as it is now, where it is one; tell what came of it."""
        notice.begin()
        try:
            topology, settings = await self._read_again(port, url)
            crew.accept()
        except (ConfigurationError, OSError) as error:
            _reload_log.error("reload.refused", why=str(error))
            notice.tell(Outcome(refused=str(error)))
            return
        before, self._parts = self._parts, parts(topology, settings)
        gone = [name for name in self._topology.groups if name not in topology.groups]
        changed = concerned(before, self._parts)
        self._topology, self._settings = topology, settings
        there, stages = crew.programs, [ingress, *self._workers(crew, url, topology)]
        theirs = {program.name for program in ingress if "ingress" in changed}
        theirs |= {name for name, group in names(topology).items() if f"work {group}" in changed}
        again = [program for program in there if program.name in theirs]
        _reload_log.info("reload.begun", restarting=[program.name for program in again])
        failed = await crew.change(stages, again)
        now = crew.programs
        outcome = Outcome(
            started=[program.name for program in now if program not in there],
            restarted=[program.name for program in again],
            stopped=[program.name for program in there if program not in now],
            gone=gone,
            failed=failed,
        )
        _reload_log.info("reload.done", **msgspec.structs.asdict(outcome))
        notice.tell(outcome)

    async def _read_again(self, port: int, url: str) -> tuple[Topology, Settings]:
        """Raises ConfigurationError: it would not start so, or not beside what is running."""
        if why := await anew.refusal([*self._place.arguments, "up"]):
            raise ConfigurationError(why)
        topology, settings = self._place.topology, self._place.settings
        if why := fixed(self._settings, settings) or moved(self._topology, topology):
            raise ConfigurationError(why)
        with contextlib.suppress(Unavailable):  # then nobody can say, and its worker will
            await agree(topology, settings, url)
        self._give_ports(topology, port)
        return topology, settings

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
            if good:
                await agree(self._topology, self._settings, holder.url)
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


def names(topology: Topology) -> dict[str, str]:
    """What the processes of all groups are called, and the group of each, in the order in which they stop."""
    return {
        name: group
        for stage in stages(topology)
        for group in stage
        for name in named(group, topology.group(group).processes)
    }


def _ports(topology: Topology, settings: Settings, ingress: int, taken: Collection[int] = ()) -> list[int]:
    """
    A port for each worker: WORKER_PORT and those after it, or 0 for none.

    Args:
        taken: those that live on have these; there are as many as ever for the others.

    Raises:
        ConfigurationError: they do not fit in beside the ingress's.
    """
    count, first = len(names(topology)), settings.worker_port or 0
    last = first + count - 1
    if first and (last > 65535 or first <= ingress <= last):
        why = "there is no port above 65535" if last > 65535 else f"the ingress has {ingress}"
        raise ConfigurationError(
            f"environment: WORKER_PORT = {first} is the first of {count}, one for each process: {why}; choose another"
        )
    if not first:
        return [0] * count
    return [port for port in range(first, last + 1) if port not in taken]


def _asks(holder: embedded.Embedded) -> Callable[[], Awaitable[bool]]:
    async def ready() -> bool:
        return await asyncio.to_thread(embedded.answers, holder.socket)

    return ready
