"""
The terminal of `cauce up`: lines of several processes, each with its name before it, over one line of progress.

Knows escape sequences and whether anybody looks; knows nothing of what the processes do.
"""

from __future__ import annotations

import io
import os
import re
import sys
from typing import TextIO

_COLOURS = ("36", "35", "32", "34", "33", "96", "95", "92")
_LEVEL = re.compile(r"\d\d:\d\d:\d\d (warning|error|debug) ")
_LEVEL_COLOURS = {"warning": "33", "error": "31", "debug": "2"}
_CLEAR = "\r\033[2K"


class Screen(io.TextIOBase):
    """
    Where lines go.  It is a text stream itself, so that this process's own log lines can be sent here too.

    Args:
        prefixed: put names before lines; not where a machine reads them (LOG_FORMAT=json).
    """

    def __init__(self, out: TextIO | None = None, *, prefixed: bool = True) -> None:
        self._out = out or sys.stderr
        self.terminal = self._out.isatty()
        self._colour = self.terminal and "NO_COLOR" not in os.environ
        self._prefixed = prefixed
        self._names: list[str] = []
        self._progress = ""

    def introduce(self, *names: str) -> None:
        """These will speak; their names are given colours and one width."""
        self._names += [name for name in names if name not in self._names]

    def line(self, name: str, text: str) -> None:
        """One line that a process wrote."""
        if not self._prefixed:
            self.write(text + "\n")
            return
        level = _LEVEL.match(text)
        body = self._painted(text, _LEVEL_COLOURS[level[1]]) if level else text
        width = max(map(len, self._names), default=0)
        number = self._names.index(name) if name in self._names else 0
        self.write(f"{self._painted(f'{name:{width}} │', _COLOURS[number % len(_COLOURS)])} {body}\n")

    def progress(self, text: str) -> None:
        """What is being waited for, in one line that is replaced; nothing where nobody looks."""
        text = text[: _width() - 1]
        if self.terminal and text != self._progress:
            self._progress = text
            self._put(_CLEAR + text)

    def write(self, text: str, /) -> int:
        self._put(_CLEAR + text + self._progress if self._progress else text)
        return len(text)

    def flush(self) -> None:
        pass  # `_put` has done it

    def isatty(self) -> bool:
        return self._colour

    def bold(self, text: str) -> str:
        return self._painted(text, "1")

    def _painted(self, text: str, colour: str) -> str:
        return f"\033[{colour}m{text}\033[0m" if self._colour else text

    def _put(self, text: str) -> None:
        try:
            self._out.write(text)
            self._out.flush()
        except (OSError, ValueError):
            # Whoever read our output has gone (a closed terminal, `| head`); the pipeline must not stop for that.
            self._out = io.StringIO()
            self.terminal = False


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except (OSError, ValueError):
        return 80
