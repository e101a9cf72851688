"""
FastStream with Redis streams: the ingress publishes to `inbound`, a subscriber answers to `outbound`, another delivers.

    ingress  uvicorn faststream_app:app             POST /chat -> broker.publish -> 202
    worker   faststream run faststream_app:worker   inbound, a hundred at once (max_workers)
    egress   faststream run faststream_app:egress   outbound, a hundred at once

Follows faststream.ag2.ai: Redis, "Consumer Groups" (a consumer's name is its own; maxlen), "Message Claiming", pattern
1 (a second subscriber takes over what has been pending for ten seconds), "Acknowledgment" (NACK_ON_ERROR leaves what
failed pending), "Logging" (the broker's lines for each message at DEBUG), "Lifespan Context Manager", and Integrations,
"HTTP frameworks" (the broker started in the application's lifespan).  `faststream run` uses uvloop where it is there.
"""

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated

import aiohttp
from faststream import AckPolicy, Context, ContextRepo, FastStream
from faststream.redis import RedisBroker, StreamSub
from faststream.redis.annotations import Redis
from pydantic import BaseModel
from redis.exceptions import ResponseError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

REDIS_URL = os.environ["REDIS_URL"]
SINK_URL = os.environ["SINK_URL"]
LATENCY = float(os.environ.get("LATENCY", "0"))
RATE_LIMIT = 10**9
AT_ONCE = 100
MAX_LEN = 1_000_000
CONSUMER = f"process-{os.getpid()}"


class Message(BaseModel):
    """What the stream `inbound` carries."""

    user_id: str
    message: str
    message_id: str


class Reply(BaseModel):
    """What the stream `outbound` carries and the webhook receives."""

    user_id: str
    message: str
    in_reply_to: list[str]


def new_messages(stream: str, group: str) -> StreamSub:
    return StreamSub(stream, group=group, consumer=CONSUMER, max_records=100)


def abandoned_messages(stream: str, group: str) -> StreamSub:
    return StreamSub(stream, group=group, consumer=f"{CONSUMER}-claims", min_idle_time=10_000, polling_interval=1_000)


def connected() -> RedisBroker:
    return RedisBroker(
        REDIS_URL,
        max_connections=AT_ONCE + 28,  # one for each command under way, and for the reads that block
        ack_policy=AckPolicy.NACK_ON_ERROR,
        log_level=logging.DEBUG,  # two lines for each message otherwise
    )


# Ingress

broker = connected()


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    await broker.start()
    # A subscriber makes its group at `$`: what was published before the first one ever started, it would not see.
    for stream, group in (("inbound", "workers"), ("outbound", "egress")):
        with suppress(ResponseError):  # BUSYGROUP: it is there
            await broker._connection.xgroup_create(stream, group, id="0", mkstream=True)
    yield
    await broker.stop()


async def chat(request: Request) -> JSONResponse:
    message = Message.model_validate(await request.json())
    entry_id = await broker.publish(message, stream="inbound", maxlen=MAX_LEN)
    return JSONResponse({"status": "accepted", "entry_id": entry_id.decode()}, status_code=202)


async def live(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/health/live", live)], lifespan=lifespan)


# Worker

worker_broker = connected()
worker = FastStream(worker_broker)
outbound = worker_broker.publisher(stream=StreamSub("outbound", maxlen=MAX_LEN))


@worker_broker.subscriber(stream=new_messages("inbound", "workers"), max_workers=AT_ONCE)
@worker_broker.subscriber(stream=abandoned_messages("inbound", "workers"))
async def answer(message: Message, redis: Redis) -> None:
    user = message.user_id
    async with redis.pipeline(transaction=False) as pipe:
        pipe.incr(f"rate_limit:{user}").expire(f"rate_limit:{user}", 60, nx=True).get(f"conversation:{user}")
        count, _, said = await pipe.execute()
    if count > RATE_LIMIT:
        return
    history = json.loads(said) if said else []
    history.append({"role": "user", "content": message.message, "timestamp": datetime.now(UTC).isoformat()})
    if LATENCY > 0:
        await asyncio.sleep(LATENCY)
    reply = f"echo: {message.message}"
    history.append({"role": "assistant", "content": reply, "timestamp": datetime.now(UTC).isoformat()})
    await redis.set(f"conversation:{user}", json.dumps(history[-20:]), ex=3600)
    await outbound.publish(Reply(user_id=user, message=reply, in_reply_to=[message.message_id]))


# Egress

egress_broker = connected()


@asynccontextmanager
async def session(context: ContextRepo) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=AT_ONCE)) as http:
        context.set_global("http", http)
        yield


egress = FastStream(egress_broker, lifespan=session)


@egress_broker.subscriber(stream=new_messages("outbound", "egress"), max_workers=AT_ONCE)
@egress_broker.subscriber(stream=abandoned_messages("outbound", "egress"))
async def deliver(reply: Reply, http: Annotated[aiohttp.ClientSession, Context()]) -> None:
    async with http.post(SINK_URL, json=reply.model_dump()) as response:
        response.raise_for_status()
