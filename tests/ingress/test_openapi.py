"""GET /openapi.json describes each route, each answer and each error, and nothing that is not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.routing import Route

from ingress.app import create_app
from ingress.openapi import ERRORS, OPERATIONS, describe
from ingress.shapes import BLANK, SCHEMAS
from streams.connection import Store
from streams.settings import Settings
from streams.stores import Stores
from tests.ingress.front import OPERATOR, TOKEN, a_topology, front, secret

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")


def served(store: Store, **settings: Any) -> set[tuple[str, str]]:
    app = create_app(a_topology(), Settings(**settings), Stores.alone(store))
    routes = [route for route in app.routes if isinstance(route, Route)]
    return {(method, route.path_format) for route in routes for method in (route.methods or set()) - {"HEAD"}}


def described(document: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}


def codes(part: Any) -> Iterator[str]:
    """Every error that a part of the document names."""
    if isinstance(part, dict):
        yield from part.get("properties", {}).get("error", {}).get("enum", [])
        part = list(part.values())
    if isinstance(part, list):
        for each in part:
            yield from codes(each)


def test_every_route_is_described_and_every_description_is_a_route_s(store: Store) -> None:
    assert OPERATIONS.keys() == served(store)


async def test_the_page_describes_the_routes_of_this_very_ingress(store: Store) -> None:
    for settings in ({}, {"environment": "production", "ingress_tokens": secret(TOKEN)}):
        async with front(store, **settings) as door:
            status, document = await door.get("/openapi.json", Authorization=f"Bearer {TOKEN}")
        assert (status, document["openapi"]) == (200, "3.1.0")
        assert described(document) == served(store, **settings)


def test_every_error_of_the_guide_is_described_with_its_status_and_no_other() -> None:
    told = re.findall(r"^\| (\d{3}) \| `(\w+)` \|", GUIDE, re.MULTILINE)
    assert {code: int(status) for status, code in told} == {code: status for code, (status, _) in ERRORS.items()}
    # A method that no description names is the one thing that is answered beside all of them.
    assert set(codes(list(OPERATIONS.values()))) == ERRORS.keys() - {"method_not_allowed"}


def test_every_schema_is_used_and_every_reference_leads_somewhere() -> None:
    document = describe([])
    text = json.dumps([list(OPERATIONS.values()), document["components"]])
    assert set(re.findall(r"#/components/schemas/(\w+)", text)) == SCHEMAS.keys()


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_who_may_ask_is_as_described(store: Store, method, path) -> None:
    schemes = {name for each in OPERATIONS[method, path]["security"] for name in each}
    asked = path.replace("{user_id}", "web-1")
    async with front(store, ingress_tokens=secret(TOKEN), operator_tokens=secret(OPERATOR)) as door:
        nobody, sender, operator = [
            (await door.ask(method, asked, headers={"X-API-Key": token} if token else {}))[0]
            for token in ("", TOKEN, OPERATOR)
        ]
    assert (nobody == 401) is bool(schemes)
    assert (sender == 403) is (schemes == {"operator", "operatorKey"})
    assert operator not in (401, 403)


def test_what_is_blank_for_the_description_is_blank_for_the_ingress() -> None:
    blank = re.compile(f"[{BLANK}]")
    for code in range(0x3100):
        assert bool(blank.fullmatch(chr(code))) is (not chr(code).strip()), hex(code)
