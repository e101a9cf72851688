"""
A bot that has answered people, for what looks back at it: in a folder and a Redis of its own, and in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from conftest import Server
from waiting import until

from processors.inference.handler import reply
from processors.inference.resources import Resources
from streams import topology, wire
from streams.commands import lab
from streams.commands.entry import Place
from streams.commands.lab import Asked
from streams.commands.report import Form
from streams.connection import Store
from streams.effects import Handler
from streams.lab.changes import Changes
from streams.settings import Settings
from streams.wire import Inbound
from streams.worker import Worker

ROOT = Path(__file__).parents[1]
ANA, LUIS, EVA = "+59171111111", "+59172222222", "+59173333333"

HANDLER = """
import asyncio
from streams import Effects, Output, Turn, Write, handler
from streams.errors import Bury, Retry
from processors.inference import history
from processors.inference.resources import opened
from processors.inference.retelling import retell
from streams.wire import Inbound, Reply


@handler({options})
async def handle(turn):
    def answer(text, *writes):
        body = Reply(id="reply_" + turn.id, user_id=turn.key, message=text, created_at="")
        return Effects(outputs=[Output(stream="outbound", type="reply", body=body)], writes=list(writes))
    said = [message.decode(Inbound).text for message in turn.messages]
{lines}
"""


class Outcome(dict[str, Any]):
    """What `--json` says, with the exit status."""

    status: int

    @property
    def verdicts(self) -> list[str]:
        return [row["verdict"] for row in self["rows"]]

    def texts(self, side: str = "now") -> list[str]:
        """What was said in each turn."""
        return [" / ".join(each["text"] for each in row[side]) for row in self["rows"]]


class Clinic:
    """A folder with streams.toml, a Redis, and a bot that says people's own words back."""

    def __init__(self, store: Store, server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shutil.copy(ROOT / "streams.toml", folder)
        settings = {
            "REDIS_URL": server.url,
            "DATA_DIR": str(folder / "data"),
            "MODEL": "echo",
            "TIMEZONE": "America/La_Paz",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        for name in ("DEBOUNCE", "NAMESPACE", "SYSTEM_PROMPT_FILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        self.store, self.folder = store, folder
        self.place = Place(folder / "streams.toml", None)
        self.topology = topology.load(folder / "streams.toml").debounced(0)
        self._said = 0

    @contextlib.asynccontextmanager
    async def open(self, handler: Handler = reply, group: str = "inference", limit: int = 0) -> AsyncIterator[None]:
        """The group is served while the context is open, and has answered everybody at its end."""
        here = Resources(topology=self.topology, settings=Settings(rate_limit_per_minute=limit))
        worker = Worker(self.store, self.topology, self.topology.group(group), handler, here)
        running = asyncio.create_task(worker.run(5))
        try:
            await worker.opened.wait()
            yield
            await until(lambda: self.silent(group))
        finally:
            worker.stop()
            await running

    async def silent(self, group: str = "inference") -> bool:
        """Everybody has been answered."""
        keys = self.store.keys
        cursor = await self.store.command("GET", keys.group("cursor", group))
        unread = await self.store.command("XRANGE", keys.stream("inbound"), f"({cursor.decode()}", "+", "COUNT", "1")
        return not unread and (await self.store.command("XPENDING", keys.stream("inbound"), group))[0] == 0

    async def say(self, person: str, text: str, **more: Any) -> str:
        """Somebody writes, and has been answered."""
        entry = await self.write(person, text, **more)
        await until(self.silent)
        return entry

    async def write(self, person: str, text: str, at: str = "*", **more: Any) -> str:
        """Somebody writes, now or at the time of this id."""
        self._said += 1
        usual = {"user_id": person, "message_id": f"m{self._said}", "text": text, "name": "Ana Pérez"}
        body = Inbound(**(usual | more))
        fields = ("key", person, "type", "text", "body", wire.encode(body), "v", "1", "trace", wire.new_trace())
        added = await self.store.command("XADD", self.store.keys.stream("inbound"), at, *fields)
        return str(added.decode())

    def handler(self, body: str, **how: str) -> None:
        """Write a handler, `mine:handle`; `said` is what it is told, and it has `answer(text, *writes)`."""
        lines = "\n".join("    " + line for line in body.splitlines())
        options = ", ".join(f"{name}={value}" for name, value in how.items())
        (self.folder / "mine.py").write_text(HANDLER.format(options=options, lines=lines))

    async def replay(
        self,
        *,
        form: dict[str, Any] | None = None,
        anew: bool = True,
        changes: dict[str, Any] | None = None,
        **asked: Any,
    ) -> Outcome:
        """Ask again what was answered here, with these options."""
        what = Asked(changes=Changes(**(changes or {})), **asked)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            status = await lab.replay(self.place, what, Form(as_json=True, full=True, **(form or {})), anew=anew)
        outcome = Outcome(json.loads(out.getvalue()))
        outcome.status = status
        return outcome
