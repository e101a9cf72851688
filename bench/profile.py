"""
Where a process of ours spends its time while it has more to do than it can.

    python -m bench.profile                      ingress, inference and egress, one after the other
    python -m bench.profile egress --seconds 10
    python -m bench.profile inference --lines 40

Samples are py-spy's (`pip install py-spy`), taken without stopping the process: functions by the time spent in
themselves, what they call within C with them, and each library's share.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.stage import Stage, staged
from bench.systems import OURS

ROLES = ("ingress", "inference", "egress")
MESSAGES, USERS = 20_000, 1_000
_FRAME = re.compile(r"(?P<function>.*) \((?P<file>.*?)(:\d+)?\)$")
_IDLE = ("_worker (concurrent",)
"""Threads of a pool that wait for work."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.profile", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("roles", nargs="*", help=f"of {', '.join(ROLES)}; all by default")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--lines", type=int, default=20, help="functions shown of each")
    options = parser.parse_args()
    if unknown := set(options.roles) - set(ROLES):
        parser.error(f"no process {', '.join(sorted(unknown))}; there are {', '.join(ROLES)}")
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")
    if spy is None:
        raise SystemExit("bench: no py-spy: .venv/bin/pip install py-spy")
    console = Console()
    for role in options.roles or ROLES:
        with console.status(role):
            stacks = asyncio.run(_sampled(spy, role, options.seconds))
        console.print(_table(role, stacks, options.lines))


async def _sampled(spy: str, role: str, seconds: int) -> list[list[str]]:
    """The stack of every sample, the outermost call first."""
    async with staged(OURS) as stage:
        backlog = max(MESSAGES, seconds * 10_000)
        if role == "ingress":
            await stage.say(1_000, USERS)
        else:
            await stage.say(backlog, USERS)
            stage.start(*stage.system.workers)
            await stage.arrived(500)
        recording = _record(spy, stage, role, seconds)
        if role == "ingress":
            await stage.say(backlog, USERS)
        _, err = await asyncio.to_thread(recording.communicate)
        if recording.returncode:
            raise SystemExit(f"bench: py-spy: {err.decode(errors='replace')}")
        told = (stage.folder / "samples").read_text(encoding="utf-8")
    samples: list[list[str]] = []
    for line in told.splitlines():
        stack, _, count = line.rpartition(" ")
        samples += [stack.split(";")] * int(count)
    return samples


def _record(spy: str, stage: Stage, role: str, seconds: int) -> subprocess.Popen[bytes]:
    command = [spy, "record", "--format", "raw", "--rate", "500", "--duration", str(seconds)]
    command += ["--output", str(stage.folder / "samples"), "--pid", str(stage.running[role].pid)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def _table(role: str, stacks: list[list[str]], lines: int) -> Table:
    stacks = [stack for stack in stacks if not stack[-1].startswith(_IDLE)]
    functions, libraries = Counter[str](), Counter[str]()
    for stack in stacks:
        found = _FRAME.match(stack[-1])
        function, file = (found["function"], found["file"]) if found else (stack[-1], "")
        functions[f"{function} ({file})"] += 1
        libraries[file.split("/")[0] if "/" in file else "Python"] += 1
    table = Table("of its time", "in", title=role)
    for counted, most in ((libraries, 12), (functions, lines)):
        for name, count in counted.most_common(most):
            table.add_row(f"{count / max(1, len(stacks)):.1%}", name)
        table.add_section()
    return table


if __name__ == "__main__":
    main()
