"""
POST /chat and what else is said to or about one person: check, append, 202; or wait, 200.

Knows the fields of these requests and what a claim's states are over HTTP.  Who may ask is access.py's, how it is
written append.py's.
"""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from ingress import access
from ingress.append import INBOUND, Appended, Arrival
from ingress.appenders import Appenders
from ingress.refusal import Json, Refused
from ingress.waiting import Ticket, Waiting, preferred
from streams import appointments, marks, metrics, people, wire
from streams import log as logs
from streams.counted import Count
from streams.doors import Claim
from streams.errors import Unavailable
from streams.stores import Each, Stores
from streams.topology import Topology
from streams.wire import Inbound

STAFF = "staff"
"""The entry type of what n8n or staff say to the person."""

LONGEST_PAUSE = 366 * 86_400
_log = logs.get("ingress")
_COUNTED = {f"message.{outcome}": Count(metrics.MESSAGES.labels(outcome)) for outcome in ("accepted", "duplicate")}


class Said(msgspec.Struct):
    """The body of POST /chat."""

    user_id: str
    message: str
    message_id: str | None = None
    metadata: dict[str, Any] | None = None


class Told(msgspec.Struct):
    """The body of POST /chat/{user_id}/messages."""

    role: Literal["assistant", "system"]
    message: str
    message_id: str | None = None
    send: bool = False
    metadata: dict[str, Any] | None = None


class Pause(msgspec.Struct, forbid_unknown_fields=True):
    """The body of POST /chat/{user_id}/pause, which may be left out."""

    seconds: float | None = None


