"""
taskiq with taskiq-redis' RedisStreamBroker: the ingress kicks a task, which kicks the delivery.

    ingress  uvicorn taskiq_app:app                 POST /chat -> answer.kiq -> 202
    worker   taskiq worker taskiq_app:answers       a hundred at once (--max-async-tasks, the default)
    egress   taskiq worker taskiq_app:deliveries    a hundred at once

Follows taskiq-python.github.io: "State and Dependencies" (a connection pool made at WORKER_STARTUP), "Taskiq + FastAPI"
(the broker started in the application's lifespan), "CLI" (uvloop is used where it is there; --max-prefetch for high
rates; acknowledged when_saved, the default, which is after the work), and taskiq-redis' README (the stream broker is
the one for durability; dynamic queue names).  No result backend: nobody reads results.  A queue for each task, else in
one queue a backlog's first reply is delivered after its last message is answered.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Annotated

import aiohttp
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from taskiq import Context, TaskiqDepends, TaskiqEvents, TaskiqState
from taskiq_redis import RedisStreamBroker

REDIS_URL = os.environ["REDIS_URL"]
SINK_URL = os.environ["SINK_URL"]
LATENCY = float(os.environ.get("LATENCY", "0"))
RATE_LIMIT = 10**9
AT_ONCE = 100


def queue(name: str) -> RedisStreamBroker:
    # What a dead worker leaves is claimed after a minute (by default ten), and its lock ends after ten seconds (never).
    return RedisStreamBroker(
        REDIS_URL, queue_name=name, maxlen=1_000_000, idle_timeout=60_000, unacknowledged_lock_timeout=10
    )


answers = queue("answers")
deliveries = queue("deliveries")


@answers.on_event(TaskiqEvents.WORKER_STARTUP)
async def start_answers(state: TaskiqState) -> None:
    state.redis = Redis.from_url(REDIS_URL, decode_responses=True, max_connections=AT_ONCE)
    await deliveries.startup()


@answers.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def stop_answers(state: TaskiqState) -> None:
    await deliveries.shutdown()
    await state.redis.aclose()


@deliveries.on_event(TaskiqEvents.WORKER_STARTUP)
async def start_deliveries(state: TaskiqState) -> None:
    state.http = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE))


@deliveries.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def stop_deliveries(state: TaskiqState) -> None:
    await state.http.close()


@answers.task
async def answer(user_id: str, message: str, message_id: str, context: Annotated[Context, TaskiqDepends()]) -> None:
    redis: Redis = context.state.redis
    async with redis.pipeline(transaction=False) as pipe:
        pipe.incr(f"rate_limit:{user_id}").expire(f"rate_limit:{user_id}", 60, nx=True).get(f"conversation:{user_id}")
        count, _, said = await pipe.execute()
    if count > RATE_LIMIT:
        return
    history = json.loads(said) if said else []
    history.append({"role": "user", "content": message, "timestamp": datetime.now(UTC).isoformat()})
    if LATENCY > 0:
        await asyncio.sleep(LATENCY)
    reply = f"echo: {message}"
    history.append({"role": "assistant", "content": reply, "timestamp": datetime.now(UTC).isoformat()})
    await redis.set(f"conversation:{user_id}", json.dumps(history[-20:]), ex=3600)
    await deliver.kiq(user_id, reply, message_id)


@deliveries.task
async def deliver(user_id: str, message: str, message_id: str, context: Annotated[Context, TaskiqDepends()]) -> None:
    body = {"user_id": user_id, "message": message, "in_reply_to": [message_id]}
    async with context.state.http.post(SINK_URL, json=body) as response:
        response.raise_for_status()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    if not answers.is_worker_process:
        await answers.startup()
    yield
    if not answers.is_worker_process:
        await answers.shutdown()


async def chat(request: Request) -> JSONResponse:
    body = await request.json()
    task = await answer.kiq(body["user_id"], body["message"], body["message_id"])
    return JSONResponse({"status": "accepted", "task_id": task.task_id}, status_code=202)


async def live(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/health/live", live)], lifespan=lifespan)
