"""docs/from-the-original.md: all it names exists; and the original's injection points are places to inject at."""

from __future__ import annotations

import ast
import asyncio
import json
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from sources import command, parsed
from starlette.applications import Starlette
from starlette.routing import Route

from ingress.app import create_app
from processors.inference.generation import Generated, Request
from processors.inference.handler import reply
from processors.inference.resources import Resources
from streams import cli, handlers, keys, log, metrics, settings, topology, wire
from streams.connection import Store
from streams.effects import Message, Turn
from streams.settings import Settings
from streams.stores import Stores
from streams.worker import Worker

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "from-the-original.md").read_text(encoding="utf-8")
ANA = "+59112345678"

ITEMS = {
    "Diagram": 46, "Flow of data": 18, "Data in Redis": 18, "Injection of dependencies": 8, "Endpoints": 6,
    "Configuration": 11, "Security": 11, "Monitoring": 9, "Advantages": 20, "Suggested next steps": 15,
}  # fmt: skip
"""Parts of the original in its order, and how many things each names: none may go missing from the page."""


def rows(part: str) -> list[tuple[str, str]]:
    """What the original names in a part, and where it is now."""
    text = PAGE.partition(f"\n## {part}\n")[2].partition("\n## ")[0]
    found = re.findall(r"^\| (.+?) \| (.+) \|$", text, re.MULTILINE)
    return [(old, now) for old, now in found if old != "in the original"]


ROWS = [(part, old, now) for part in ITEMS for old, now in rows(part)]


def test_every_part_is_there_in_its_order_and_complete() -> None:
    assert re.findall(r"^## (.+)$", PAGE, re.MULTILINE) == list(ITEMS)
    assert {part: len(rows(part)) for part in ITEMS} == ITEMS


def test_the_log_lines_are_the_texts_that_the_console_prints() -> None:
    for old, now in rows("Monitoring"):
        text = log.TEXTS[now.strip("`")]
        assert re.fullmatch(re.sub(r"\\{\w+\\}", ".+", re.escape(text)), old), old


def test_the_endpoints_are_the_originals() -> None:
    for old, now in rows("Endpoints"):
        path, method = old.split()
        assert f"`{method} {path}`" in now


@cache
def routes() -> set[str]:
    """`POST /chat`, …: what the application answers in development."""
    nowhere = Stores.alone(Store.open("unix:///nowhere"))
    app: Starlette = create_app(topology.load(ROOT / "streams.toml"), Settings(), nowhere)
    found = [route for route in app.routes if isinstance(route, Route)]
    return {f"{method} {route.path}" for route in found for method in route.methods or ()}


@cache
def events() -> set[str]:
    """Every constant that could be an event, in any of the sources."""
    sources = [path.read_text(encoding="utf-8") for package in ("ingress", "processors", "streams")
               for path in (ROOT / package).rglob("*.py")]  # fmt: skip
    return {found for text in sources for found in re.findall(r'\.(?:debug|info|warning|error)\(\s*"([a-z_.]+)"', text)}


def symbol(path: Path, name: str) -> bool:
    """Is there a function, class, method, field or constant of this name (`Turns.take`) in the file?"""
    nodes: list[ast.AST] = [parsed(path)]
    for part in name.split("."):
        nodes = [child for node in nodes for child in ast.iter_child_nodes(node) if part in _named(child)]
    return bool(nodes)


def _named(node: ast.AST) -> list[str]:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def in_topology(said: str) -> bool:
    """`[[actions]]`, `[texts] too_many`, …: is it in the shipped streams.toml, or has it a default?"""
    table, _, key = said.strip("[").replace("]]", "]").partition("]")
    found: Any = topology.load(ROOT / "streams.toml")
    for part in [*table.split("."), *key.split()]:
        if isinstance(found, dict):
            found = found.get(part)
        else:
            found = getattr(found, part, None)
    return found is not None


WORDS = {"inbound", "outbound", "handler", "lifespan", "recall", "action", "slots"}
"""Names of streams, keys of tables and arguments, beside the file or table that has them."""


def exists(said: str) -> bool:
    commands = command(cli.app).commands  # type: ignore[attr-defined]
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    variables = {field.upper() for field in settings.Settings.__struct_fields__}
    counted = {metric._name for metric in vars(metrics).values() if hasattr(metric, "_labelnames")}
    path, _, name = said.partition(":")
    if re.fullmatch(r"(GET|POST|DELETE) /\S*", said):
        return said in routes()
    if re.fullmatch(r"[A-Z_]{3,}(=\S+)?", said):
        return said.partition("=")[0] in variables and _taken(said)
    if said.startswith(("cauce ", "make ")):
        return said.split()[1] in (commands if said.startswith("cauce") else targets)
    if said.startswith("["):
        return in_topology(said)
    if (ROOT / path).exists():
        return not name or symbol(ROOT / path, name)
    return said in WORDS | counted | events() | {kind.pattern for kind in keys.TABLE.values()}


def _taken(said: str) -> bool:
    """Does the reader of settings take this value?"""
    variable, given, value = said.partition("=")
    return not given or getattr(settings.load({variable: value}, ROOT / "nowhere"), variable.lower()) is not None


