"""
What Redis executes for a message: its instructions, counted by Valgrind's callgrind, the same on a busy machine.

    python -m bench.instructions                     accepted, answered and delivered, one after the other
    python -m bench.instructions inference --lines 40
    python -m bench.instructions quiet               the whole path, where each call has one message
    python -m bench.instructions quiet --system plain

A second on the clock says little of a change of a twentieth; this says it within a hundredth.  It knows no cache and
no kernel, so what it finds is to be seen in `make bench` as well.  Functions have names where the server has symbols:
Debian's has none, one built with `make CFLAGS=-g` has, and comes first on the PATH.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from bench.ground import Server, until
from bench.stage import Stage, staged
from bench.systems import OURS, System, chosen

ROLES = ("ingress", "inference", "egress")
QUIET = "quiet"
MESSAGES, USERS = 6_000, 1_000
QUIET_MESSAGES, QUIET_USERS = 200, 50
RATE = 20
"""Messages a second of `quiet`: a server is some fifty times as slow under Valgrind."""
_COUNTING = ("valgrind", "--tool=callgrind", "--instr-atstart=no")
_TOTALS = re.compile(r"^(?:totals|summary): (\d+)", re.MULTILINE)


class Counted(NamedTuple):
    """Of one process's part of the path."""

    per_message: int
    functions: list[str]
    """As callgrind_annotate has them, what each executes itself."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.instructions", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roles", nargs="*", help=f"of {', '.join(ROLES)}, which are the default, or {QUIET}")
    parser.add_argument("--messages", type=int, default=MESSAGES)
    parser.add_argument("--system", default=OURS.name, help=f"whose Redis; another than {OURS.name} for {QUIET} alone")
    parser.add_argument("--lines", type=int, default=0, help="functions shown of each")
    options = parser.parse_args()
    if unknown := set(options.roles) - {*ROLES, QUIET}:
        parser.error(f"no process {', '.join(sorted(unknown))}; there are {', '.join(ROLES)}, and {QUIET}")
    [system] = chosen(options.system)
    if system is not OURS and options.roles != [QUIET]:
        parser.error(f"of {system.name} only {QUIET} is counted")
    if shutil.which("valgrind") is None:
        raise SystemExit("bench: no valgrind on the PATH: apt-get install -y valgrind")
    console = Console()
    for role in options.roles or ROLES:
        with console.status(role):
            counted = asyncio.run(_quietly(system) if role == QUIET else _counted(role, options.messages))
        console.print(f"{role}: {counted.per_message:,} instructions of Redis a message")
        for line in counted.functions[: options.lines]:
            console.print(line, markup=False, highlight=False, soft_wrap=True)


async def _counted(role: str, messages: int) -> Counted:
    async with staged(OURS, under=_COUNTING) as stage:
        server = stage.ground.servers[0]
        await stage.say(64, USERS)  # nobody is measured while it warms up
        if role == "ingress":
            _control(server, "-i", "on")
            await stage.say(messages, USERS)
            return await _read(server, messages)
        await stage.say(messages, USERS)
        if role == "egress":
            await _answered(stage, server)
        _control(server, "-i", "on")
        if role == "inference":
            await _answered(stage, server)
        else:
            stage.start("egress")
            await stage.arrived(stage.sent)
        return await _read(server, stage.sent)


async def _quietly(system: System) -> Counted:
    async with staged(system, under=_COUNTING) as stage:
        server = stage.ground.servers[0]
        stage.start(*system.workers)
        await stage.say(20 * QUIET_USERS, QUIET_USERS)  # their conversations are as long as they get
        await stage.arrived(stage.sent)
        _control(server, "-i", "on")
        await stage.say(QUIET_MESSAGES, QUIET_USERS, rate=RATE)
        await stage.arrived(stage.sent)
        return await _read(server, QUIET_MESSAGES)


async def _answered(stage: Stage, server: Server) -> None:
    stage.start("inference")
    await until(lambda: int(server.ask("XLEN", "outbound")) >= stage.sent, "inference does not answer all")


def _control(server: Server, *words: str) -> None:
    subprocess.run(["callgrind_control", *words, str(server.pid)], check=True, capture_output=True)


async def _read(server: Server, messages: int) -> Counted:
    _control(server, "-i", "off")
    _control(server, "-d")
    dump = server.folder / f"callgrind.out.{server.pid}.1"
    await until(lambda: dump.exists() and bool(_TOTALS.search(dump.read_text())), "callgrind writes nothing")
    total = int(_TOTALS.findall(dump.read_text())[-1])
    return Counted(total // messages, _functions(dump))


def _functions(dump: Path) -> list[str]:
    told = subprocess.run(["callgrind_annotate", str(dump)], capture_output=True, text=True, check=True).stdout
    _, _, lines = told.partition("file:function")
    return [line for line in lines.splitlines() if re.match(r" *[\d,]+ \(", line)]


if __name__ == "__main__":
    main()
