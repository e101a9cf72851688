"""
A small grammar of phrases: `(a|b)` is a choice, `<rule>` another entry, `{slot}` is left for its filling.

Knows no Spanish; phrases.toml does.
"""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

_CHOICE = re.compile(r"\(([^()]*)\)")
_RULE = re.compile(r"<(\w+)>")


@cache
def phrases() -> dict[str, Any]:
    with Path(__file__).with_name("phrases.toml").open("rb") as file:
        return tomllib.load(file)


def phrase(kind: str, rng: Random) -> str:
    """
    One phrase, its choices made, its slots still open.

    Args:
        kind: a table and an entry of phrases.toml, such as `agendar.esp`.
    """
    table, _, entry = kind.partition(".")
    return expand(rng.choice(phrases()[table][entry]), rng)


def expand(text: str, rng: Random) -> str:
    rules = phrases()["rules"]
    while True:
        # Innermost choices first, so that a rule is only drawn where it was chosen.
        if _CHOICE.search(text):
            text = _CHOICE.sub(lambda found: rng.choice(found[1].split("|")), text, count=1)
        elif found := _RULE.search(text):
            text = text[: found.start()] + rng.choice(rules[found[1]]) + text[found.end() :]
        else:
            return re.sub(r" +", " ", text).strip()
