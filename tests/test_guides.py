"""README, guarantees, privacy and the guide to groups: what they name exists, and what they show works."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import sources
from conftest import Server
from pipeline import Process
from waiting import until

from streams import cli, keys, settings, topology, wire
from streams.commands import welcome
from streams.connection import Store

ROOT = Path(__file__).parent.parent
READMES = ["README.md", "README.es.md"]
PAGES = [
    *READMES,
    "CHANGELOG.md",
    *(f"docs/{name}.md" for name in ("architecture", "guarantees", "privacy", "groups", "servers")),
]
ANA = "+59112345678"


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def fenced(page: str) -> list[tuple[str, str]]:
    """Fenced code with its language."""
    return re.findall(r"^ *```(\w*)\n(.*?)^ *```", text(page), re.MULTILINE | re.DOTALL)


def blocks(page: str, language: str = "") -> list[str]:
    return [block for its, block in fenced(page) if its == language]


def code(page: str) -> Iterator[str]:
    """All that is marked as code: spans, and lines of blocks without the comment at their end."""
    for _, block in fenced(page):
        for line in block.splitlines():
            yield line.partition(" #")[0]
    plain = re.sub(r"^ *```.*?^ *```", "", text(page), flags=re.DOTALL | re.MULTILINE)
    yield from re.findall(r"(?<!`)`([^`\n]+)`(?!`)", plain)


def commands() -> dict[str, Any]:
    """Every command of `cauce`, groups of commands included."""
    found: dict[str, Any] = {}
    for name, command in sources.command(cli.app).commands.items():  # type: ignore[attr-defined]
        found[name] = command
        found |= {f"{name} {inner}": each for inner, each in getattr(command, "commands", {}).items()}
    return found


@pytest.mark.parametrize("page", PAGES)
def test_every_command_a_page_names_is_one(page: str) -> None:
    there = commands()
    for words in code(page):
        for said in re.findall(r"(?<![\w./-])cauce((?: +[a-z-]+)*)", words.replace(".venv/bin/cauce", "cauce")):
            first, second = ([*said.split(), "", ""])[:2]
            name = f"{first} {second}" if hasattr(there.get(first), "commands") else first
            assert not first or first.startswith("-") or name in there, f"{page}: `{words}`"


def test_what_the_readme_names_the_program_itself_names() -> None:
    """Once through the real command line, in case the table above and the program ever differ."""
    told = subprocess.run([sys.executable, "-m", "streams.cli", "--help"], capture_output=True, text=True, check=True)
    for name in commands():
        assert re.search(rf"^  {name.partition(' ')[0]} ", told.stdout, re.MULTILINE), name


@pytest.mark.parametrize("page", PAGES)
def test_every_option_a_page_gives_a_command_is_one(page: str) -> None:
    there = commands()
    for words in code(page):
        for said in re.findall(r"(?<![\w./-])cauce [^|&;`]+", words):
            names = [" ".join(said.split()[1 : 1 + count]) for count in (2, 1)]
            command = next((there[name] for name in names if name in there), None)
            if command is not None and not hasattr(command, "commands"):
                known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
                given = set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", said))
                assert given <= known, f"{page}: `{said}`"


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_a_page_names_is_one(page: str) -> None:
    targets = re.findall(r"^([a-z]+):", text("Makefile"), re.MULTILINE)
    for words in code(page):
        for target in re.findall(r"(?<!\S)make ([a-z]+)", words):
            assert target in targets, f"{page}: `{words}`"


@pytest.mark.parametrize("page", PAGES)
def test_every_path_a_page_names_exists(page: str) -> None:
    folders = ("ingress", "processors", "streams", "tests", "docs", "n8n", "deploy")
    for words in code(page):
        for path in re.findall(rf"(?<![\w./-])(?:{'|'.join(folders)})/[\w./-]*", words):
            assert (ROOT / path.rstrip(".")).exists(), f"{page}: `{words}`"


@pytest.mark.parametrize("page", PAGES)
def test_every_setting_a_page_gives_a_value_is_one(page: str) -> None:
    known = {field.upper() for field in settings.Settings.__struct_fields__}
    known |= set(re.findall(r"\$\{([A-Z_0-9]+)", text("compose.yaml")))
    known |= set(re.findall(r"\$\{([A-Z_0-9]+)", text("deploy/venv.sh")))
    known |= set(re.findall(r"\$\(([A-Z_0-9]+)\)", text("Makefile")))
    for path in (ROOT / "tests").rglob("*.py"):
        known |= set(re.findall(r"os\.environ\b[^\n]*\"([A-Z_0-9]+)\"", path.read_text(encoding="utf-8")))
    for words in code(page):
        for name in re.findall(r"(?<![\w$-])([A-Z][A-Z_0-9]{2,})=", words):
            assert name in known, f"{page}: `{words}`"


@pytest.mark.parametrize("page", READMES)
def test_the_readme_shows_what_make_run_prints(page: str) -> None:
    printed = welcome.text(settings.Settings(), 8000, str).strip("\n")
    assert printed in "\n".join(blocks(page)), printed


@pytest.mark.parametrize("page", READMES)
def test_the_readmes_first_request_is_the_one_that_is_printed(page: str) -> None:
    waiting = [block for block in blocks(page, "sh") if "Prefer: wait=20" in block]
    assert waiting
    assert all('{"user_id":"+59112345678","message":"Hola, necesito una cita"}' in block for block in waiting)


def test_a_promise_names_only_tests_that_exist() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text("docs/guarantees.md"))
    for file, name in named:
        there = {node.name for node in ast.walk(sources.parsed(ROOT / file))
                 if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))}  # fmt: skip
        assert name in there, f"{file}::{name}"


def test_every_promise_names_one() -> None:
    promises = re.split(r"^## ", text("docs/guarantees.md"), flags=re.MULTILINE)[1:]
    for promise in promises:
        if re.match(r"\d+\. ", promise):
            assert "::test_" in promise, promise.splitlines()[0]
    assert [promise.partition(".")[0] for promise in promises[:-2]] == [str(n + 1) for n in range(len(promises) - 2)]


def lifetimes() -> dict[str, str]:
    """Every key that can tell who somebody is, and how long it lives as shipped."""
    shipped = topology.load(ROOT / "streams.toml")
    found = {}
    for kind in keys.TABLE.values():
        for name, stream in shipped.streams.items() if kind.pattern.startswith("<stream>") else [("", None)]:
            lifetime = kind.lifetime.replace("SESSION_EXPIRE_TIME", f"{settings.Settings().session_expire_time} s")
            lifetime = lifetime.replace("`handoff.pause`", f"{shipped.handoff.pause / 3600:g} hours")
            lifetime = lifetime.replace("`wait.keep`", f"{shipped.wait.keep / 3600:g} hours")
            if stream is not None:
                lifetime = lifetime.replace("`keep`", f"{stream.keep / 86400:g} days")
                lifetime = lifetime.replace("`max_len`", f"{stream.max_len:,} entries")
            if kind.personal:
                found[kind.pattern.replace("<stream>", name)] = lifetime
    assert f"{shipped.dead.keep / 86400:g} days; {shipped.dead.max_len:,} entries" == keys.TABLE["dead"].lifetime
    return found


def test_the_table_of_personal_data_is_that_of_the_keys_and_of_streams_toml() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| .+ \| (.+) \|$", text("docs/privacy.md"), re.MULTILINE)
    assert dict(rows) == lifetimes()
    assert f"the last {topology.load(ROOT / 'streams.toml').history.max_messages} messages" in text("docs/privacy.md")


GUIDED = ("bookings", "ledger", "alarms")
"""The groups of docs/groups.md, in its order: a table and a handler each."""


@pytest.fixture
def guided(tmp_path: Path) -> Path:
    """The folder that somebody has who did all that docs/groups.md says."""
    tables, handlers = blocks("docs/groups.md", "toml"), blocks("docs/groups.md", "python")
    assert len(tables) == len(handlers) == len(GUIDED)
    (tmp_path / "streams.toml").write_text("\n".join([text("streams.toml"), *tables]), encoding="utf-8")
    for name, source in zip(GUIDED, handlers, strict=True):
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
    return tmp_path


@contextlib.asynccontextmanager
async def at_work(folder: Path, group: str, url: str) -> AsyncIterator[Process]:
    """A worker for this group, as `cauce work` runs it; it reads when the context opens, and has to end well."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streams.cli", "work", group, cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "REDIS_URL": url, "TIMEZONE": "America/La_Paz"},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    worker = Process(group, child)
    try:
        await worker.says("worker.reading")
        yield worker
    finally:
        status = await worker.end()
    assert status == 0, worker.lines


