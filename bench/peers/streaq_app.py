"""
streaQ: a task queue on Redis streams; the ingress enqueues a task, which enqueues the delivery.

    ingress  uvicorn streaq_app:app              POST /chat -> answer.enqueue -> 202
    worker   streaq run streaq_app:answers       a hundred at once
    egress   streaq run streaq_app:deliveries    a hundred at once

Follows streaq.readthedocs.io: Getting started (lifespan, worker context), Tasks (silent; ttl=0 stores no results, as
nobody reads them), Framework integrations (the worker's context manager in the application's lifespan), and Workers
(queue_name for several queues; "Worker optimization": uvloop, coredis' optimized mode).  A queue for each task, else
in one queue a backlog's first reply is delivered after its last message is answered.  It is at least once: a task of a
worker that died is claimed after idle_timeout, 60 s by default, and tried three times.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import aiohttp
import coredis
from coredis import PureToken
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from streaq import Worker

REDIS_URL = os.environ["REDIS_URL"]
SINK_URL = os.environ["SINK_URL"]
LATENCY = float(os.environ.get("LATENCY", "0"))
RATE_LIMIT = 10**9
AT_ONCE = 100

coredis.Config.optimized = True


@dataclass
class Delivering:
    """What a running worker of `deliveries` has."""

    http: aiohttp.ClientSession


@asynccontextmanager
async def while_delivering() -> AsyncIterator[Delivering]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as http:
        yield Delivering(http)


@asynccontextmanager
async def while_answering() -> AsyncIterator[None]:
    async with deliveries:  # to enqueue there
        yield


deliveries: Worker[Delivering] = Worker(
    REDIS_URL,
    queue_name="deliveries",
    concurrency=AT_ONCE,
    lifespan=while_delivering,
    anyio_kwargs={"use_uvloop": True},
)
answers: Worker[None] = Worker(
    REDIS_URL,
    queue_name="answers",
    concurrency=AT_ONCE,
    lifespan=while_answering,
    anyio_kwargs={"use_uvloop": True},
)


@answers.task(silent=True, ttl=0)
async def answer(user_id: str, message: str, message_id: str) -> None:
    async with answers.redis.pipeline(transaction=False) as pipe:
        counted = pipe.incr(f"rate_limit:{user_id}")
        pipe.expire(f"rate_limit:{user_id}", 60, PureToken.NX)
        stored = pipe.get(f"conversation:{user_id}")
    if await counted > RATE_LIMIT:
        return
    said = await stored
    history = json.loads(said) if said else []
    history.append({"role": "user", "content": message, "timestamp": datetime.now(UTC).isoformat()})
    if LATENCY > 0:
        await asyncio.sleep(LATENCY)
    reply = f"echo: {message}"
    history.append({"role": "assistant", "content": reply, "timestamp": datetime.now(UTC).isoformat()})
    await answers.redis.set(f"conversation:{user_id}", json.dumps(history[-20:]), ex=3600)
    await deliver.enqueue(user_id, reply, message_id)


@deliveries.task(silent=True, ttl=0)
async def deliver(user_id: str, message: str, message_id: str) -> None:
    body = {"user_id": user_id, "message": message, "in_reply_to": [message_id]}
    async with deliveries.context.http.post(SINK_URL, json=body) as response:
        response.raise_for_status()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with answers:
        yield


async def chat(request: Request) -> JSONResponse:
    body = await request.json()
    task = await answer.enqueue(body["user_id"], body["message"], body["message_id"])
    return JSONResponse({"status": "accepted", "task_id": task.id}, status_code=202)


async def live(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/health/live", live)], lifespan=lifespan)
