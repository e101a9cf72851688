"""`cauce new group`: what it writes works, and nothing that is there is touched."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import Server
from pipeline import Process
from waiting import until

from streams import handlers, topology, wire
from streams.commands import new
from streams.connection import Store
from streams.errors import ConfigurationError

ROOT = Path(__file__).parents[3]
BEFORE = "[streams.inbound]\n[streams.outbound]\n\n[groups.there]\nreads = 'inbound'\nhandler = 'a:b'  # no end of line"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "streams.toml").write_text(BEFORE)
    return tmp_path


def made(folder: Path, name: str, *, reads: str = "inbound", batch: bool = False, write: bool = True) -> None:
    new.group(topology.load(folder / "streams.toml"), name, reads=reads, batch=batch, write=write)


def python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "MYPYPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True, check=False, timeout=100
    )


@pytest.mark.parametrize("batch", [False, True], ids=["single", "batch"])
@pytest.mark.parametrize("reads", ["inbound", "outbound"])
def test_its_test_passes_and_its_table_is_found_valid(folder: Path, batch: bool, reads: str) -> None:
    made(folder, f"my-{reads}-{batch}".lower(), reads=reads, batch=batch)
    module = f"my_{reads}_{batch}".lower()
    tested = python(folder, "-m", "unittest", f"test_{module}")
    assert tested.returncode == 0, tested.stderr
    assert "Ran 1 test" in tested.stderr
    after = topology.load(folder / "streams.toml")
    group = after.group(module.replace("_", "-"))
    assert handlers.find(group, after).batch is batch
    assert (group.reads, group.order) == (reads, "none" if batch else "key")
    assert (folder / "streams.toml").read_text().startswith(BEFORE + "\n")


@pytest.mark.slow
def test_what_it_writes_is_fully_typed(folder: Path) -> None:
    made(folder, "one")
    made(folder, "many", batch=True)
    checked = python(
        folder, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(ROOT / ".mypy_cache"),
        "one.py", "many.py", "test_one.py", "test_many.py",
    )  # fmt: skip
    assert checked.returncode == 0, checked.stdout


def test_its_table_is_only_shown_where_that_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(folder, "orders", write=False)
    assert (folder / "streams.toml").read_text() == BEFORE
    said = capsys.readouterr().out
    assert '[groups.orders]\nreads = "inbound"\nhandler = "orders:handle"\n' in said
    assert "python -m unittest test_orders" in said


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("there", "there is a group 'there' already"),
        ("json", "there is a module 'json' in Python or installed already"),
        ("pytest", "there is a module 'pytest' in Python or installed already"),
        ("class", "'class' is a word of Python"),
        ("mine", "mine.py is there already, and stays as it is"),
        ("my-own", "test_my_own.py is there already, and stays as it is"),
        ("No Name", "is no name; use lower-case letters"),
    ],
)
def test_what_cannot_be_a_group_is_refused_and_nothing_is_written(folder: Path, name: str, why: str) -> None:
    (folder / "mine.py").write_text("mine")
    (folder / "test_my_own.py").write_text("mine")
    with pytest.raises(ConfigurationError, match=why):
        made(folder, name)
    assert {path.name for path in folder.iterdir()} == {"streams.toml", "mine.py", "test_my_own.py"}
    assert (folder / "streams.toml").read_text() == BEFORE


def test_a_stream_that_is_not_there_is_named_with_the_nearest(folder: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no stream 'inbond'; did you mean 'inbound'"):
        made(folder, "orders", reads="inbond")


@pytest.mark.slow
async def test_what_it_writes_runs(folder: Path, store: Store, any_server: Server) -> None:
    made(folder, "one")
    made(folder, "many", batch=True)
    body = wire.encode(wire.Inbound(user_id="web-1", message_id="m", text="Hola"))
    for _ in range(3):
        await store.command("XADD", "inbound", "*", "key", "web-1", "type", "text", "body", body)
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "streams.cli", "work", "one", "many", cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "REDIS_URL": any_server.url},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    worker = Process("worker", child)

    async def done() -> bool:
        lines = (folder / "many.jsonl").read_text().splitlines() if (folder / "many.jsonl").exists() else []
        return len(lines) == 3 and await store.command("GET", "own:one:web-1") == b"3"

    try:
        await until(done)
    finally:
        status = await worker.end()
    assert status == 0, worker.lines
