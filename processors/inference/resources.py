"""
What the reply handler works with, opened once for a worker: the engine, the settings, the actions.

Knows how to open and close it.  A test passes its own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import tzinfo
from functools import cached_property
from typing import Any, Protocol

from processors.inference import examples, prompt
from processors.inference.actions import Detector
from processors.inference.answers import Answers
from processors.inference.echo import Echo
from processors.inference.generation import Engine, open_engine
from processors.inference.tools import Tools
from streams import log as logs
from streams import tables
from streams.settings import Settings
from streams.topology import Topology

log = logs.get("inference")


class Archive(Protocol):
    """What is asked of an archive."""

    async def before(self, person: str, at_ms: int, most: int) -> list[dict[str, Any]]:
        """What was last said before that moment, oldest first; at once, or nothing."""

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Resources:
    """Everything with a default, so that a test names only what it is about."""

    engine: Engine = field(default_factory=Echo)
    topology: Topology = field(default_factory=Topology)
    settings: Settings = field(default_factory=Settings)
    rules: Callable[[], str] = str
    """The system prompt: who the model is, and what it must not say."""
    answers: Answers | None = None
    """None: none are kept."""
    archive: Archive | None = None
    """Where what was said before is read; None: nowhere."""
    outbound: str = "outbound"
    """The stream that replies are appended to."""

    @cached_property
    def zone(self) -> tzinfo | None:
        """Where the clinic's clock stands; None is this machine's."""
        return self.settings.zone

    @property
    def texts(self) -> tables.Texts:
        return self.topology.texts

    @cached_property
    def detector(self) -> Detector:
        learnt = examples.of(self.topology)
        return Detector.of(self.topology.actions, self.topology.vocabulary, learnt)

    @cached_property
    def tools(self) -> Tools:
        """The actions that are offered to the model."""
        return Tools(self.topology.actions if self.topology.inference.tools else ())

    def describe(self) -> dict[str, Any]:
        return self.engine.describe()

    def ready(self) -> bool:
        return self.engine.ready()

    def capacity(self) -> int | None:
        """
        Turns that are worth having at once, where the engine has slots: another worker may have one for the rest.

        A few more than there are slots, so that one that is freed is filled in the next step.
        """
        slots = self.engine.describe().get("slots")
        return slots + max(1, slots // 4) if slots else None

    def forget(self) -> None:
        """Somebody was erased: keep nothing of any conversation."""
        self.engine.forget()

    async def failed(self) -> None:
        await self.engine.failed()


@asynccontextmanager
async def opened(group: tables.Group, topology: Topology, settings: Settings, stores: Any) -> AsyncIterator[Resources]:
    """
    The handler's lifespan.

    Raises:
        ConfigurationError: MODEL, MODEL_URL or SYSTEM_PROMPT_FILE name what is not there, or a pattern is none.
    """
    prompt_file = prompt.PromptFile(settings.system_prompt_file)
    if settings.timezone is None and time.tzname[0] == "UTC":
        log.warning("timezone.utc", why="TIMEZONE is unset and this machine's is UTC: relative dates may be a day off")
    engine = await asyncio.to_thread(open_engine, settings, topology.inference)
    archive: Archive | None = None
    try:
        archive = await _archive(topology, settings)
        here = Resources(
            engine=engine,
            topology=topology,
            settings=settings,
            rules=prompt_file.text,
            answers=_answers(stores, topology, settings),
            archive=archive,
            outbound=group.writes[0] if group.writes else "outbound",
        )
        # A pattern that is none is to be said now, not with the first message; and to learn takes a second.
        await asyncio.to_thread(lambda: here.detector)
        if here.tools.offered and engine.describe().get("tools") is False:
            log.warning("tools.none", why="the chat template of this model knows no tools; patterns alone find actions")
        log.info("service.ready", model=settings.model)
        yield here
    finally:
        await engine.close()
        if archive is not None:
            await archive.close()


async def _archive(topology: Topology, settings: Settings) -> Archive | None:
    if not topology.history.from_archive:
        return None
    from processors.archive.past import Past  # whoever has no archive loads no database

    archive = Past(settings)
    await archive.reach()
    return archive


def _answers(stores: Any, topology: Topology, settings: Settings) -> Answers | None:
    """A reply also depends on the actions that its model might have called instead."""
    if not topology.inference.answers:
        return None
    described = [action for action in topology.actions if action.description]
    return Answers(stores, topology.inference.answers, settings.model, topology.inference, described)
