"""
redis-py and Starlette, nothing in between: what one writes who needs no framework for three processes and two streams.

    ingress  uvicorn plain:app             POST /chat -> XADD inbound -> 202
    worker   python plain.py worker NAME   inbound -> rate limit, history, reply -> outbound
    egress   python plain.py egress NAME   outbound -> webhook

Follows redis.io/docs/latest/develop/use-cases/streaming/redis-py (groups made at 0, XREADGROUP with COUNT and BLOCK,
XACK after the work, MAXLEN ~) and .../develop/clients/redis-py/async (pipelines); starlette.io/lifespan;
docs.aiohttp.org/en/stable/client_reference.html (one session for the process).

A hundred messages are in work at once, each in a task of its own, so that nobody waits for the slowest of a batch.  A
process that starts again reads first what it had taken and not acknowledged; NAME must be another for each process of
a role.  Messages of one person are in work at the same time, so they may overtake each other, and of two histories
saved the later wins: that is what this gives up for its speed.
"""

import asyncio
import json
import logging
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import aiohttp
import redis.asyncio as redis
import uvloop
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
Fields = dict[str, str]

log = logging.getLogger("plain")


def connect() -> redis.Redis:
    # One connection for each command under way, and one for the read that blocks.
    return redis.Redis.from_url(REDIS_URL, decode_responses=True, max_connections=AT_ONCE + 28)


# Ingress


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, redis.Redis]]:
    async with connect() as client:
        yield {"redis": client}


async def chat(request: Request) -> JSONResponse:
    body = await request.json()
    fields = {"user_id": body["user_id"], "message": body["message"], "message_id": body["message_id"]}
    entry_id = await request.state.redis.xadd("inbound", fields, maxlen=MAX_LEN, approximate=True)
    return JSONResponse({"status": "accepted", "entry_id": entry_id}, status_code=202)


async def live(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok")


app = Starlette(routes=[Route("/chat", chat, methods=["POST"]), Route("/health/live", live)], lifespan=lifespan)


# Worker


async def answer(client: redis.Redis, entry_id: str, fields: Fields) -> None:
    user, message = fields["user_id"], fields["message"]
    async with client.pipeline(transaction=False) as pipe:
        pipe.incr(f"rate_limit:{user}").expire(f"rate_limit:{user}", 60, nx=True).get(f"conversation:{user}")
        count, _, said = await pipe.execute()
    if count > RATE_LIMIT:
        await client.xack("inbound", "workers", entry_id)
        return
    history = json.loads(said) if said else []
    history.append({"role": "user", "content": message, "timestamp": datetime.now(UTC).isoformat()})
    if LATENCY > 0:
        await asyncio.sleep(LATENCY)
    reply = f"echo: {message}"
    history.append({"role": "assistant", "content": reply, "timestamp": datetime.now(UTC).isoformat()})
    outbound = {"user_id": user, "message": reply, "in_reply_to": fields["message_id"]}
    async with client.pipeline(transaction=False) as pipe:  # XACK last: whatever is cut off before it is done again
        pipe.set(f"conversation:{user}", json.dumps(history[-20:]), ex=3600)
        pipe.xadd("outbound", outbound, maxlen=MAX_LEN, approximate=True)
        pipe.xack("inbound", "workers", entry_id)
        await pipe.execute()


# Egress


async def deliver(client: redis.Redis, http: aiohttp.ClientSession, entry_id: str, fields: Fields) -> None:
    body = {"user_id": fields["user_id"], "message": fields["message"], "in_reply_to": [fields["in_reply_to"]]}
    async with http.post(SINK_URL, json=body) as response:
        response.raise_for_status()
    await client.xack("outbound", "egress", entry_id)


# Both


async def consume(
    client: redis.Redis, stream: str, group: str, name: str, handle: Callable[[str, Fields], Awaitable[None]]
) -> None:
    """Forever: hand each entry to a task of its own, a hundred at once.  An entry whose task fails stays pending."""
    try:
        await client.xgroup_create(stream, group, id="0", mkstream=True)
    except ResponseError as error:
        if "BUSYGROUP" not in str(error):
            raise
    room = asyncio.Semaphore(AT_ONCE)

    async def run(entry_id: str, fields: Fields) -> None:
        try:
            await handle(entry_id, fields)
        except Exception:
            log.exception("%s stays pending", entry_id)
        finally:
            room.release()

    async with asyncio.TaskGroup() as tasks:
        after = "0"  # what this name had taken and not acknowledged when it died, then ">": what nobody has taken
        while True:
            read = await client.xreadgroup(group, name, {stream: after}, count=100, block=2000)
            entries = [entry for _, found in read for entry in found]
            for entry_id, fields in entries:
                await room.acquire()
                tasks.create_task(run(entry_id, fields))
            if after != ">":
                after = entries[-1][0] if entries else ">"


async def main(role: str, name: str) -> None:
    async with connect() as client:
        if role == "worker":
            await consume(client, "inbound", "workers", name, partial(answer, client))
        else:
            connector = aiohttp.TCPConnector(limit=AT_ONCE)
            async with aiohttp.ClientSession(connector=connector) as http:
                await consume(client, "outbound", "egress", name, partial(deliver, client, http))


if __name__ == "__main__":
    uvloop.run(main(*sys.argv[1:3]))
