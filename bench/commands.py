"""
What a system asks of Redis while it drains, and how long Redis is at it.

INFO commandstats counts what a script calls like what a client sends, and the time of it twice: under its name, and
within the script's.  MONITOR tells them apart (`[0 lua]`), but slows down what it watches.  So who calls is looked at
with MONITOR on a stage of its own, and the time is taken from commandstats of the measured drain: that of scripts
whole, of any other command the share that clients sent of it.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.ground import Server
from bench.stage import staged
from bench.systems import System

SAMPLE, USERS = 2_000, 1_000
"""Messages that are watched, and who says them."""

SCRIPTS = frozenset({"eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro"})
OUR_OWN = frozenset({"config", "info", "monitor"})
"""What the measurement itself asks."""

_LINE = re.compile(rb'\d+\.\d+ \[\d+ (\S+?)\] "([^"]+)"')


@dataclass(frozen=True)
class Asked:
    """Calls by command: `xgroup`, whatever stands behind it."""

    messages: int
    by_clients: Counter[str] = field(default_factory=Counter)
    by_scripts: Counter[str] = field(default_factory=Counter)

    @property
    def calls(self) -> float:
        """By clients, for a message."""
        return self.by_clients.total() / self.messages

    def share(self, command: str) -> float:
        """How much of a command's calls clients sent; all of one that was not seen."""
        sent, called = self.by_clients[command], self.by_scripts[command]
        return sent / (sent + called) if sent or called else 1.0


def read(lines: Iterable[bytes], messages: int) -> Asked:
    """What MONITOR has said while so many messages were drained."""
    asked = Asked(messages)
    for line in lines:
        found = _LINE.match(line)
        if found and (command := found[2].decode().lower()) not in OUR_OWN:
            (asked.by_scripts if found[1] == b"lua" else asked.by_clients)[command] += 1
    return asked


def microseconds(stats: dict[str, str], asked: Asked) -> float:
    """
    How long Redis was at what clients sent.

    Args:
        stats: INFO commandstats, of one drain.
    """
    total = 0.0
    for name, told in stats.items():
        command = name.removeprefix("cmdstat_").partition("|")[0]
        used = float(dict(pair.split("=") for pair in told.split(","))["usec"])
        if command in SCRIPTS:
            total += used
        elif command not in OUR_OWN:
            total += used * asked.share(command)
    return total


async def watched(system: System) -> Asked:
    """A drain under MONITOR, from the workers' start to the last reply."""
    async with staged(system) as stage:
        await stage.say(SAMPLE, USERS)
        file = stage.folder / "monitor"
        with _monitored(stage.ground.servers[0], file):
            stage.start(*stage.system.workers)
            await stage.arrived(SAMPLE)
        with file.open("rb") as lines:
            return read(lines, SAMPLE)


@contextmanager
def _monitored(server: Server, file: Path) -> Iterator[None]:
    with file.open("wb") as out:
        watching = subprocess.Popen(["redis-cli", "-p", str(server.port), "MONITOR"], stdout=out)
    try:
        while not file.stat().st_size:  # it says OK first
            time.sleep(0.01)
        yield
    finally:
        watching.kill()
        watching.wait()
