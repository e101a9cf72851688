"""What this repository is made of, read once for all the tests that look at it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import typer.main

command = cache(typer.main.get_command)
"""Of a typer application."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))
