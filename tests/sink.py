"""
A webhook receiver for tests: keeps every request in memory and in a file, and fails on demand.

In a test:  `async with Sink() as sink: sink.plan(status=503, count=2); …; await sink.received(3)`.
On its own: `python tests/sink.py --port 0 --file out.jsonl` prints its address as the first line; each request is one
line of JSON in the file; `POST /_sink/plan` takes a plan as JSON, `GET /_sink/requests` gives all requests,
`POST /_sink/reset` forgets requests and plans.  Knows nothing of Cauce.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import ssl
import sys
import time
from collections import deque
from contextlib import AsyncExitStack
from pathlib import Path
from typing import IO, Any

import msgspec
from aiohttp import web

STARTING_UP = "n8n is starting up. Please wait"


class Plan(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How the next requests are answered."""

    status: int = 200
    count: int | None = 1
    """So many requests; None: all from now on."""
    body: str = "{}"
    headers: dict[str, str] = {}
    delay: float = 0.0
    """Seconds before the answer."""
    hang: bool = False
    """No answer, until the caller gives up or the sink closes."""
    drop: bool = False
    """The connection is closed without an answer, as one is that was closed while it was idle."""
    starting_up: bool = False
    """200 and the page n8n shows while it boots."""


class Received(msgspec.Struct, kw_only=True):
    """One request, as it came."""

    order: int
    """From 0."""
    at: float
    """Unix seconds."""
    method: str
    path: str
    headers: dict[str, str]
    """Names in lower case."""
    body: str
    connection: int
    """From 0; the same number came over the same connection."""
    answered: int | None = None
    """The status that was, or will be, sent; None: no answer."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def raw(self) -> bytes:
        return self.body.encode()


class Sink:
    """A receiver on a free port of this machine."""

    def __init__(
        self,
        *,
        port: int = 0,
        file: Path | None = None,
        path: str = "/webhook/cauce",
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.requests: list[Received] = []
        self.url = ""
        self._port, self._path, self._tls, self._host = port, path, tls, host
        self._file: IO[str] | None = file.open("a", encoding="utf-8") if file else None
        self._plans: deque[Plan] = deque()
        self._arrived = asyncio.Condition()
        self._closing = asyncio.Event()
        self._connections: dict[object, int] = {}
        self._stack = AsyncExitStack()

    def plan(self, **how: Any) -> None:
        """Answer the next requests like this (see Plan), after what was planned before; then 200 again."""
        self._plans.append(msgspec.convert(how, Plan))

    def reset(self) -> None:
        self.requests.clear()
        self._plans.clear()

    async def received(self, count: int, *, seconds: float = 20.0) -> list[Received]:
        """Wait until so many requests have come.  Raises TimeoutError."""
        async with asyncio.timeout(seconds), self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)
        return self.requests

    async def __aenter__(self) -> Sink:
        app = web.Application(client_max_size=16 * 1024 * 1024)
        app.router.add_post("/_sink/plan", self._take_plan)
        app.router.add_get("/_sink/requests", self._tell)
        app.router.add_post("/_sink/reset", self._forget)
        app.router.add_route("*", "/{path:.*}", self._take)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, self._host, self._port, ssl_context=self._tls)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http{'s' if self._tls else ''}://{self._host}:{port}{self._path}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._closing.set()
        await self._stack.aclose()
        if self._file:
            self._file.close()

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        plan = self._next_plan()
        received = Received(
            order=len(self.requests),
            at=time.time(),
            method=request.method,
            path=request.path_qs,
            headers={name.lower(): value for name, value in request.headers.items()},
            body=body.decode(errors="replace"),
            connection=self._connections.setdefault(request.protocol, len(self._connections)),
            answered=None if plan.hang or plan.drop else plan.status,
        )
        self.requests.append(received)
        if self._file:
            self._file.write(msgspec.json.encode(received).decode() + "\n")
            self._file.flush()
        async with self._arrived:
            self._arrived.notify_all()
        return await self._answer(request, plan)

    async def _answer(self, request: web.Request, plan: Plan) -> web.StreamResponse:
        if plan.hang:
            await self._closing.wait()
        if plan.drop or plan.hang:
            if request.transport:
                request.transport.close()
            return web.Response()
        if plan.delay:
            await asyncio.sleep(plan.delay)
        if plan.starting_up:
            return web.Response(text=STARTING_UP, content_type="text/html")
        headers = {"content-type": "application/json", **plan.headers}
        return web.Response(status=plan.status, body=plan.body.encode(), headers=headers)

    def _next_plan(self) -> Plan:
        if not self._plans:
            return Plan()
        plan = self._plans[0]
        if plan.count is not None:
            plan.count -= 1
            if plan.count <= 0:
                self._plans.popleft()
        return plan

    async def _take_plan(self, request: web.Request) -> web.Response:
        try:
            self._plans.append(msgspec.json.decode(await request.read(), type=Plan))
        except msgspec.MsgspecError as error:
            return web.json_response({"error": str(error)}, status=400)
        return web.json_response({"planned": len(self._plans)})

    async def _tell(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self.requests), content_type="application/json")

    async def _forget(self, _: web.Request) -> web.Response:
        self.reset()
        return web.json_response({})


async def _serve(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Sink(port=options.port, file=options.file, path=options.path) as sink:
        if options.status != 200 or options.delay or options.hang or options.starting_up or options.drop:
            sink.plan(
                status=options.status,
                count=options.count,
                delay=options.delay,
                hang=options.hang,
                drop=options.drop,
                starting_up=options.starting_up,
            )
        sys.stdout.write(sink.url + "\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="A webhook receiver for tests.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--path", default="/webhook/cauce", help="of the address printed; every path is answered")
    parser.add_argument("--file", type=Path, help="append each request to it as a line of JSON")
    parser.add_argument("--status", type=int, default=200, help="answer with this")
    parser.add_argument("--count", type=int, default=None, help="so many requests fail, then 200; without: all")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before each answer")
    parser.add_argument("--hang", action="store_true", help="never answer")
    parser.add_argument("--drop", action="store_true", help="close the connection without an answer")
    parser.add_argument("--starting-up", action="store_true", help="answer as n8n does while it boots")
    asyncio.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