@pytest.mark.parametrize(("part", "old", "now"), ROWS, ids=[old[:40] for _, old, _ in ROWS])
def test_where_it_lives_now_exists(part: str, old: str, now: str) -> None:
    marked = re.findall(r"`([^`]+)`", now)
    for said in marked:
        assert exists(said), f"{part}: {old}: `{said}` is nothing we have"


@pytest.mark.parametrize("said", [
    "streams/turns.py:Turns.conquer", "streams/nowhere.py", "GET /nowhere", "nothing:<user>", "no.event", "NO_SETTING",
    "RATE_LIMIT_PER_MINUTE", "[texts] nothing", "cauce conquer", "make haste",
])  # fmt: skip
def test_what_does_not_exist_would_be_seen(said: str) -> None:
    assert exists(said) == (said == "RATE_LIMIT_PER_MINUTE")


def test_nothing_is_explained_away() -> None:
    """A row without code marks is one of these."""
    without = {old for _, old, now in ROWS if "`" not in now}
    assert without == {"EXTERNAL SERVICES", "app/core/dependencies.py", "Fácil de entender",
                       "repo.extend_ttl(user_id)"}  # fmt: skip


class Parrot:
    """An engine of one's own."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    async def generate(self, request: Request) -> Generated:
        self.asked.append(request)
        return Generated(text="¡Claro que sí!", tokens=3)

    def describe(self) -> dict[str, Any]:
        return {"name": "parrot"}

    def ready(self) -> bool:
        return True

    async def close(self) -> None:
        return None


async def test_an_engine_of_ones_own_answers() -> None:
    parrot = Parrot()
    said = wire.Inbound(user_id=ANA, message_id="m1", text="Hola")
    message = Message(id="1759658400000-0", type="text", body=wire.encode(said))
    turn = Turn(group="inference", key=ANA, messages=[message], state={}, resources=Resources(engine=parrot),
                now_ms=1_759_658_405_000)  # fmt: skip
    effects = await reply.handle(turn)
    assert effects is not None
    [output] = effects.outputs
    assert isinstance(output.body, wire.Reply)
    assert output.body.message == "¡Claro que sí!"
    assert parrot.asked[0].lines[-1].content == "Hola"


async def posted(app: Starlette, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """POST as an ASGI server would; status and JSON."""
    sent: list[Any] = []
    received = iter([{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}])

    async def receive() -> Any:
        return next(received, {"type": "http.disconnect"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": b"", "root_path": "",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


async def test_a_redis_of_ones_own_is_the_one_written_to(store: Store, own_server: Server) -> None:
    # Given settings that name one Redis, and another that is passed in
    named = settings.load({"REDIS_URL": "redis://127.0.0.1:1/0"}, ROOT / "nowhere")
    passed = Store.open(own_server.url)
    app = create_app(topology.load(ROOT / "streams.toml"), named, Stores.alone(passed))
    try:
        async with app.router.lifespan_context(app):
            status, answer = await posted(app, "/chat", {"user_id": ANA, "message": "Hola"})
        # Then it is there, and not closed by the application that was given it
        assert status == 202, answer
        [[entry, _]] = await passed.command("XRANGE", "inbound", "-", "+")
        assert entry.decode() == answer["entry_id"]
        assert await store.command("XLEN", "inbound") == 0
    finally:
        await passed.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A streams.toml whose inference is somebody else's."""
    (tmp_path / "swapped_inference.py").write_text(
        """
from contextlib import asynccontextmanager
from streams import Effects, Output, Turn, handler

@asynccontextmanager
async def opened(group, topology, settings, stores):
    yield f"{settings.model} behind {group.name}"

@handler(lifespan=opened)
async def answer(turn: Turn) -> Effects:
    return Effects(outputs=[Output(stream="outbound", type="reply", body={"by": turn.resources})])
""",
        encoding="utf-8",
    )
    shipped = (ROOT / "streams.toml").read_text(encoding="utf-8")
    assert tomllib.loads(shipped)["groups"]["inference"]["handler"] == "processors.inference.handler:reply"
    swapped = shipped.replace("processors.inference.handler:reply", "swapped_inference:answer")
    (tmp_path / "streams.toml").write_text(swapped, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    monkeypatch.undo()


async def test_a_handler_with_resources_of_its_own_takes_the_place_of_inference(folder: Path, store: Store) -> None:
    swapped = topology.load(folder / "streams.toml").debounced(0)
    group, here = swapped.group("inference"), Settings(model="mine")
    found = handlers.find(group, swapped)
    assert found.lifespan is not None
    async with found.lifespan(group, swapped, here, Stores.alone(store)) as resources:
        worker = Worker(store, swapped, group, found, resources)
        running = asyncio.create_task(worker.run(5))
        written = store.follower()
        try:
            await store.command("XADD", "inbound", "*", "key", ANA, "type", "text", "body", "{}")
            async with asyncio.timeout(30):
                while not (reply := await written.read({"outbound": "0-0"}, block_ms=2000)):
                    pass
        finally:
            await written.close()
            worker.stop()
            await asyncio.wait_for(running, 30)
    [(_, [(_, fields)])] = reply
    assert fields["body"] == b'{"by":"mine behind inference"}'
