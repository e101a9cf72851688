"""
Egress: a reply on `outbound` goes to the webhook, in order for each person, as a turn of one entry.

Decides what is done with a reply and in which order; how a POST is made and what its answer means is webhook.py's,
whether the destination is worth trying is breaker.py's.  It never sleeps: what must wait is parked, and `turn.progress`
tells the next start which part of a long reply is due.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, Literal

import msgspec

from processors.egress import webhook
from processors.egress.answers import Outcome
from processors.egress.breaker import Breaker
from processors.egress.split import split
from streams import doors, metrics, wire
from streams import log as logs
from streams.connection import Store
from streams.counted import Count, Times
from streams.effects import Effects, Output, Turn, handler
from streams.errors import Bury, ConfigurationError, Malformed, Retry, Unavailable
from streams.settings import Settings
from streams.stores import Stores
from streams.tables import Group
from streams.topology import Topology

log = logs.get("egress")

TYPING_SECONDS = 2.0
"""How long the receiver has to take it."""

TYPING_MS = 20_000
"""How long somebody is said to be typing after it began; WhatsApp shows it for 25 s at most."""

_OUTCOMES = ("delivered", "retried", "buried", "unsent", "held")
_COUNTED = {outcome: Count(metrics.DELIVERIES.labels(outcome)) for outcome in _OUTCOMES}
_SECONDS = Times(metrics.DELIVERY_SECONDS)
_KINDS = {"delivered": "delivered", "retry": "retried", "gone": "retried", "bury": "buried"}


class Resources(msgspec.Struct, kw_only=True):
    """What deliveries of one process share."""

    settings: Settings
    topology: Topology
    stores: Stores
    webhook: webhook.Webhook | None = None
    """None where OUTBOUND_URL is not set."""
    breaker: Breaker | None = None
    deliveries: str | None = None
    """The stream on which it is recorded what became of each reply; None: on none."""
    said_not_sent: bool = False


def refuse_what_breaks_order(group: Group, topology: Topology) -> None:
    """
    Raises:
        ConfigurationError: the group's table would have replies overtake each other, or old ones sent anew.
    """
    for key, value, needed in (("order", group.order, "key"), ("turn_max", group.turn_max, 1)):
        if value != needed:
            raise ConfigurationError(
                f"{topology.path.name}: groups.{group.name}.{key} = {value!r}: the webhook handler delivers one reply "
                f"at a time to a person; write {needed!r}"
            )
    if group.replay:
        raise ConfigurationError(
            f"{topology.path.name}: groups.{group.name}.replay = True: old replies would be sent anew; take it out"
        )


@asynccontextmanager
async def opened(
    group: Group,
    topology: Topology,
    settings: Settings,
    stores: Stores,
    *,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Resources]:
    """
    Raises:
        ConfigurationError: the group cannot keep order, or the destination's settings cannot be used.
    """
    refuse_what_breaks_order(group, topology)
    here = Resources(settings=settings, topology=topology, stores=stores, deliveries=next(iter(group.writes), None))
    if settings.outbound_url is None:
        yield here
        return
    async with webhook.opened(settings, topology.egress, clock=clock) as destination:
        here.webhook, here.breaker = destination, Breaker(stores.first, destination.url, topology.egress)
        yield here


def given_up(turn: Turn, why: str) -> Effects | None:
    """Beside the burial of a reply: that it was not delivered."""
    try:
        reply = turn.messages[0].decode(wire.Reply)
    except (Malformed, IndexError):
        return None  # nobody can tell whose it was
    answered = re.match(r"(\d{3})\b", why)
    return _recorded(turn, reply, "failed", status=int(answered[1]) if answered else None, why=why)


async def keeps_nothing(_person: str, _group: Group, _topology: Topology, _settings: Settings) -> dict[str, int]:
    """What the webhooks were told is theirs; every receipt of an erase says so."""
    return {}


@handler(outside=True, lifespan=opened, buried=given_up, forget=keeps_nothing, kept=keeps_nothing)
async def deliver(turn: Turn) -> Effects | None:
    """
    One outbound entry to the webhook.

    Raises:
        Retry: not now: a part is due later, the receiver is away, or a waiting HTTP request may still take the reply.
        Bury: the receiver refuses it, or WhatsApp's window has closed.
    """
    resources: Resources = turn.resources
    message = turn.messages[0]
    if turn.replayed:
        raise Bury("a replayed reply is never sent")
    if message.type not in resources.topology.egress.types:
        turn.note("left_out", type=message.type)
        return None
    reply = _decoded(turn)
    if message.type == "typing":
        if resources.webhook is not None:
            await _say_typing(turn, resources.webhook, reply)
        return None
    late = turn.now_ms - message.at_ms > resources.topology.egress.expire * 1000
    if late and resources.webhook is not None:
        raise Bury("expired: older than egress.expire, and not sent")
    done = _parts_done(turn)
    try:
        if message.door and not done and await _goes_through_http(resources.stores.of(turn.key), message.door):
            turn.note("claimed")
            _show(resources, reply.user_id, reply.message)
            return _recorded(turn, reply, "http")
        if resources.webhook is None or resources.breaker is None:
            return _unsent(turn, resources, reply)
        wait = await resources.breaker.admit(reply.id)
    except Unavailable as error:
        # Sent now, it could not be settled, and would be sent again.
        raise Retry("Redis is away", after=error.retry_after, counted=False) from error
    if wait is not None:
        _COUNTED["held"].inc()
        raise Retry("breaker", after=wait, counted=False)
    return await _send_part(turn, resources, resources.webhook, resources.breaker, reply, done + 1)


async def _say_typing(turn: Turn, destination: webhook.Webhook, reply: wire.Reply) -> None:
    """Once, and only while it is true; whatever the receiver answers."""
    if turn.attempt == 1 and turn.now_ms - turn.messages[0].at_ms <= TYPING_MS:
        with contextlib.suppress(TimeoutError):  # the reply is behind it
            async with asyncio.timeout(TYPING_SECONDS):
                outcome = await destination.post(webhook.payload(reply, [""], 1), trace=turn.messages[0].trace)
                log.debug("typing.sent", user_id=reply.user_id, status=outcome.status, outcome=outcome.kind)


async def _send_part(
    turn: Turn, resources: Resources, destination: webhook.Webhook, breaker: Breaker, reply: wire.Reply, part: int
) -> Effects | None:
    texts = split(reply.message, resources.topology.egress.max_chars)
    # With another max_chars since the parts before went out there may be fewer parts now: all was said, then.
    if part > len(texts):
        return _recorded(turn, reply, "delivered", parts=part - 1)
    body = webhook.payload(reply, texts, part)
    began = time.monotonic()
    try:
        outcome = await destination.post(body, trace=turn.messages[0].trace)
    finally:
        seconds = time.monotonic() - began
        _SECONDS.observe(seconds)
    _note(turn, body, outcome, seconds)
    _COUNTED[_KINDS[outcome.kind]].inc()
    _answers(outcome.status).inc()
    if outcome.kind == "gone":
        raise Retry(outcome.why, after=await breaker.gone(reply.id), counted=False)
    if outcome.kind == "retry":
        wait = await breaker.failed(reply.id, outcome.why, unreached=outcome.unreached)
        if wait is not None:
            raise Retry(outcome.why, after=max(wait, outcome.after or 0.0), counted=False)
        raise Retry(outcome.why, not_before=outcome.after or 0.0)
    await breaker.succeeded(reply.id)
    if outcome.kind == "bury":
        raise Bury(f"{outcome.why}: {outcome.quoted}" if outcome.quoted else outcome.why, blame=outcome.why)
    _delivered(resources, destination, body, outcome)
    if part < len(texts):
        progress = f"{turn.messages[0].id}/{part}"
        raise Retry("spacing", after=resources.topology.egress.spacing, counted=False, progress=progress)
    return _recorded(turn, reply, "delivered", status=outcome.status, parts=len(texts))


def _recorded(
    turn: Turn, reply: wire.Reply, outcome: Literal["delivered", "http", "unsent", "failed"], **more: Any
) -> Effects | None:
    """That on the stream that `writes` names, where it names one."""
    stream = turn.resources.deliveries
    if stream is None:
        return None
    body = wire.Delivery(
        reply_id=reply.id, user_id=reply.user_id, type=reply.type, outcome=outcome, attempts=turn.attempt, **more
    )
    return Effects(outputs=[Output(stream=stream, type=outcome, body=body)])


@cache
def _answers(status: int | None) -> Count:
    return Count(metrics.DELIVERY_ANSWERS.labels(str(status or "none")))


def _note(turn: Turn, body: webhook.Payload, outcome: Outcome, seconds: float) -> None:
    """For the timeline; the reply itself says its webhook-id."""
    facts: dict[str, object] = {"status": outcome.status, "ms": int(seconds * 1000)}
    if body.parts > 1:
        facts |= {"part": body.part, "parts": body.parts}
    if outcome.kind != "delivered" and 200 <= (outcome.status or 0) < 300:
        facts |= {"why": outcome.why}  # of others their status says it, and how the turn ends
    turn.note("posted", **facts)


def _decoded(turn: Turn) -> wire.Reply:
    try:
        return turn.messages[0].decode(wire.Reply)
    except Malformed as error:
        raise Bury(str(error)) from error


def _parts_done(turn: Turn) -> int:
    """How many parts an earlier start delivered; what another entry left behind counts for nothing."""
    entry, _, parts = turn.progress.rpartition("/")
    return int(parts) if entry == turn.messages[0].id else 0


async def _goes_through_http(store: Store, door: str) -> bool:
    """Did a waiting request take this reply?  Raises Retry while it still may."""
    hold_ms = await doors.release(store, door)
    if hold_ms > 0:
        _COUNTED["held"].inc()
        raise Retry("door", after=hold_ms / 1000, counted=False, at_door=True)
    return hold_ms < 0


def _unsent(turn: Turn, resources: Resources, reply: wire.Reply) -> Effects | None:
    turn.note("unsent", why="OUTBOUND_URL is not set")
    _COUNTED["unsent"].inc()
    if not resources.said_not_sent:
        resources.said_not_sent = True
        log.warning("delivery.unsent", why="OUTBOUND_URL is not set", hint="`cauce tail outbound` shows the replies")
    _show(resources, reply.user_id, reply.message)
    return _recorded(turn, reply, "unsent")


def _delivered(resources: Resources, destination: webhook.Webhook, body: webhook.Payload, outcome: Outcome) -> None:
    log.info(
        "delivery.sent",
        user_id=body.user_id,
        webhook_id=body.id,
        part=f"{body.part}/{body.parts}",
        to=destination.shown,
        status=outcome.status,
    )
    _show(resources, body.user_id, body.message)


def _show(resources: Resources, user_id: str, message: str) -> None:
    """In development, and nowhere else, a reply's text is printed."""
    if not resources.settings.production:
        log.info("reply.shown", user_id=user_id, message=message)
