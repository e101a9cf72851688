"""
A process that begins anew with its configuration as it is by now, at SIGHUP.

First another process tries whether it would start so; where it would not, one line says why, and nothing has happened.
Then what is in work ends, and the same command takes this process's place.  Knows no group and no socket.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Callable, Sequence
from typing import NoReturn

from streams import log

TRIAL = "--would-start"
"""The option of a command that says whether it would start, and does not."""

_OURS = ("PROMETHEUS_MULTIPROC_DIR", "CAUCE_PROBE", "CAUCE_SOCKETS")
"""What stands in the environment for this very process."""

_log = log.get("reload")


async def refusal(command: Sequence[str]) -> str:
    """
    Why a command would not start with the configuration as it is; "" where it would.

    Args:
        command: as on the command line, without `cauce`.
    """
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "streams.cli", *command, TRIAL,
        env={name: value for name, value in os.environ.items() if name not in _OURS},
        stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE,
    )  # fmt: skip
    _, told = await child.communicate()
    if child.returncode == 0:
        return ""
    words = told.decode(errors="replace").strip()
    return words.rpartition("\n")[2].removeprefix("cauce: ") or f"exit status {child.returncode}"


class Hangup:
    """
    What SIGHUP does to a process.

    Args:
        command: its own, without `cauce`.
        stop: ends what is in work; called once it is known that it would start again.
    """

    def __init__(self, command: Sequence[str], stop: Callable[[], None]) -> None:
        self._command, self._stop = command, stop
        self._trying: asyncio.Task[None] | None = None
        self.heard = False
        """It is to begin anew once it has stopped."""

    def listen(self) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._on_signal)

    def forget(self) -> None:
        """It was told to stop, and not to come back."""
        self.heard = False
        if self._trying:
            self._trying.cancel()

    def _on_signal(self) -> None:
        if not self.heard and (self._trying is None or self._trying.done()):
            self._trying = asyncio.create_task(self._try())

    async def _try(self) -> None:
        if why := await refusal(self._command):
            _log.error("reload.refused", why=why)
            return
        _log.info("reload.begun")
        self.heard = True
        self._stop()


def begin(**environ: str) -> NoReturn:
    """Run our own command in this process's place; with this in its environment as well."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until it listens; the default would end it
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | environ)  # noqa: S606 - it is ourselves
