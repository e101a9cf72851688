"""
`cauce replay` from its options to its exit status: a run found or begun, gathered, planned, replayed, reported.

Knows the order of these, and what makes two command lines the same run.  What each of them is stands in a module of its
own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from streams import handlers
from streams.commands import entry, report
from streams.commands.entry import Place
from streams.commands.report import Facts, Form
from streams.commands.steps import Steps
from streams.connection import order
from streams.effects import Handler
from streams.errors import ConfigurationError
from streams.lab import gathering, logbook, planning, runs, sandbox
from streams.lab.changes import Changes, History, first_that_writes
from streams.lab.gathering import Gathering, Range
from streams.lab.logbook import File
from streams.lab.replay import Replay
from streams.lab.runs import Run
from streams.lab.sandbox import Sandbox
from streams.moments import edge, fixed, local
from streams.tables import Group

FOLDER = "replays"
"""Of DATA_DIR."""

_OF_A_CONVERSATION = {"conversation", "conversation_meta", "paused"}


class Asked(msgspec.Struct, kw_only=True, frozen=True):
    """What is to be replayed, and how: what a run remembers of its command line."""

    group: str | None = None
    since: str | None = None
    until: str | None = None
    people: tuple[str, ...] = ()
    dead: bool = False
    file: str | None = None
    changes: Changes = Changes()
    history: History = "replayed"
    speed: float | None = None


def _digest(parts: list[Any]) -> str:
    return hashlib.blake2b(msgspec.json.encode(parts, enc_hook=str), digest_size=5).hexdigest()


class Lab:
    """A command line, understood."""

    def __init__(self, place: Place, asked: Asked, *, into: str | None = None) -> None:
        """
        Args:
            into: the stream to which it is to be appended; None: nothing is.

        Raises:
            ConfigurationError: something of it is not there, or wrong.
        """
        self.asked, self.into = asked, into
        settings = place.settings
        was = place.topology.debounced(settings.debounce)
        self.file = File(Path(asked.file)) if asked.file else None
        name = asked.group or (self.file and self.file.head.group)
        self.group_then = was.group(name) if name else first_that_writes(was)
        """As it was: its windows made the turns."""
        self.topology = asked.changes.of_file(place.config, self.group_then.name).debounced(settings.debounce)
        self.settings = asked.changes.of_settings(settings)
        self.group = self.topology.group(self.group_then.name)
        self.handler = handlers.find(self.group, self.topology)
        self.folder = settings.data_dir / FOLDER
        self._place = place

    @property
    def name(self) -> str:
        """The same for the same question, so that asking it again goes on where it was cut off."""
        settings = self.settings
        redis = settings.redis_url.reveal() if settings.redis_url else ""
        if self.into is not None:
            # No handler, window or model has a part in what is appended, so a change of them makes no other run of it.
            chosen = replace(self.asked, group=None)
            parts: list[Any] = [
                chosen, self.into, self.group.name, self.group.reads, self.file.head.name if self.file else "", redis,
                settings.namespace, settings.timezone,
            ]  # fmt: skip
            return _digest(parts)
        prompt = settings.system_prompt_file
        said = prompt.read_bytes() if prompt and prompt.is_file() else b""
        parts = [
            self.asked, self.file.head.name if self.file else "", replace(self.topology, path=Path()), said,
            redis, settings.namespace, settings.model, settings.model_url, settings.timezone,
            settings.session_expire_time,
        ]  # fmt: skip
        return _digest(parts)

    def same_always(self, run: Run) -> bool:
        """Whether this question means the same entries whenever it is asked: its range ends are fixed, and past."""
        edges = (self.asked.since, self.asked.until)
        if self.asked.dead or any(not fixed(edge) if edge else self.file is None for edge in edges):
            return False
        return self.file is not None or order(self.range_of(run).last)[0] < run.told("planned") * 1000

    @property
    def silence_ms(self) -> int | None:
        """How far before the range something may matter; None: all that there is."""
        if self.asked.history == "rerun":
            return None
        patience = gathering.patience_ms(self.group_then)
        if self.handler.retell is None:
            return patience
        lasting = set(self.handler.recall) - _OF_A_CONVERSATION
        return None if lasting else patience + self.settings.session_expire_time * 1000

    @property
    def missing(self) -> list[str]:
        """Kinds of state that nobody can rebuild."""
        rebuilt = self.handler.retell is not None or self.asked.history == "rerun"
        return [] if rebuilt else list(self.handler.recall)

    async def gather(self, run: Run, steps: Steps) -> None:
        with steps.counting("reading the log") as step:
            if self.file is not None:
                asked = self._range(time.time())
                run.tell("range", asked)
                Gathering(run, self.group, asked, silence_ms=self.silence_ms, step=step).from_file(self.file)
            else:
                async with entry.opened(self._place, self.topology) as stores:
                    seconds, micros = await stores.first.command("TIME")
                    asked = self._range(int(seconds) + int(micros) / 1e6)
                    run.tell("range", asked)
                    whole = Gathering(run, self.group, asked, silence_ms=self.silence_ms, step=step)
                    await whole.from_redis(logbook.shards(stores), alone=self.into is not None)
        if self.into is not None:
            run.tell("planned", time.time())
            return
        told = self.handler.retell is not None or self.asked.history == "rerun"
        with steps.counting("finding the turns"):
            planning.plan(run, self.group_then, asked, told=told)
        run.tell("planned", time.time())

    def _range(self, now: float) -> Range:
        first, last = ("start" if self.asked.dead else "24h"), "now"
        if self.file is not None:
            first, last = self.file.head.first, self.file.head.last
        zone = self.settings.zone
        asked = Range(
            first=edge("--from", self.asked.since or first, now, zone),
            last=edge("--to", self.asked.until or last, now, zone),
            people=frozenset(entry.person("--user", each, self.topology) for each in self.asked.people),
            dead=self.asked.dead,
        )
        if asked.backwards:
            told = f"--from {self.asked.since or first} lies behind --to {self.asked.until or last}"
            raise ConfigurationError(f"{told}, so there is nothing between them")
        return asked

    def range_of(self, run: Run) -> Range:
        """As it was found when the run began."""
        return msgspec.convert(run.told("range"), Range)

    def facts(self, run: Run) -> Facts:
        asked = self.range_of(run)
        return Facts(
            run=run.name,
            group=self.group.name,
            first=asked.first,
            last=asked.last,
            changes=self.asked.changes.words(),
            history=self.asked.history,
            cut=run.told("cut")["people"],
            missing=self.missing,
            dead=self.asked.dead,
            waiting=run.waiting(),
            limited=run.told("limited") or 0,
            redriven=run.told("redriven") or 0,
        )

    async def go(self, run: Run, steps: Steps) -> None:
        """Replay what is not done yet."""
        counts = run.counts()
        if counts["turns"] == counts["done"]:
            run.tell("ended", run.told("ended") or time.time())
            return
        async with contextlib.AsyncExitStack() as stack:
            resources = None
            if self.handler.lifespan is not None:
                with steps.counting(f"opening {self.group.handler}"):
                    resources = await stack.enter_async_context(
                        self.handler.lifespan(
                            self.group, self.topology, self.settings, sandbox.no_stores(self.topology.shards)
                        )
                    )
            of = Sandbox(self.group, self.handler, resources, self.topology.shards)
            with steps.measured("replaying", total=counts["turns"], done=counts["done"]) as step:
                replay = Replay(
                    run, of, history=self.asked.history, speed=self.asked.speed, step=lambda turn: step(1)
                )  # fmt: skip
                await replay.go()
        run.tell("ended", time.time())


def _refuse_what_acts_outside(handler: Handler, group: Group) -> None:
    if handler.outside:
        raise ConfigurationError(
            f"group {group.name} is not for replaying: its handler {group.handler} acts outside Redis, and would do so "
            "again; name another group, or with --handler one that only returns effects"
        )


def _refuse_what_nobody_can_tell(lab: Lab) -> None:
    """Of each turn it would be that it found nothing, and what came out would say nothing about the change."""
    if lab.asked.history == "original" and lab.missing:
        raise ConfigurationError(
            f"--history original: nobody knows what {lab.group.handler} found of its {', '.join(lab.missing)} then, as "
            "it has no `retell`; leave it out, or --history rerun"
        )


def check(asked: Asked, *, into: str | None, resume: str | None) -> None:
    """Raises ConfigurationError: something of it would not be heeded."""
    if into and asked.changes:
        raise ConfigurationError(f"--into replays nothing, so leave {asked.changes.words()[0].partition(' ')[0]} out")
    if resume and asked != Asked():
        raise ConfigurationError("--resume goes on with what the run was asked; leave out what chooses or changes it")


def of_run(place: Place, name: str) -> Asked:
    """What a run was asked.  Raises ConfigurationError: there is no such run."""
    folder = place.settings.data_dir / FOLDER
    if not (folder / f"{name}.db").is_file():
        there = ", ".join(sorted(path.stem for path in folder.glob("*.db"))) or "none"
        raise ConfigurationError(f"--resume {name!r}: there is no such run in {folder}; there are: {there}")
    run = Run(folder, name)
    try:
        asked: Asked = msgspec.convert(run.told("asked"), Asked)
    except msgspec.ValidationError as error:
        raise ConfigurationError(f"--resume {name!r}: it has not begun, or is of another release") from error
    finally:
        run.close()
    return asked


def _gathered(run: Run) -> bool:
    """Whether all is there that it can go on with."""
    return all(run.told(each) is not None for each in ("range", "cut", "planned"))


async def replay(place: Place, asked: Asked, form: Form, *, resume: str | None = None, anew: bool = False) -> int:
    """
    Returns:
        the exit status: as `report.show`.

    Raises:
        ConfigurationError, Unavailable.
    """
    lab, steps = Lab(place, asked), Steps()
    _refuse_what_acts_outside(lab.handler, lab.group)
    asked.changes.check(lab.group, lab.handler)
    _refuse_what_nobody_can_tell(lab)
    runs.forget_old(lab.folder)
    run = Run(lab.folder, resume or lab.name)
    try:
        if anew or not _gathered(run) or (run.told("ended") and not resume):
            run.begin_anew()
            run.tell("asked", asked)
            await lab.gather(run, steps)
        elif not run.told("ended"):
            counts, since = run.counts(), f"{local(run.told('planned') * 1000, place.settings.zone):%d.%m. %H:%M}"
            done = f"{counts['replayed']:,} of {counts['chosen']:,} turns are done"
            steps.say(f"run {run.name} of {since} goes on: {done} (--anew begins again)")
        await lab.go(run, steps)
        return report.show(run, lab.facts(run), form)
    except asyncio.CancelledError:
        steps.say(
            f"run {run.name} was cut off; the same command goes on, and so does `cauce replay --resume {run.name}`"
        )
        raise
    finally:
        run.close()
