"""docs/webhook.md: its snippets verify what egress really posts, and its example is what it really looks like."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from processors.egress import webhook
from streams import signature, tables, topology, wire
from tests.processors.egress.stories import OLDER_SECRET, SECRET, reply, settings
from tests.sink import Received, Sink

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "webhook.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    found = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    assert found, language
    return found


async def posted() -> Received:
    """One real request."""
    async with Sink() as sink, webhook.opened(settings(sink.url), tables.Egress(), clock=time.time) as to:
        assert (await to.post(webhook.payload(reply(), [reply().message], 1))).kind == "delivered"
        return sink.requests[0]


def cases(got: Received) -> list[tuple[dict[str, str], bytes, str, bool, bool]]:
    """Headers, body, secret, and whether the long and the short proof hold."""
    old = got.headers | {"webhook-timestamp": str(int(time.time()) - 400)}
    rotating = got.headers | {"webhook-signature": "v1,AAAA " + got.headers["webhook-signature"]}
    # As many characters as a real one, and more bytes.
    foreign = got.headers | {"webhook-signature": "v1," + "é" * 44, "x-cauce-signature-256": "sha256=" + "é" * 64}
    return [
        (got.headers, got.raw, SECRET, True, True),
        (rotating, got.raw, SECRET, True, True),
        (got.headers, got.raw + b" ", SECRET, False, False),
        (got.headers, got.raw, OLDER_SECRET, False, False),
        (old, got.raw, SECRET, False, True),
        (got.headers | {"webhook-timestamp": "soon"}, got.raw, SECRET, False, True),
        ({}, got.raw, SECRET, False, False),
        (foreign, got.raw, SECRET, False, False),
    ]


async def test_the_python_snippet_accepts_what_is_real_and_nothing_else():
    [code] = snippets("python")
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - it is our own, and this is the test that it runs
    for headers, body, secret, long, short in cases(await posted()):
        assert names["is_from_cauce"](headers, body, secret) is long
        assert names["is_from_cauce_short"](headers, body, secret) is short


async def test_the_javascript_snippet_accepts_what_is_real_and_nothing_else():
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node to run JavaScript")
    [code] = snippets("javascript")
    given = cases(await posted())
    calls = [[headers, body.decode(), secret] for headers, body, secret, _, _ in given]
    code += f"""
    const results = {json.dumps(calls)}.map(([headers, body, secret]) => [
      isFromCauce(headers, Buffer.from(body), secret), isFromCauceShort(headers, Buffer.from(body), secret)]);
    console.log(JSON.stringify(results));
    """
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(node, "-", stdin=pipe, stdout=pipe)
    out, _ = await process.communicate(code.encode())
    assert json.loads(out) == [[long, short] for *_, long, short in given]


async def test_the_example_has_the_fields_and_headers_of_a_real_request():
    got = await posted()
    assert list(json.loads(snippets("json")[0])) == list(got.json)
    shown = {line.partition(":")[0] for line in snippets("http")[0].splitlines()[1:]}
    assert shown == got.headers.keys() - {"host", "content-length"} | {"traceparent"}


def test_the_examples_signatures_are_those_of_its_body_and_secret():
    body = snippets("json")[0].rstrip("\n").encode()
    headers = dict(line.split(": ", 1) for line in snippets("http")[0].splitlines()[1:])
    [secret] = re.findall(r"Signed with `(whsec_[^`]+)`", GUIDE)
    sent_at = int(headers["webhook-timestamp"])
    keys = [signature.key_of(secret)]
    assert signature.standard_holds(
        headers["webhook-signature"], keys, headers["webhook-id"], str(sent_at), body, now=sent_at
    )
    assert signature.hexadecimal_holds(headers["x-cauce-signature-256"], [secret], body)


def test_the_waits_are_those_of_the_shipped_topology():
    units = {"s": 1, "min": 60, "h": 3600}
    text = GUIDE.partition("again after ")[2].partition(" (each")[0]
    shown = [int(number) * units[unit] for number, unit in (wait.split() for wait in text.split(", "))]
    assert shown == list(topology.load(ROOT / "streams.toml").group("egress").backoff)


def test_every_field_type_and_source_is_explained():
    table = GUIDE.partition("| field | what |")[2].partition("\n\n")[0]
    for field in webhook.Payload.__struct_fields__:
        assert f"`{field}`" in table, field
    for field in ("type", "source"):
        for word in get_args(get_type_hints(wire.Reply)[field]):
            assert f"`{word}`" in table, word


def test_the_numbers_are_the_defaults():
    egress = tables.Egress()
    for text in (
        f"`[egress] max_chars` ({egress.max_chars:,})",
        f"`[egress] timeout` ({egress.timeout:g} s)",
        f"`[egress] breaker_failures` ({egress.breaker_failures})",
        f"`[egress] expire` ({egress.expire / 3600:g} h,",
        f"after {egress.breaker_wait:g} s one is tried",
        f"up to {egress.breaker_wait_max / 60:g} min",
    ):
        assert text in " ".join(GUIDE.split()), text
