"""
A worker's three pages: is it alive, is it ready, and its metrics.

Knows no group and no model; it asks.  The ingress has pages of its own.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from streams import log, metrics
from streams.errors import ConfigurationError
from streams.settings import PROBE_SOCKET

_log = log.get("probe")


@asynccontextmanager
async def serve(
    port: int,
    ready: Callable[[], bool],
    live: Callable[[], bool] = lambda: True,
    host: str = "0.0.0.0",  # noqa: S104 - Docker and Kubernetes ask from outside, and nothing here tells of a person
) -> AsyncIterator[int]:
    """
    Answer `/health/live`, `/health/ready` and `/metrics` while the context is open.

    Args:
        port: 0 takes any free one, or none where PROBE_SOCKET is set.

    Yields:
        the port; 0 for none.

    Raises:
        ConfigurationError: the port is taken.
    """
    runner = web.AppRunner(_pages(ready, live), access_log=None, handle_signals=False)
    await runner.setup()
    try:
        socket = os.environ.get(PROBE_SOCKET)
        if socket:
            await web.UnixSite(runner, socket).start()
        if port or not socket:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                raise ConfigurationError(
                    f"environment: WORKER_PORT = {port} cannot be listened on: {error.strerror or error}; "
                    "choose another, or leave it out"
                ) from error
        taken = [int(address[1]) for address in runner.addresses if isinstance(address, tuple)]
        _log.debug("probe.listening", port=taken[0] if taken else None)
        yield taken[0] if taken else 0
    finally:
        await runner.cleanup()


def _pages(ready: Callable[[], bool], live: Callable[[], bool]) -> web.Application:
    def answer(check: Callable[[], bool], word: str) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def page(_: web.Request) -> web.Response:
            good = check()
            return web.json_response({"status": word if good else f"not {word}"}, status=200 if good else 503)

        return page

    async def numbers(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": metrics.CONTENT_TYPE})

    application = web.Application()
    application.router.add_get("/health/live", answer(live, "live"))
    application.router.add_get("/health/ready", answer(ready, "ready"))
    application.router.add_get("/metrics", numbers)
    return application
