"""Settings that contradict each other without a word: `cauce check` says which, and nothing of what ships does."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from streams import topology
from streams.commands.check import handlers
from streams.commands.contradictions import found
from streams.settings import Secret, Settings

ROOT = Path(__file__).parents[3]
SHIPPED = (ROOT / "streams.toml").read_text(encoding="utf-8")
ALL = tomllib.loads(re.sub(r"(?m)^# (?=\[|\w+ = )", "", SHIPPED))
"""With the # taken from every table and line."""
MODEL_URL = {"model_url": ("http://127.0.0.1:1/v1",)}
WEBHOOK = Secret("https://n8n.example/webhook/x")


def complaints(plain: dict[str, Any], **settings: Any) -> dict[str, str]:
    return dict(found(Settings(outbound_url=WEBHOOK, **settings), topology.parse(plain)))


def changed(**groups: dict[str, Any]) -> dict[str, Any]:
    return ALL | {"groups": {name: table | groups.get(name, {}) for name, table in ALL["groups"].items()}}


def without(*groups: str) -> dict[str, Any]:
    return ALL | {"groups": {name: table for name, table in ALL["groups"].items() if name not in groups}}


def test_nothing_that_ships_contradicts_itself() -> None:
    assert complaints(tomllib.loads(SHIPPED)) == complaints(ALL) == {}


@pytest.mark.parametrize(
    ("plain", "settings", "subject", "words"),
    [
        (changed(egress={"writes": []}), {}, "groups.archive-deliveries", '[groups.egress] writes = ["deliveries"]'),
        (without("egress"), {}, "OUTBOUND_URL", "no group delivers there"),
        (without("archive") | {"history": {"from_archive": True}}, {}, "history.from_archive", "what people write"),
        (changed(archive={"max_backlog": 1_000_000}), {}, "groups.archive", "is never reached"),
        (ALL | {"egress": {"timeout": "1m"}}, {}, "groups.egress", "before egress.timeout = 60 s does"),
        (ALL | {"inference": {"timeout": "1h"}}, MODEL_URL, "groups.inference", "before inference.timeout = 3600 s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_contradicts_itself_is_said_with_what_to_do(
    plain: dict[str, Any], settings: dict[str, Any], subject: str, words: str
) -> None:
    assert words in complaints(plain, **settings)[subject]


def test_what_one_does_not_use_is_no_contradiction() -> None:
    assert complaints(ALL | {"inference": {"timeout": "1h"}}) == {}
    assert complaints(ALL | {"history": {"from_archive": True}}) == {}
    assert dict(found(Settings(), topology.parse(without("egress", "archive-deliveries")))) == {}


def test_a_handler_that_remembers_people_is_not_run_without_order() -> None:
    looked = handlers(topology.parse(changed(inference={"order": "none"})))
    [why] = [each.text for each in looked if each.verdict == "wrong"]
    assert "groups.inference.order = 'none' is not for 'processors.inference.handler:reply', which recalls" in why
