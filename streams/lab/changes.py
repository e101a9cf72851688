"""
A configuration that is tried before it is deployed: streams.toml and the settings, with what a command line changes.

Knows how a change is written.  Whether it can be is topology.py's to say, as for the file itself.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from streams import topology
from streams.effects import Handler
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Group
from streams.topology import Topology

History = Literal["replayed", "original", "rerun"]
"""
What a turn finds said before it: what the replay said in the range; what was said then; or what the handler makes of
all that came before the range as well.
"""


_WINDOW = ("debounce", "debounce_max", "turn_max", "turn_max_chars")
"""Of a group: which messages become one turn.  Those of the past have become one already."""

_HEEDED = ("handler", "writes", "order", "batch", "attempts", "deadline", "concurrency")
"""Of a group: what a replay goes by itself."""


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be tried."""

    sets: Sequence[str] = ()
    """`inference.temperature=0`: a key of streams.toml and its value, as TOML has it."""
    model: str | None = None
    prompt: str | None = None
    handler: str | None = None

    def __bool__(self) -> bool:
        return bool(self.sets or self.model or self.prompt or self.handler)

    def words(self) -> list[str]:
        """As they would be typed."""
        named = {"model": self.model, "prompt": self.prompt, "handler": self.handler}
        return [f"--set {each}" for each in self.sets] + [f"--{name} {value}" for name, value in named.items() if value]

    def check(self, group: Group, handler: Handler) -> None:
        """Raises ConfigurationError: nobody would notice a change in a replay through this handler."""
        for each in self.sets:
            table, _, key = _path(each).rpartition(".")
            if table == f"groups.{group.name}" and key in _WINDOW:
                raise ConfigurationError(
                    f"--set {each!r} would try nothing: which messages were one turn stays as it was"
                )
        if handler.lifespan is not None:
            return  # it is told all of them
        heeded = [f"groups.{group.name}.{key}" for key in _HEEDED]
        for change in self.words():
            if not change.startswith("--handler ") and _path(change.removeprefix("--set ")) not in heeded:
                raise ConfigurationError(
                    f"{change} would try nothing: {group.handler} has no `lifespan`, by which a handler is told the "
                    "settings; leave it out, or name another handler"
                )

    def of_file(self, path: Path, group: str) -> Topology:
        """
        streams.toml with these changes.

        Raises:
            ConfigurationError: a change cannot be read, or what it makes is not accepted.
        """
        plain = topology.read(path)
        for each in self.sets:
            _set(plain, each)
        if self.handler is not None:
            plain.setdefault("groups", {}).setdefault(group, {})["handler"] = self.handler
        return topology.parse(plain, path)

    def of_settings(self, settings: Settings) -> Settings:
        """Raises ConfigurationError: there is no such prompt."""
        prompt = Path(self.prompt).expanduser() if self.prompt else settings.system_prompt_file
        if self.prompt and prompt and not prompt.is_file():
            raise ConfigurationError(f"--prompt {self.prompt!r}: no such file; name a UTF-8 text file")
        return replace(settings, model=self.model or settings.model, system_prompt_file=prompt)


def first_that_writes(topology: Topology) -> Group:
    """The group that is meant where none is named.  Raises ConfigurationError: none writes anything."""
    group = next((group for group in topology.groups.values() if group.writes), None)
    if group is None:
        raise ConfigurationError(f"{topology.path.name}: no group writes anything; name the one that is meant")
    return group


def _path(change: str) -> str:
    return change.partition("=")[0].strip()


def _set(plain: dict[str, Any], change: str) -> None:
    _, equals, text = change.partition("=")
    *tables, key = _path(change).split(".")
    if not equals or not key or not all(tables):
        raise ConfigurationError(f"--set {change!r} is no change; write inference.temperature=0")
    table: Any = plain
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigurationError(f"--set {change!r}: {name!r} is no table with names in it")
    table[key] = _value(text.strip())


def _value(text: str) -> Any:
    """As TOML reads it; a bare word is text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