async def written(store: Store, stream: str, count: int) -> list[tuple[str, bytes]]:
    """The first entries of a stream, once so many are there: whose, and what."""
    await until(lambda: _long(store, stream, count), within=30)
    rows = [
        dict(zip(flat[::2], flat[1::2], strict=True)) for _, flat in await store.command("XRANGE", stream, "-", "+")
    ]
    return [(row[b"key"].decode(), row[b"body"]) for row in rows]


async def _long(store: Store, stream: str, count: int) -> bool:
    return bool(await store.command("XLEN", stream) >= count)


@pytest.mark.slow
async def test_the_bookings_of_the_guide_are_numbered_for_each_person(
    guided: Path, store: Store, any_server: Server
) -> None:
    async with at_work(guided, "bookings", any_server.url):
        # When the bot has understood two appointments of one person, with a word in between
        for number, action in enumerate(("book", None, "book")):
            slots = {"speciality": "cardiología"} if action else {}
            reply = wire.Reply(id=f"reply_{number}", user_id=ANA, message="¡Hola!", action=action, slots=slots,
                               created_at="2025-10-05T10:00:05Z")  # fmt: skip
            await store.command("XADD", "outbound", "*", "key", ANA, "type", "reply", "body", wire.encode(reply))
        # Then both are on its own stream, in order and numbered, under the person's key
        assert await written(store, "bookings", 2) == [
            (ANA, b'{"reply":"reply_0","number":1,"slots":{"speciality":"cardiolog\xc3\xada"}}'),
            (ANA, b'{"reply":"reply_2","number":2,"slots":{"speciality":"cardiolog\xc3\xada"}}'),
        ]
        assert await store.command("GET", f"own:bookings:{ANA}") == b"2"


