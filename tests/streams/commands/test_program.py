"""One supervised process: started again when it dies, unless that cannot help, and stopped when asked."""

from __future__ import annotations

import asyncio
import io
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.commands import program
from streams.commands.program import Program
from streams.commands.screen import Screen


class Heard(io.StringIO):
    """A terminal's lines, and a way to wait for one."""

    def __init__(self) -> None:
        super().__init__()
        self._changed = asyncio.Event()

    def write(self, text: str) -> int:
        self._changed.set()
        return super().write(text)

    async def until(self, text: str, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while self.getvalue().count(text) < times:
                self._changed.clear()
                await self._changed.wait()


async def yes() -> bool:
    return True


async def no() -> bool:
    return False


def python(code: str, heard: Heard, ready: Callable = yes, **options) -> Program:
    screen = Screen(heard)
    screen.introduce("child")
    return Program("child", [sys.executable, "-uc", code], screen, ready, **options)


async def test_its_lines_carry_its_name(caplog) -> None:
    heard = Heard()
    child = python("import sys, signal; print('hello'); print('oh', file=sys.stderr); signal.pause()", heard)
    child.start()
    await heard.until("child │ hello\n")
    await heard.until("child │ oh\n")
    await child.stop(10)


@pytest.mark.slow
async def test_one_that_dies_is_started_again_after_a_pause_that_doubles(monkeypatch, caplog) -> None:
    monkeypatch.setattr(program, "FIRST_PAUSE", 0.01)
    heard = Heard()
    child = python("import signal; print('alive'); signal.pause()", heard)
    child.start()
    for life in (1, 2, 3):
        await heard.until("alive", times=life)
        child.signal(signal.SIGKILL)
    await heard.until("alive", times=4)
    await child.stop(10)
    deaths = [record.fields for record in caplog.records if record.getMessage() == "process.died"]
    assert [(death["why"], death["restart_s"]) for death in deaths] == [
        ("SIGKILL", 0.01), ("SIGKILL", 0.02), ("SIGKILL", 0.04),
    ]  # fmt: skip


async def test_one_that_says_its_configuration_is_wrong_is_not_started_again() -> None:
    heard = Heard()
    child = python("import sys; print('MODEL is no model'); sys.exit(2)", heard, ready=no)
    child.start()
    async with asyncio.timeout(20):
        await child.hopeless.wait()
    await child.stop(10)
    assert heard.getvalue().count("MODEL is no model") == 1


@pytest.mark.slow
async def test_after_it_was_ready_once_even_that_is_not_the_end(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(program, "FIRST_PAUSE", 0.01)
    heard = Heard()
    # Ready at first; after that it finds Redis away at its start, which ends with status 2 as well.
    code = f"""
import pathlib, signal, sys
mark = pathlib.Path({str(tmp_path / "mark")!r})
again = mark.exists()
mark.touch()
print("life")
if again: sys.exit(2)
signal.pause()
"""
    child = python(code, heard)
    child.start()
    await heard.until("life")
    assert await child.ready()
    child.signal(signal.SIGKILL)
    await heard.until("life", times=4)
    assert not child.hopeless.is_set()
    await child.stop(10)


async def test_a_quiet_one_is_heard_only_when_it_dies() -> None:
    heard = Heard()
    child = python("print('the disk is full'); raise SystemExit(1)", heard, ready=no, quiet=True, must_start=True)
    child.start()
    async with asyncio.timeout(20):
        await child.hopeless.wait()
    assert "child │ the disk is full\n" in heard.getvalue()
    await child.stop(10)


async def test_one_that_ignores_the_signal_is_killed_after_the_grace(caplog) -> None:
    heard = Heard()
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf'); signal.pause()"
    child = python(code, heard)
    child.start()
    await heard.until("deaf")
    await child.stop(0.05)
    assert child.pid is None
    assert "process.killed" in caplog.messages


async def test_a_line_that_never_ends_and_bytes_that_are_no_text_do_no_harm(monkeypatch) -> None:
    monkeypatch.setattr(program, "_LONGEST_LINE", 1000)
    heard = Heard()
    code = "import os, signal; os.write(1, b'x' * 100_000); os.write(1, b'\\xff\\xfe\\nend\\n'); signal.pause()"
    child = python(code, heard)
    child.start()
    await heard.until("child │ end\n")
    assert heard.getvalue().count("x") == 100_000
    await child.stop(10)


async def test_a_progress_bar_becomes_its_status_and_no_flood_of_lines() -> None:
    heard = Heard()
    child = python("import os, signal; os.write(1, b'\\r 10%\\r 50%\\n'); print('done'); signal.pause()", heard)
    child.start()
    await heard.until("done")
    assert "10%" not in heard.getvalue()
    await child.stop(10)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's help with this is Linux's")
def test_children_end_when_their_supervisor_is_killed() -> None:
    code = """
import asyncio, sys
from streams.commands.program import Program
from streams.commands.screen import Screen
async def yes(): return True
async def main():
    child = Program("child", [sys.executable, "-c", "import signal; signal.pause()"], Screen(), yes)
    child.start()
    while child.pid is None: await asyncio.sleep(0)
    print(child.pid, flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as supervisor:
        assert supervisor.stdout is not None
        child = int(supervisor.stdout.readline())
        handle = os.pidfd_open(child)
        supervisor.kill()
    try:
        ended, _, _ = select.select([handle], [], [], 20)
        assert ended
    finally:
        os.close(handle)


def test_a_terminal_that_goes_away_stops_nothing(tmp_path) -> None:
    with Path(tmp_path / "closed").open("w") as gone:
        screen = Screen(gone)
    screen.line("child", "one")
    screen.line("child", "two")
    assert not screen.terminal
