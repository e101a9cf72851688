"""
The front door, put together: routes, middleware, lifespan, nothing else.

Each route says here who may ask.  `stores` is where a Redis of one's own is passed in.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from ingress import access, errors
from ingress.access import Access
from ingress.analytics import Analytics
from ingress.append import INBOUND
from ingress.appenders import Appenders
from ingress.chat import Chat
from ingress.dashboard.page import Page
from ingress.erasing import Erasing
from ingress.health import Health
from ingress.history import History
from ingress.observed import Observed
from ingress.openapi import Description
from ingress.operations import Operations
from ingress.quick import Quick
from ingress.timelines import Timelines
from ingress.waiting import Waiting
from ingress.webhooks import Webhooks
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.stores import Each, Stores
from streams.topology import Topology


def would_start(topology: Topology, settings: Settings) -> None:
    """Raises ConfigurationError: it would be open to strangers, or streams.toml has no `inbound`."""
    access.check(settings)
    if INBOUND not in topology.streams:
        raise ConfigurationError(f"{topology.path.name}: [streams.{INBOUND}] is missing: the ingress appends to it")


def create_app(topology: Topology, settings: Settings, stores: Stores | None = None) -> Starlette:
    """
    The ingress as an ASGI application.

    `app.state.waiting` knows whoever waits for a reply, `app.state.short` answers what need not pass through it.

    Args:
        stores: None opens REDIS_URL, and closes it in the end.

    Raises:
        ConfigurationError: it would be open to strangers, has no Redis, or streams.toml has no `inbound`.
    """
    would_start(topology, settings)
    ours = stores is None
    stores = stores or _open(topology, settings)
    appenders = Appenders(stores, topology)
    waiting = Each([Waiting(store, topology) for store in stores])

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await appenders.prepare()
        yield
        for one in waiting:
            await one.close()
        await appenders.close()
        if ours:
            await stores.close()

    chat, doorkeeper = Chat(stores, topology, appenders, waiting), Access(settings)
    routes = _routes(topology, settings, stores, appenders, chat, doorkeeper)
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Observed)],
        exception_handlers=errors.HANDLERS,
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.waiting, app.state.appenders = waiting, appenders
    app.state.short = Quick(chat, doorkeeper, routes[0])
    return app


def _open(topology: Topology, settings: Settings) -> Stores:
    if settings.embedded or settings.redis_url is None:
        raise ConfigurationError(
            "environment: REDIS_URL is not set; `cauce ingress` finds the embedded Redis by itself"
        )
    return Stores.open(settings.redis_url.reveal(), namespace=settings.namespace, shards=topology.shards)


def _routes(
    topology: Topology, settings: Settings, stores: Stores, appenders: Appenders, chat: Chat, doorkeeper: Access
) -> list[Route]:
    webhooks = Webhooks(topology, settings, appenders, doorkeeper)
    health = Health(stores, topology, [appender.pressure for appender in appenders])
    history, operations, page = History(stores, topology), Operations(stores, topology), Page(settings, health)
    erasing = Erasing(stores, topology, settings)

    guard = doorkeeper.guard
    routes = [
        Route("/chat", guard("ingress", chat.post), methods=["POST"]),  # first: quick.py's
        Route("/chat/{user_id}/messages", guard("ingress", chat.say), methods=["POST"]),
        Route("/whatsapp", guard("whatsapp", webhooks.receive), methods=["POST"]),
        Route("/whatsapp", webhooks.verify),
        Route("/health/live", health.live),
        Route("/health/ready", health.ready),
        Route("/health", guard("operator", health.whole)),
        Route("/chat/history/{user_id}", guard("operator", history.read)),
        Route("/chat/{user_id}/pause", guard("operator", chat.pause), methods=["POST"]),
        Route("/chat/{user_id}/resume", guard("operator", chat.resume), methods=["POST"]),
        Route("/chat/{user_id}", guard("operator", erasing.delete), methods=["DELETE"]),
        Route("/timeline/{id:path}", guard("operator", Timelines(stores, topology, settings.zone).read)),
        Route("/model/info", guard("operator", operations.model)),
        Route("/metrics", guard("operator", operations.metrics)),
        Route("/analytics", guard("operator", Analytics(stores, topology, settings).show)),
        Route("/openapi.json", guard("operator", Description(topology).show)),
        Route("/", guard("operator", page.show)),
    ]
    if not settings.production:
        routes += [
            Route("/redis/test", guard("operator", operations.test)),
            Route("/redis/stats", guard("operator", operations.stats)),
            Route("/redis/conversations", guard("operator", operations.conversations)),
            Route("/redis/clear", guard("operator", operations.clear), methods=["DELETE"]),
        ]
    return routes
