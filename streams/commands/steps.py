"""
How far a long command is: a bar with rate and remaining time, where somebody looks at the terminal.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    """So many in a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s")


class Out:
    """Standard error, whatever stands in its place while a bar is shown: for log lines."""

    def write(self, text: str, /) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()

    def isatty(self) -> bool:
        return sys.stderr.isatty()


class Steps:
    """On standard error; nothing but sentences where it is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def counting(self, what: str) -> Iterator[Callable[[int], None]]:
        """Something of which nobody knows how much it is."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f}"), _Rate())
        with self._shown(*columns, TimeElapsedColumn()) as progress:
            task = progress.add_task(what, total=None)
            yield lambda count: progress.advance(task, count)

    @contextlib.contextmanager
    def each(self) -> Iterator[Callable[[str, int], None]]:
        """Several things, as they come: what one is called, and how much more of it there is."""
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed:,.0f}"))
        with self._shown(*columns, TimeElapsedColumn()) as progress:
            tasks: dict[str, TaskID] = {}

            def look(what: str, more: int) -> None:
                if what not in tasks:
                    tasks[what] = progress.add_task(what, total=None)
                progress.advance(tasks[what], more)

            yield look

    @contextlib.contextmanager
    def measured(self, what: str, *, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn())
        with self._shown(*columns) as progress:
            task = progress.add_task(what, total=total, completed=done)
            yield lambda count: progress.advance(task, count)

    def _shown(self, *columns: ProgressColumn) -> Progress:
        return Progress(*columns, console=self._console, transient=True, disable=not self._console.is_terminal)
