"""
`cauce reload`: how a running `cauce up` is found, told to read its configuration again, and asked what came of it.

Knows one file in DATA_DIR, and what of the configuration concerns whom.  Who is started and stopped is supervisor.py's.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import msgspec

from processors.inference import examples
from streams import log
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Egress, Group
from streams.topology import Topology

FIXED = (
    "redis_url", "namespace", "data_dir", "ingress_host", "ingress_port", "ingress_workers", "worker_port",
    "log_format", "shutdown_grace",
)  # fmt: skip
"""Settings that `cauce up` has acted on already."""

_FILE = "up.lock"
_log = log.get("reload")


class Outcome(msgspec.Struct, omit_defaults=True):
    """What came of reading the configuration again."""

    refused: str = ""
    """Why nothing was changed."""
    started: list[str] = []
    restarted: list[str] = []
    stopped: list[str] = []
    gone: list[str] = []
    """Groups that streams.toml has no longer."""
    failed: list[str] = []
    """Those, of the started and restarted, that are not ready: they are started again and again."""


class _Note(msgspec.Struct):
    pid: int
    outcomes: int = 0
    """So far."""
    under_way: bool = False
    """It reads its configuration; who asks now is answered with the outcome after next."""
    last: Outcome = msgspec.field(default_factory=Outcome)


class Notice:
    """What a `cauce up` tells of itself in its DATA_DIR, held as long as it lives."""

    def __init__(self, file: IO[str] | None) -> None:
        self._file = file
        self._note = _Note(os.getpid())

    @classmethod
    @contextlib.contextmanager
    def posted(cls, data_dir: Path) -> Iterator[Notice]:
        """Where another has posted one, or nobody can, `cauce reload` finds nothing; SIGHUP works all the same."""
        file = None
        try:
            data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = (data_dir / _FILE).open("a+", encoding="utf-8")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            _log.debug("reload.unannounced", why=str(error))
            if file:
                file.close()
            file = None
        notice = cls(file)
        try:
            notice._write()
            yield notice
        finally:
            if file:
                file.truncate(0)
                file.close()

    def begin(self) -> None:
        self._note.under_way = True
        self._write()

    def tell(self, outcome: Outcome) -> None:
        self._note = _Note(self._note.pid, self._note.outcomes + 1, last=outcome)
        self._write()

    def _write(self) -> None:
        if self._file:
            self._file.truncate(0)
            self._file.write(msgspec.json.encode(self._note).decode())
            self._file.flush()


def _read(data_dir: Path) -> _Note | None:
    """What stands there; None where nobody holds it."""
    with contextlib.suppress(OSError, msgspec.DecodeError), (data_dir / _FILE).open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return msgspec.json.decode(file.read(), type=_Note)
    return None


def ask(data_dir: Path) -> Outcome:
    """
    Have the `cauce up` of this folder read its configuration again; returns when it has.

    Raises:
        ConfigurationError: there is none, it is somebody else's, or it ended meanwhile.
    """
    before = _read(data_dir)
    if before is None:
        raise ConfigurationError(
            f"no `cauce up` is running in {data_dir}; `cauce work` and `cauce ingress` alone take SIGHUP (kill -HUP …)"
        )
    try:
        os.kill(before.pid, signal.SIGHUP)
    except PermissionError:
        raise ConfigurationError(
            f"the `cauce up` with pid {before.pid} is another user's; reload it as that user"
        ) from None
    wanted = before.outcomes + (2 if before.under_way else 1)
    while (now := _read(data_dir)) is None or now.outcomes < wanted:
        if now is None and not _there(before.pid):
            raise ConfigurationError(f"the `cauce up` with pid {before.pid} has ended")
        time.sleep(0.1)
    return now.last


def _there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def run(data_dir: Path) -> int:
    """Ask, and print what came of it; the exit status: 1 where a process does not start.  Raises ConfigurationError."""
    outcome = ask(data_dir)
    if outcome.refused:
        raise ConfigurationError(f"{outcome.refused}; nothing was changed")
    for what in ("started", "restarted", "stopped"):
        if names := getattr(outcome, what):
            sys.stdout.write(f"{what}: {', '.join(names)}\n")
    if not (outcome.started or outcome.restarted or outcome.stopped):
        sys.stdout.write("nothing to start again: no process's part of the configuration has changed\n")
    if outcome.gone:
        sys.stdout.write(f"`cauce group list` shows what Redis still keeps for {', '.join(outcome.gone)}\n")
    if outcome.failed:
        why = "its log says why; it is tried again and again until it starts, or until the next reload"
        sys.stderr.write(f"not ready: {', '.join(outcome.failed)}: {why}\n")
    return 1 if outcome.failed else 0


Parts = dict[str, Any]


def parts(topology: Topology, settings: Settings) -> Parts:
    """What of all this concerns the ingress, and each group; with its code, where that lies beside streams.toml."""
    whole: Parts = {"streams": topology.streams, "ingress": (settings, topology)}
    for name, group in topology.groups.items():
        sections = {"groups": {name: group}, "streams": {}}
        answers = topology.answering(group.reads) is group
        theirs = msgspec.structs.replace(topology, **sections, **_unread(group))
        beside = _code(group, topology.path.resolve().parent), _examples(group, topology)
        whole[f"work {name}"] = (settings, theirs, answers, *beside)
    return whole


def concerned(before: Parts, after: Parts) -> set[str]:
    """Of which parts the processes are to be started anew.  A stream that is changed is everybody's: all trim it."""
    streams = after["streams"]
    if any(streams.get(name) != table for name, table in before["streams"].items()):
        return set(after)
    return {part for part, content in after.items() if before.get(part) != content}


