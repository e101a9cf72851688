"""A process that is stuck ends itself; one that was only frozen does not."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from streams import watchdog

pytestmark = pytest.mark.slow

PROCESS = """
import asyncio, re, sys, time
import uvloop
from streams import log, watchdog
from streams.settings import Settings

log.configure(Settings())
watchdog.EVERY = 0.05

def stick():
    {stuck}

async def main():
    watching = asyncio.create_task(watchdog.run())
    print("ready", flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    stick()
    print("went on", flush=True)

{run}(main())
"""


@pytest.fixture
def process(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """It waits for a line, and then does what the test says."""
    run, stuck = request.param
    with subprocess.Popen(
        [sys.executable, "-c", PROCESS.format(run=run, stuck=stuck)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield child
        child.kill()


@pytest.mark.parametrize(
    "process",
    [
        ("uvloop.run", "while True: pass"),
        ("asyncio.run", "while True: pass"),
        ("uvloop.run", "re.match('(a+)+$', 'a' * 64 + 'b')"),
        ("uvloop.run", "time.sleep(3600)"),
    ],
    indirect=True,
    ids=" ".join,
)
def test_a_loop_that_turns_no_more_ends_its_process_and_says_where(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate("now\n", timeout=20)
    assert (process.returncode, out) == (watchdog.STATUS, "")
    assert "stick" in err


@pytest.mark.parametrize("process", [("uvloop.run", "pass")], indirect=True, ids=" ".join)
def test_a_process_that_was_idle_or_frozen_for_longer_goes_on(process: subprocess.Popen[str]) -> None:
    for number in (signal.SIGCONT, signal.SIGSTOP):
        process.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
    process.send_signal(signal.SIGCONT)
    out, _ = process.communicate("now\n", timeout=20)
    assert (process.returncode, out) == (0, "went on\n")
