"""
FastAPI as in the architecture that Cauce grew out of: the request itself does the work, and its answer is the reply.

    ingress  uvicorn fastapi_chat:app    POST /chat -> rate limit, history, reply, history -> 200 with the reply

Written as that document writes it ("Arquitectura del Sistema con Redis"): layers of services behind `Depends`, and an
`async def verify_rate_limit` that calls a synchronous Redis client inside the event loop; the endpoint is `async def`,
since it awaits that one.  One thing is kinder: the document's providers are `def`, which FastAPI calls in its thread
pool (fastapi.tiangolo.com/async); here they are `async def`, which answers twice as many requests.  Nothing is kept
for later: a process that dies loses the messages in work.
"""

import asyncio
import json
import os
from datetime import UTC, datetime
from typing import Annotated, Any

import redis
from fastapi import Depends, FastAPI, HTTPException
from pydantic import BaseModel

REDIS_URL = os.environ["REDIS_URL"]
LATENCY = float(os.environ.get("LATENCY", "0"))
RATE_LIMIT = 10**9


class ChatRequest(BaseModel):
    user_id: str
    message: str
    message_id: str


class ChatReply(BaseModel):
    user_id: str
    message: str
    in_reply_to: list[str]


# Infrastructure


redis_client = redis.Redis.from_url(REDIS_URL, decode_responses=True)


async def get_redis() -> redis.Redis:
    return redis_client


class ConversationRepository:
    """Conversations in Redis, an hour each."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client

    def get(self, user_id: str) -> list[dict[str, Any]]:
        stored = self.client.get(f"conversation:{user_id}")
        return json.loads(stored) if stored else []

    def save(self, user_id: str, messages: list[dict[str, Any]]) -> None:
        self.client.set(f"conversation:{user_id}", json.dumps(messages), ex=3600)


# Services


class AIService:
    """The model: an echo that takes its time."""

    async def generate_response(self, message: str, history: list[dict[str, Any]]) -> str:
        if LATENCY > 0:
            await asyncio.sleep(LATENCY)
        return f"echo: {message}"


class ConversationService:
    """What a message leads to."""

    def __init__(self, ai_service: AIService, repo: ConversationRepository) -> None:
        self.ai_service = ai_service
        self.repo = repo

    async def process_user_message(self, user_id: str, message: str) -> str:
        history = self.repo.get(user_id)
        history.append({"role": "user", "content": message, "timestamp": datetime.now(UTC).isoformat()})
        reply = await self.ai_service.generate_response(message, history)
        history.append({"role": "assistant", "content": reply, "timestamp": datetime.now(UTC).isoformat()})
        self.repo.save(user_id, history[-20:])
        return reply


# Injection


async def get_conv_repository(client: Annotated[redis.Redis, Depends(get_redis)]) -> ConversationRepository:
    return ConversationRepository(client)


async def get_ai_service() -> AIService:
    return AIService()


async def get_conversation_service(
    ai_service: Annotated[AIService, Depends(get_ai_service)],
    repo: Annotated[ConversationRepository, Depends(get_conv_repository)],
) -> ConversationService:
    return ConversationService(ai_service, repo)


async def verify_rate_limit(user_id: str, client: redis.Redis) -> None:
    key = f"rate_limit:{user_id}"
    count = client.incr(key)
    if count == 1:
        client.expire(key, 60)
    if count > RATE_LIMIT:
        raise HTTPException(429, "Demasiadas solicitudes")


# API

app = FastAPI()


@app.post("/chat")
async def chat(
    body: ChatRequest,
    service: Annotated[ConversationService, Depends(get_conversation_service)],
    client: Annotated[redis.Redis, Depends(get_redis)],
) -> ChatReply:
    await verify_rate_limit(body.user_id, client)
    reply = await service.process_user_message(body.user_id, body.message)
    return ChatReply(user_id=body.user_id, message=reply, in_reply_to=[body.message_id])


@app.get("/health/live")
async def live() -> dict[str, str]:
    return {"status": "ok"}