_PLAIN = Topology()
_REPLIES = ("vocabulary", "actions", "texts", "history", "inference", "handoff", "archive")
"""Sections about what is said, not about how it is delivered."""


def _unread(group: Group) -> dict[str, Any]:
    """Sections that our own handlers do not read, so that a model is not loaded again for another's sake."""
    if group.handler.startswith("processors.inference."):
        return {"egress": Egress()}
    if group.handler.startswith("processors.egress."):
        return {name: getattr(_PLAIN, name) for name in _REPLIES}
    return {}


def _code(group: Group, folder: Path) -> str:
    """A digest of the handler's module, and of all that it imports, as far as they lie beside streams.toml."""
    digest, modules = hashlib.blake2b(), [group.handler.partition(":")[0]]
    for module in modules:
        bare = folder.joinpath(*module.split("."))
        for path in (bare.with_suffix(".py"), bare / "__init__.py"):
            if path.is_file():
                source = path.read_bytes()
                digest.update(source)
                modules += [name for name in dict.fromkeys(_imports(source)) if name not in modules]
    return digest.hexdigest()


def _examples(group: Group, topology: Topology) -> list[bytes]:
    """What our own inference learns, as it stands in its files; one that is not there others complain of."""
    if not group.handler.startswith("processors.inference."):
        return []
    return [path.read_bytes() for path in examples.files(topology).values() if path.is_file()]


def _imports(source: bytes) -> Iterator[str]:
    """What a module names, `a`, `a.b`; nothing where it is none, which others complain of."""
    with contextlib.suppress(SyntaxError, ValueError):
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def moved(before: Topology, after: Topology) -> str:
    """Why this configuration cannot take the place of the other while messages lie where that has put them; or ""."""
    if before.shards != after.shards:
        return f"shards has changed from {before.shards} to {after.shards}, which is for `cauce reshard`"
    for name, group in after.groups.items():
        if (was := before.groups.get(name)) and was.reads != group.reads:
            return (
                f"groups.{name}.reads has changed from {was.reads!r} to {group.reads!r}, and what it has taken lies in "
                f"{was.reads!r}: give the new one another name, or take this one away first, from the file and then "
                f"with `cauce group drop {was.reads} {name}`"
            )
    return ""


def fixed(before: Settings, after: Settings) -> str:
    """Why these settings cannot take the place of the others; "" where they can."""
    changed = [name.upper() for name in FIXED if getattr(before, name) != getattr(after, name)]
    return f"{', '.join(changed)} has changed, for which `cauce up` has to be stopped and started" if changed else ""