class Chat:
    """The routes under /chat that write."""

    def __init__(self, stores: Stores, topology: Topology, appenders: Appenders, waiting: Each[Waiting]) -> None:
        self._stores = stores
        self._topology = topology
        self._appenders = appenders
        self._waiting = waiting

    async def post(self, request: Request) -> Response:
        """POST /chat"""
        said = access.decode(await access.body_of(request, access.CHAT_BYTES), Said)
        inbound = self.inbound(said, request.headers.get("idempotency-key"))
        seconds = preferred(request.headers.getlist("prefer"), self._topology.wait.max_seconds)
        if not seconds:
            return await self._accepted(request, inbound)
        with self._waiting.of(inbound.user_id).ticket(seconds) as ticket:
            response = await self._answered(request, inbound, ticket)
        response.headers["Preference-Applied"] = f"wait={seconds}"
        return response

    def inbound(self, said: Said, header: str | None = None) -> Inbound:
        """
        What somebody said, as the stream has it.

        Args:
            header: Idempotency-Key.

        Raises:
            Refused: a field is not what it should be.
        """
        return Inbound(
            user_id=person(said.user_id, self._topology),
            message_id=message_id_of(header, said.message_id),
            text=words(said.message),
            metadata=metadata(said.metadata),
        )

    def appending(self, inbound: Inbound, trace: str) -> asyncio.Future[list[Appended]] | None:
        """Append what nobody waits for; None, and nothing was done, where that is not to be had at once."""
        return self._appenders.appending(arrival_of(inbound, trace))

    def accepted(self, inbound: Inbound, appending: asyncio.Future[list[Appended]]) -> bytes:
        """
        What came of it: the body of its 202.

        Raises:
            Refused, Unavailable, Backlog
        """
        try:
            found = appending.result()
        except Unavailable as error:
            raise unavailable(error, message_id=inbound.message_id) from error
        return wire.encode(_receipt(inbound, _noted(found, inbound)))

    async def say(self, request: Request) -> Response:
        """POST /chat/{user_id}/messages"""
        user_id = person(request.path_params["user_id"], self._topology)
        told = access.decode(await access.body_of(request, access.CHAT_BYTES), Told)
        if told.send and told.role != "assistant":
            raise Refused(400, "invalid_field", "`send` is for role assistant: nobody is told what a system says")
        inbound = Inbound(
            user_id=user_id,
            message_id=message_id_of(request.headers.get("idempotency-key"), told.message_id),
            role=told.role,
            text=words(told.message),
            metadata=of_appointments(metadata(told.metadata)),
            send=told.send,
        )
        return await self._accepted(request, inbound)

    async def pause(self, request: Request) -> Response:
        """POST /chat/{user_id}/pause: a human takes over."""
        user_id = person(request.path_params["user_id"], self._topology)
        body = await access.body_of(request, access.CHAT_BYTES)
        asked = access.decode(body, Pause).seconds if body else None
        seconds = self._topology.handoff.pause if asked is None else asked
        if not 1 <= seconds <= LONGEST_PAUSE:
            raise Refused(400, "invalid_field", f"`seconds` must be from 1 to {LONGEST_PAUSE}")
        until = (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
        store = self._stores.of(user_id)
        await store.command("SET", store.keys.of("paused", user_id), until, "PX", int(seconds * 1000))
        _log.info("conversation.paused", user_id=user_id, until=until)
        return Json({"user_id": user_id, "paused": True, "until": until})

    async def resume(self, request: Request) -> Response:
        """POST /chat/{user_id}/resume: the bot speaks again."""
        user_id = person(request.path_params["user_id"], self._topology)
        await access.body_of(request, access.CHAT_BYTES)
        store = self._stores.of(user_id)
        await store.command("DEL", store.keys.of("paused", user_id))
        _log.info("conversation.resumed", user_id=user_id)
        return Json({"user_id": user_id, "paused": False, "until": None})

    async def _accepted(self, request: Request, inbound: Inbound) -> Response:
        return Json(_receipt(inbound, await self._append(inbound, trace_of(request))), 202)

    async def _answered(self, request: Request, inbound: Inbound, ticket: Ticket) -> Response:
        appended = await self._append(inbound, trace_of(request), ticket)
        receipt = _receipt(inbound, appended)
        repeat = appended.outcome == "duplicate"
        gone = asyncio.create_task(hung_up(request))
        try:
            waiting = self._waiting.of(inbound.user_id)
            claim = await waiting.reply(ticket, inbound.user_id, appended.entry_id, gone, repeat=repeat)
        except Unavailable as error:
            if not error.maybe_written:
                return Json(receipt, 202)
            raise Refused(
                503,
                "answer_lost",
                "the message was accepted, but whether this request got its reply is unknown; repeat it with the same "
                "message_id to read it",
                headers={"Retry-After": str(error.retry_after)},
                told=error.told,
                **{key: receipt[key] for key in ("entry_id", "message_id")},
            ) from error
        finally:
            gone.cancel()
        return _told(claim, receipt, repeat=repeat)

    async def _append(self, inbound: Inbound, trace: str, ticket: Ticket | None = None) -> Appended:
        try:
            found = await self._appenders.append([arrival_of(inbound, trace, ticket)])
        except Unavailable as error:
            # So that the client can repeat it even where we made the id.
            raise unavailable(error, message_id=inbound.message_id) from error
        return _noted(found, inbound)


def _noted(found: list[Appended], inbound: Inbound) -> Appended:
    [appended] = found
    if appended.outcome == "reused":
        raise Refused(
            409,
            "message_id_reused",
            f"message_id {inbound.message_id!r} of this person is that of another text; nothing was appended",
            entry_id=appended.entry_id,
        )
    note(appended, inbound)
    return appended


def trace_of(request: Request) -> str:
    """The caller's trace, or a new one; from here on it stands in what is logged of this request."""
    trace = wire.trace_from(request.headers.get("traceparent"))
    logs.trace.set(trace)
    return trace


def arrival_of(inbound: Inbound, trace: str, ticket: Ticket | None = None) -> Arrival:
    """A person's message, or one said to them, on its way to `inbound`."""
    staff = inbound.role != "user"
    return Arrival(
        stream=INBOUND,
        key=inbound.user_id,
        type=STAFF if staff else inbound.kind,
        body=wire.encode(inbound),
        message_id=inbound.message_id,
        text=f"{inbound.role}\0{inbound.text}" if staff else inbound.text,
        trace=trace,
        waiter=ticket.waiter if ticket else None,
    )


def note(appended: Appended, inbound: Inbound) -> None:
    """Log and count one message."""
    event = "message.accepted" if appended.outcome == "new" else "message.duplicate"
    _COUNTED[event].inc()
    _log.info(
        event,
        user_id=inbound.user_id,
        entry_id=appended.entry_id,
        message_id=inbound.message_id,
        type=inbound.kind if inbound.role == "user" else STAFF,
    )


def unavailable(error: Unavailable, **more: Any) -> Refused:
    """503: come back later; and whether it may have been written all the same."""
    detail = str(error)
    if error.maybe_written:
        detail += "; the answer was lost, so it may have been accepted: repeating with the same message_id is safe"
    headers = {"Retry-After": str(error.retry_after)}
    more = more if error.maybe_written else {}
    return Refused(503, "redis_unavailable", detail, headers=headers, told=error.told, **more)


async def hung_up(request: Request) -> None:
    """Returns when the client has gone; its body has to have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def person(given: str, topology: Topology) -> str:
    """
    The one spelling of `user_id`.

    Raises:
        Refused
    """
    try:
        return people.person(given, phone_numbers=topology.users.phone_numbers)
    except people.Unusable as error:
        raise Refused(400, "invalid_field", f"`user_id` {error}") from None


def message_id_of(header: str | None, given: str | None) -> str:
    """The body's, else the header's, else a new one, which makes no message a repeat.  What is there has to be one."""
    if header and len(header) > 2 and header[0] == header[-1] == '"':
        header = header[1:-1]
    ids = [_usable("`message_id`", given), _usable("Idempotency-Key", header)]
    return ids[0] or ids[1] or marks.made(int(time.time() * 1000))


def _usable(field: str, given: str | None) -> str | None:
    try:
        return None if given is None else people.message_id(given)
    except people.Unusable as error:
        raise Refused(400, "invalid_field", f"{field} {error}") from None


def words(message: str) -> str:
    if not message.strip():
        raise Refused(400, "invalid_field", "`message` must not be empty")
    if "\0" in message:
        raise Refused(400, "invalid_field", "`message` must not contain NUL")
    return message


def metadata(given: dict[str, Any] | None) -> dict[str, Any]:
    if given and access.too_deep(given):
        raise Refused(400, "invalid_field", f"`metadata` must not be nested more than {access.DEEPEST} levels deep")
    return given or {}


def of_appointments(metadata: dict[str, Any]) -> dict[str, Any]:
    """As given; what the archive could not keep of an appointment is refused here, where somebody reads the answer."""
    if why := appointments.wrong(metadata.get("appointment")):
        raise Refused(400, "invalid_field", why)
    return metadata


def _receipt(inbound: Inbound, appended: Appended) -> dict[str, Any]:
    return {
        "status": "accepted",
        "entry_id": appended.entry_id,
        "user_id": inbound.user_id,
        "message_id": inbound.message_id,
        "duplicate": appended.outcome == "duplicate",
    }


def _told(claim: Claim | None, receipt: dict[str, Any], *, repeat: bool) -> Response:
    """What a waiting request is told."""
    if claim is None or claim.state == "pending":
        return Json(receipt, 202)
    if claim.state == "webhook":
        return Json(receipt | {"status": "delivered"}) if repeat else Json(receipt, 202)
    if claim.state == "erased":
        return Json(receipt | {"status": "erased"})
    if claim.state == "merged":
        return Json(receipt | {"status": "merged", "into": claim.into})
    body: dict[str, Any] = msgspec.json.decode(claim.answer)
    if claim.status == "rate_limited":
        after = body.pop("retry_after", 60)
        detail = body.pop("detail", "")
        refused = Refused(429, "rate_limited", detail, headers={"Retry-After": str(after)})
        return Json(receipt | body | refused.body | {"status": claim.status}, refused.status, refused.headers)
    return Json(receipt | body | {"status": claim.status})
