"""
A turn of the past, told from its messages and the replies that were sent: what of the conversation it left in Redis.

So a replay finds each conversation as it stood, without a model having to say everything again.  Whether staff had
taken over then is told by what the bot did: it handed on what the person wrote, or it spoke.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from msgspec.structs import replace

from processors.inference import arrivals, history
from processors.inference.history import Said
from processors.inference.replies import HANDOFF, Exchange, pause, remember, resume
from streams.effects import Message, Retold, Turn, Write
from streams.errors import Malformed
from streams.wire import Reply


async def retell(turn: Turn, outputs: Sequence[Message]) -> Retold:
    """
    What stood there when this turn began, and what it left.

    Args:
        outputs: what it appended then, in order; of none of it is known what it is.
    """
    exchange = Exchange(
        turn=turn, here=turn.resources, past=history.recall(turn), arrived=arrivals.read(turn, legible_only=True)
    )
    if not exchange.arrived:
        return Retold()
    replies = [reply for output in outputs if (reply := _reply(output)) is not None]
    spoken = [reply for reply in replies if reply.type == "reply" and reply.source != "staff"]
    handed_on = any(reply.type == "handover" for reply in replies)
    await resume(exchange)
    if exchange.past.new and replies and replies[0].conversation_id:
        exchange.past.conversation = replace(exchange.past.conversation, conversation_id=replies[0].conversation_id)
    silent = handed_on or any(reply.action == HANDOFF for reply in spoken)
    left = remember(exchange, [_said(reply) for reply in spoken], "paused" if silent else "active")
    found = _found(exchange, handed_on=handed_on, spoke=bool(spoken))
    return Retold(found=found, left=left + _paused(exchange, silent))


def _found(exchange: Exchange, *, handed_on: bool, spoke: bool) -> list[Write]:
    if handed_on:
        return _paused(exchange, not exchange.paused)
    return [Write(kind="paused")] if spoke else []


def _paused(exchange: Exchange, silent: bool) -> list[Write]:
    return [pause(exchange)] if silent else []


def _reply(output: Message) -> Reply | None:
    try:
        return output.decode(Reply)
    except Malformed:
        return None


def _said(reply: Reply) -> Said:
    """As the conversation keeps it."""
    metadata: dict[str, Any] = {} if reply.source == "model" else {"source": reply.source}
    if reply.action:
        metadata |= {"action": reply.action, "slots": reply.slots}
    return Said(
        message_id=reply.id,
        role="assistant",
        content=reply.message,
        timestamp=_stamp(reply.created_at),
        metadata=metadata,
    )


def _stamp(created_at: str) -> str:
    """A webhook's time as the conversation writes it."""
    try:
        return history.stamp(datetime.fromisoformat(created_at).astimezone(UTC).timestamp())
    except (ValueError, OverflowError):
        return created_at