async def said(store: Store, *texts: str) -> None:
    for number, each in enumerate(texts):
        body = wire.encode(wire.Inbound(user_id=ANA, message_id=f"m{number}", text=each))
        await store.command("XADD", "inbound", "*", "key", ANA, "type", "text", "body", body)


@pytest.mark.slow
async def test_the_ledger_of_the_guide_has_each_message_once(guided: Path, store: Store, any_server: Server) -> None:
    # Given what was said before it existed
    await said(store, *(f"{number}" for number in range(700)))
    async with at_work(guided, "ledger", any_server.url):
        await until(lambda: _kept(guided, 700), within=30)
        await said(store, "y esto")
        await until(lambda: _kept(guided, 701), within=30)
    with contextlib.closing(sqlite3.connect(guided / "ledger.sqlite")) as ledger:
        rows = ledger.execute("SELECT text, person FROM said").fetchall()
    assert sorted(rows) == sorted([(f"{number}", ANA) for number in range(700)] + [("y esto", ANA)])


async def _kept(folder: Path, count: int) -> bool:
    with contextlib.closing(sqlite3.connect(folder / "ledger.sqlite")) as ledger:
        with contextlib.suppress(sqlite3.OperationalError):  # no table yet
            return bool(ledger.execute("SELECT count(*) FROM said").fetchone()[0] == count)
    return False


async def test_the_alarms_of_the_guide_ring_for_what_comes_from_now_on(
    guided: Path, store: Store, any_server: Server
) -> None:
    await said(store, "Es una urgencia de ayer")
    async with at_work(guided, "alarms", any_server.url):
        await said(store, "Hola", "¡Se desmayó mi madre!", "Gracias")
        assert await written(store, "alarms", 1) == [
            (ANA, '{"user_id":"+59112345678","text":"¡Se desmayó mi madre!"}'.encode())
        ]


@pytest.mark.slow
def test_the_handlers_of_the_guide_are_fully_typed(guided: Path) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(ROOT / ".mypy_cache"),
         *(str(guided / f"{name}.py") for name in GUIDED)],
        cwd=ROOT, env={**os.environ, "MYPYPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout
