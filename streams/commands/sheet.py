"""
What tables are printed on: a terminal is as wide as it is, anything else (a pipe, a file, cron's mail) as they are.
"""

from __future__ import annotations

import os

from rich.console import Console

ENDLESS = 10_000
"""Columns; rich would take 80 where it sees no terminal."""


def sheet() -> Console:
    """COLUMNS, where somebody has set it, is how wide it is anywhere."""
    console = Console()
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=ENDLESS)
