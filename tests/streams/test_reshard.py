"""`cauce reshard` as somebody uses it whose Redis is the one that `cauce up` starts."""

from __future__ import annotations

import json
import re
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pipeline import ROOT
from up import Up

pytestmark = pytest.mark.slow

PEOPLE = [f"+5917000{number:04}" for number in range(6)]


@pytest.fixture
def folder(short_path: Path) -> Path:
    shutil.copy(ROOT / "streams.toml", short_path)
    return short_path


@pytest.fixture
def ups(folder: Path) -> Iterator[list[Up]]:
    started: list[Up] = []
    yield started
    for up in started:
        up.stop()


def started(folder: Path, ups: list[Up]) -> Up:
    up = Up(folder, TIMEZONE="America/La_Paz")
    ups.append(up)
    found = re.search(r"http://\S+", up.until("Cauce is ready"))
    assert found
    up.base = found[0]
    return up


def asked(url: str, body: dict[str, str] | None = None) -> Any:
    given = json.dumps(body).encode() if body else None
    headers = {"Content-Type": "application/json", "Prefer": "wait=20"} if body else {}
    with urllib.request.urlopen(urllib.request.Request(url, given, headers)) as answer:  # noqa: S310 - ours
        return json.load(answer)


def say(up: Up, text: str) -> None:
    """Everybody says it, and is answered."""
    for person in PEOPLE:
        assert asked(f"{up.base}/chat", {"user_id": person, "message": text, "message_id": text})["reply"]


def remembered(up: Up) -> list[list[str]]:
    """What each conversation holds."""
    pages = [asked(f"{up.base}/chat/history/%2B{person[1:]}") for person in PEOPLE]
    return [[message["content"] for message in page["messages"]] for page in pages]


@pytest.mark.long
def test_to_more_shards_and_back_and_everybody_is_known(folder: Path, ups: list[Up]) -> None:
    one = (folder / "streams.toml").read_text(encoding="utf-8")
    up = started(folder, ups)
    say(up, "hola")
    before = remembered(up)
    # While it runs nothing is moved
    (folder / "streams.toml").write_text(f"shards = 3\n{one}", encoding="utf-8")
    refused = up.cauce("reshard", "--yes")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "another `cauce up`" in refused.stderr
    up.stop()
    # With the other number nothing starts, and it says what to do
    unready = Up(folder)
    ups.append(unready)
    assert unready.end() == 2
    assert "run `cauce reshard`" in "".join(unready.said)
    # Whoever does not say yes has moved nothing
    assert up.cauce("reshard", given="n\n").returncode == 2
    # When it is moved, Then everything goes on where it stopped
    moved = up.cauce("reshard", given="y\n")
    assert (moved.returncode, moved.stdout) == (0, "moved to 3 shards; start everything again\n"), moved.stderr
    up = started(folder, ups)
    assert remembered(up) == before
    for person in PEOPLE:
        assert asked(f"{up.base}/chat", {"user_id": person, "message": "hola", "message_id": "hola"})["duplicate"]
    say(up, "otra vez")
    assert [len(each) for each in remembered(up)] == [4] * len(PEOPLE)
    # And back
    up.stop()
    (folder / "streams.toml").write_text(one, encoding="utf-8")
    assert up.cauce("reshard", "--yes").returncode == 0
    assert up.cauce("reshard", "--yes").stdout == "nothing to do: shards = 1\n"
    up = started(folder, ups)
    assert [len(each) for each in remembered(up)] == [4] * len(PEOPLE)
