"""
Ends a process whose event loop turns no more.

A handler that never gives the loop back (an endless `while`, a regular expression that backtracks for hours) stops its
process's heartbeat as well.  Others take the turns over, and the process would sit there for good.  It had better die:
whoever watches starts it anew, and who was in work is a suspect, buried after its attempts like any poison.

By signals, not by a thread: nothing but a signal reaches code that keeps the interpreter to itself, and a process that
was frozen (SIGSTOP, `docker pause`) gets one alarm when it wakes, however many it missed.
"""

from __future__ import annotations

import asyncio
import os
import signal
import traceback
from types import FrameType

from streams import log

EVERY = 5.0
"""Seconds between two alarms."""

MOST = 4
"""Alarms in a row without a turn of the loop.  Well beyond a heartbeat: the turns are others' by then."""

STATUS = 70
"""The exit status that says so; EX_SOFTWARE of sysexits.h."""

_SHOWN = 3
"""Of the calls that hold the loop, the innermost."""


async def run() -> None:
    """Watch this loop, the main thread's, until cancelled."""
    missed = 0

    def alarm(_number: int, frame: FrameType | None) -> None:
        nonlocal missed
        missed += 1
        if missed > MOST:
            try:
                log.get("worker").error("loop.blocked", seconds=EVERY * MOST, where=_where(frame))
            finally:
                os._exit(STATUS)

    before = signal.signal(signal.SIGALRM, alarm)
    signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)
    try:
        while True:
            missed = 0
            await asyncio.sleep(EVERY / 2)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _where(frame: FrameType | None) -> str:
    calls = traceback.extract_stack(frame)[-_SHOWN:]
    return " < ".join(f"{os.path.basename(call.filename)}:{call.lineno} {call.name}" for call in reversed(calls))
