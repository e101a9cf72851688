"""docs/http.md says what the code does: each route, each status, each error."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from starlette.routing import Route

from ingress.app import create_app
from streams.connection import Store
from streams.settings import Settings
from streams.stores import Stores
from tests.ingress.front import a_topology

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")


def raised() -> Iterator[tuple[int, str]]:
    """Status and code of every error that the sources can answer."""
    for path in (ROOT / "ingress").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Refused":
                status, code = node.args[:2]
                assert isinstance(status, ast.Constant), f"{path}:{node.lineno}: write the status where it is raised"
                assert isinstance(code, ast.Constant), f"{path}:{node.lineno}: write the code where it is raised"
                yield int(str(status.value)), str(code.value)


def test_every_error_has_a_row_and_every_row_an_error() -> None:
    told = {(int(status), code) for status, code in re.findall(r"^\| (\d{3}) \| `(\w+)` \|", GUIDE, re.MULTILINE)}
    assert told == set(raised())
    assert len({code for _, code in told}) == len(told)


def test_every_route_has_a_row_and_every_row_a_route(store: Store) -> None:
    told = set(re.findall(r"^\| `([A-Z]+) (\S+)` \|", GUIDE, re.MULTILINE))
    app = create_app(a_topology(), Settings(), Stores.alone(store))
    routes = [route for route in app.routes if isinstance(route, Route)]
    assert told == {(method, route.path_format) for route in routes for method in (route.methods or set()) - {"HEAD"}}
