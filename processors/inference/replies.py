"""
What a turn comes to: outputs, writes and the answer to a waiting request, put together as effects.

Knows the shapes of the reply webhook's body and of the conversation, and their ids.  Decides nothing: handler.py says
what is said, and whether.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Literal

import msgspec

from processors.inference import history
from processors.inference.arrivals import Arrival
from processors.inference.history import Past, Said
from processors.inference.resources import Resources
from streams.effects import Answer, Effects, Output, Turn, Write
from streams.wire import Reply

Source = Literal["model", "cache", "action", "fallback", "notice", "failure"]
AnswerStatus = Literal["replied", "paused", "failed", "rate_limited"]
_PHONE = re.compile(r"\+?(\d{7,15})")
HANDOFF = "handoff"
"""The action after whose reply the bot falls silent, until a person has taken over."""
_OURS = ("phone_number_id", "display_phone_number")
"""Metadata that says which of our numbers a conversation is on: every reply needs it, whoever spoke last."""


class Spoken(msgspec.Struct, kw_only=True):
    """Something the bot says in this turn."""

    text: str
    source: Source
    to: list[Arrival]
    """The messages it answers."""
    action: str | None = None
    slots: dict[str, Any] = {}


class Exchange(msgspec.Struct, kw_only=True):
    """A turn on its way to its effects."""

    turn: Turn
    here: Resources
    past: Past
    arrived: list[Arrival]
    rules: str = ""
    """The system prompt, as it was when the turn began: its file may change while a reply is generated."""
    started: float = msgspec.field(default_factory=time.monotonic)

    @property
    def now(self) -> float:
        """Redis's clock, carried on by ours for as long as the reply took; in a replay the log's.  Unix seconds."""
        return self.turn.now_ms / 1000 + (0.0 if self.turn.replayed else time.monotonic() - self.started)

    @property
    def paused(self) -> bool:
        return self.turn.state.get("paused") is not None

    @property
    def person(self) -> list[Arrival]:
        return [arrival for arrival in self.arrived if arrival.from_person]


async def resume(exchange: Exchange) -> None:
    """Let a conversation that begins anew go on from what the archive has of it, where there is one."""
    here, turn = exchange.here, exchange.turn
    if exchange.past.new and here.archive is not None:
        before = await here.archive.before(turn.key, turn.messages[0].at_ms, here.topology.history.max_messages)
        history.resume(exchange.past, before)


def spoken(exchange: Exchange, said: list[Spoken], answer: Answer | None, *, handoff: bool = False) -> Effects:
    """
    The turn recorded and the bot's words sent, unless somebody has paused the bot meanwhile.

    With `handoff` these are the bot's last words: it pauses itself.
    """
    ids = _ids(exchange.turn, len(said))
    outputs = _from_staff(exchange, after=len(said))
    # One output goes through the door of a request that waits: the reply, or the notice that stands in its place.
    outputs += [_output(exchange, one, name, answers=one is said[0]) for one, name in zip(said, ids, strict=True)]
    told = [_said(exchange, one, name) for one, name in zip(said, ids, strict=True)]
    writes = remember(exchange, told, "paused" if handoff else "active")
    if handoff:
        writes.append(pause(exchange))
    return Effects(outputs=outputs, writes=writes, answer=answer, unless="paused", instead=partial(_silent, exchange))


def paused(exchange: Exchange) -> Effects:
    """
    The turn recorded while a person has taken over: nothing is said, and the pause is renewed.

    Where the pause was lifted after the turn had begun it is not renewed: `instead` is committed only if it still is.
    """
    silent = _silent(exchange)
    return msgspec.structs.replace(
        silent, writes=remember(exchange, [], "active"), unless="paused", instead=lambda: silent
    )


def _silent(exchange: Exchange) -> Effects:
    outputs = _from_staff(exchange, after=0)
    return Effects(
        outputs=outputs + _handover(exchange, outputs),
        writes=[*remember(exchange, [], "paused"), pause(exchange)],
        answer=answer(exchange, "paused", []) if exchange.person else None,
    )


def answer(exchange: Exchange, status: AnswerStatus, said: list[Spoken], **more: Any) -> Answer:
    """What a waiting request is told: the first of what is said, or why nothing is."""
    body: dict[str, Any] = {"reply": None, "conversation_id": exchange.past.conversation.conversation_id}
    for first in said[:1]:
        body |= {
            "id": _ids(exchange.turn, 1)[0],
            "reply": first.text,
            "source": first.source,
            "action": first.action,
            "slots": first.slots,
            "in_reply_to": [arrival.inbound.message_id for arrival in first.to],
        }
    return Answer(status=status, body=body | more)


def _ids(turn: Turn, count: int, after: int = 0) -> list[str]:
    """`reply_<turn>`, `.s<shard>` where there are several, then `.2`, `.3` from the second output on; stable."""
    name = f"reply_{turn.id}" if turn.shard is None else f"reply_{turn.id}.s{turn.shard}"
    numbers = range(after + 1, after + count + 1)
    return [name if number == 1 else f"{name}.{number}" for number in numbers]


def remember(exchange: Exchange, told: list[Said], status: history.Status) -> list[Write]:
    here = exchange.here
    return history.remember(
        exchange.past,
        [*map(heard, exchange.arrived), *told],
        now=exchange.now,
        status=status,
        ttl_seconds=here.settings.session_expire_time,
        max_messages=here.topology.history.max_messages,
    )


def heard(arrival: Arrival) -> Said:
    """A message as the conversation keeps it."""
    inbound = arrival.inbound
    kind = {} if inbound.kind == "text" else {"kind": inbound.kind}
    return Said(
        message_id=inbound.message_id,
        role=inbound.role,
        content=arrival.words,
        timestamp=history.stamp(arrival.said_at),
        metadata=inbound.metadata | kind,
    )


def _said(exchange: Exchange, said: Spoken, name: str) -> Said:
    metadata: dict[str, Any] = {} if said.source == "model" else {"source": said.source}
    if said.action:
        metadata |= {"action": said.action, "slots": said.slots}
    return Said(
        message_id=name,
        role="assistant",
        content=said.text,
        timestamp=history.stamp(exchange.now),
        metadata=metadata,
    )


def pause(exchange: Exchange) -> Write:
    """The pause from now on; one that was set for longer keeps its end."""
    now = datetime.fromtimestamp(exchange.now, UTC)
    until = now + timedelta(seconds=exchange.here.topology.handoff.pause)
    try:
        set_until = datetime.fromisoformat((exchange.turn.state.get("paused") or b"").decode())
        until = max(until, set_until if set_until.tzinfo else set_until.replace(tzinfo=UTC))
    except ValueError:
        pass  # none, or not a time: the group's own pause holds
    ttl = max(1, round((until - now).total_seconds()))
    return Write(kind="paused", value=until.strftime("%Y-%m-%dT%H:%M:%SZ").encode(), ttl_seconds=ttl)


def _output(exchange: Exchange, said: Spoken, name: str, *, answers: bool) -> Output:
    how = {"source": said.source, "message": said.text, "action": said.action, "slots": said.slots}
    body = _envelope(exchange, said.to, name, **how)
    return Output(stream=exchange.here.outbound, type="reply", body=body, answers=answers)


def typing(exchange: Exchange, within: list[Arrival]) -> Output:
    """That an answer to these messages is being written."""
    body = _envelope(exchange, within, f"typing_{exchange.turn.id}", type="typing")
    return Output(stream=exchange.here.outbound, type="typing", body=body)


def _from_staff(exchange: Exchange, after: int) -> list[Output]:
    """What n8n or staff asked to be delivered as well, before anything the bot says."""
    told = [one for one in exchange.arrived if one.inbound.send and one.inbound.text and not one.from_person]
    return [
        Output(
            stream=exchange.here.outbound,
            type="reply",
            body=_envelope(exchange, [one], name, source="staff", message=one.inbound.text, in_reply_to=[]),
        )
        for one, name in zip(told, _ids(exchange.turn, len(told), after), strict=True)
    ]


def _handover(exchange: Exchange, from_staff: list[Output]) -> list[Output]:
    """What the person wrote while the bot is silent, for staff to read."""
    if not (person := exchange.person):
        return []
    (name,) = _ids(exchange.turn, 1, after=len(from_staff))
    words = "\n".join(arrival.words for arrival in person)
    body = _envelope(exchange, person, name, type="handover", source="person", message=words)
    return [Output(stream=exchange.here.outbound, type="handover", body=body)]


def _envelope(exchange: Exchange, to: list[Arrival], name: str, **said: Any) -> Reply:
    """A reply: whom it is for, what it belongs to, and what else is said of it."""
    newest = to[-1].inbound
    phone = _PHONE.fullmatch(exchange.turn.key)
    named = next((one.inbound.name for one in reversed(exchange.arrived) if one.inbound.name), None)
    wa_id = next((one.inbound.wa_id for one in reversed(exchange.arrived) if one.inbound.wa_id), None)
    told: dict[str, Any] = {
        "id": name,
        "user_id": exchange.turn.key,
        "wa_id": wa_id or (phone[1] if phone else None),
        "name": named,
        "message": "",
        "conversation_id": exchange.past.conversation.conversation_id,
        "in_reply_to": [arrival.inbound.message_id for arrival in to],
        "created_at": history.stamp(exchange.now) + "Z",
        "metadata": _our_number(exchange) | newest.metadata,
    }
    return Reply(**told | said)


def _our_number(exchange: Exchange) -> dict[str, Any]:
    """The last that is known of it, in this turn or before; n8n and staff seldom send it along."""
    for arrived in reversed(exchange.arrived):
        if _OURS[0] in arrived.inbound.metadata:
            return _ours(arrived.inbound.metadata)
    for said in reversed(exchange.past.conversation.messages):
        if _OURS[0] in said.metadata and said.role == "user":
            return _ours(said.metadata)
    return {}


def _ours(metadata: dict[str, Any]) -> dict[str, Any]:
    return {name: metadata[name] for name in _OURS if name in metadata}
