"""The ingress behind a real socket, and the inference group as a puppet."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from protocol import end, nothing

from ingress.__main__ import _Server, config
from ingress.app import create_app
from ingress.listening import bind
from streams import topology
from streams.connection import Store
from streams.effects import Answer, Effects, Handler, Output
from streams.settings import Secret, Settings
from streams.stores import Stores
from streams.topology import Topology
from streams.turns import Turns

RECORDINGS = Path(__file__).parents[1] / "recordings"
ANA = "+59112345678"
TOKEN, OPERATOR = "t" * 32, "o" * 32


def a_topology(**tables: Any) -> Topology:
    """inbound → group g → outbound, and statuses, which nobody reads; `debounce` and `debounce_max` are of g."""
    group = {"reads": "inbound", "writes": ["outbound"], "handler": "nowhere:nothing"}
    group |= {name: tables.pop(name) for name in ("debounce", "debounce_max") if name in tables}
    streams = {"inbound": {}, "outbound": {}, "statuses": {}} | tables.pop("streams", {})
    return topology.parse({"streams": streams, "groups": {"g": group}, **tables})


def secret(*values: str) -> tuple[Secret, ...]:
    return tuple(map(Secret, values))


class _Quiet(_Server):
    """Leaves the signals to pytest, and ends without uvicorn's tenths of a second; test_main.py has the real end."""

    async def shutdown(self, sockets: Any = None) -> None:
        for server in self.servers:
            server.close()
        while self.server_state.tasks or self.server_state.connections:
            for connection in list(self.server_state.connections):
                connection.shutdown()
            await asyncio.sleep(0)
        await self.lifespan.shutdown()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Front:
    """A client of one ingress, which is at `url`."""

    def __init__(self, server: _Server, session: aiohttp.ClientSession, port: int) -> None:
        self.server, self.session, self.port = server, session, port
        self.url = f"http://127.0.0.1:{port}"

    async def ask(self, method: str, path: str, **how: Any) -> tuple[int, Any, dict[str, str]]:
        """Status, JSON (or text, or None), and headers."""
        from yarl import URL

        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, allow_redirects=False, **how) as response:
            raw = await response.read()
            content = msgspec.json.decode(raw) if raw and response.content_type == "application/json" else raw.decode()
            return response.status, content, {name.lower(): value for name, value in response.headers.items()}

    async def get(self, path: str, **headers: str) -> tuple[int, Any]:
        return (await self.ask("GET", path, headers=headers))[:2]

    async def post(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Bytes go as they are, anything else as JSON."""
        how = {"data": io.BytesIO(body)} if isinstance(body, bytes) else {"json": body}
        return (await self.ask("POST", path, headers={"Content-Type": "application/json", **headers}, **how))[:2]

    async def say(self, text: str, message_id: str | None = None, user_id: str = ANA, **headers: str) -> Any:
        """POST /chat; the answer, with its HTTP status as `http`."""
        body = {"user_id": user_id, "message": text, **({"message_id": message_id} if message_id else {})}
        status, answer = await self.post("/chat", body, **headers)
        return answer | {"http": status}


@contextlib.asynccontextmanager
async def front(store: Store, top: Topology | None = None, **settings: Any) -> AsyncIterator[Front]:
    """A served ingress over `store` while the context is open."""
    told = Settings(ingress_port=0, **settings)
    [listeners] = bind(told)
    server = _Quiet(config(create_app(top or a_topology(), told, Stores.alone(store)), told), listeners, "test")
    serving = asyncio.create_task(server.serve(sockets=listeners.own))
    while not server.started:
        assert not serving.done(), serving.exception()
        await asyncio.sleep(0)
    async with aiohttp.ClientSession() as session:
        try:
            yield Front(server, session, listeners.port)
        finally:
            await session.close()
            if not server.should_exit:  # a second signal ends the process
                server._on_signal()
            await serving


class Puppet:
    """The inference group: takes turns and ends them when the test says so."""

    def __init__(self, store: Store, top: Topology | None = None) -> None:
        self.store, top = store, top or a_topology()
        self.turns = Turns(store, top, top.groups["g"], Handler(handle=nothing))

    async def start(self) -> Puppet:
        await self.turns.open()
        return self

    async def reply(self, text: str | None = "hola", status: Any = "replied", **body: Any) -> list[str]:
        """Wait for a turn and answer it; the entries it held."""
        follower = self.store.follower()
        cursor = "0"
        try:
            while not (taken := await self.turns.take(1, 100, 1)).grants:
                cursor = taken.cursor
                await follower.read({self.store.keys.stream("inbound"): cursor}, 2000)
        finally:
            await follower.close()
        outputs = [Output(stream="outbound", type="reply", body={"message": text}, answers=True)] if text else []
        effects = Effects(outputs=outputs, answer=Answer(status=status, body={"reply": text} | body))
        await end(self.turns, taken.grants[0], effects)
        return [message.id for message in taken.grants[0].turn.messages]


async def entries(store: Store, stream: str = "inbound") -> list[dict[str, str]]:
    """What lies on a stream, without the ids."""
    found = await store.command("XRANGE", store.keys.stream(stream), "-", "+")
    return [{flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)} for _, flat in found]
