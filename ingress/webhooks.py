"""
POST and GET /whatsapp: Meta's webhook, called by Meta or through n8n.

Knows proof of origin, counts and answers.  How Meta's JSON is read stands in whatsapp.py.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from ingress import access, whatsapp
from ingress.access import Access
from ingress.append import INBOUND, STATUSES, Appended, Arrival
from ingress.appenders import Appenders
from ingress.chat import arrival_of, note, trace_of, unavailable
from ingress.refusal import Json, Refused
from streams import log as logs
from streams import metrics, signature, wire
from streams.errors import Unavailable
from streams.settings import Settings
from streams.topology import Topology
from streams.wire import Inbound, Status

_log = logs.get("ingress")
_IGNORED = metrics.MESSAGES.labels("ignored")


class Webhooks:
    """The two routes /whatsapp."""

    def __init__(self, topology: Topology, settings: Settings, appenders: Appenders, doorkeeper: Access) -> None:
        self._topology = topology
        self._verify_token = settings.whatsapp_verify_token
        self._appenders = appenders
        self._access = doorkeeper

    async def verify(self, request: Request) -> Response:
        """GET /whatsapp: Meta asks whether this address is ours."""
        query = request.query_params
        challenge = query.get("hub.challenge", "")
        if query.get("hub.mode") != "subscribe" or not 1 <= len(challenge) <= 256:
            raise Refused(400, "invalid_field", "send hub.mode=subscribe, hub.verify_token and hub.challenge")
        if self._verify_token is None:
            raise Refused(403, "not_verified", "WHATSAPP_VERIFY_TOKEN is not set here")
        if not signature.equal(query.get("hub.verify_token", ""), self._verify_token.reveal()):
            raise Refused(403, "not_verified", "hub.verify_token is not WHATSAPP_VERIFY_TOKEN")
        return PlainTextResponse(challenge)

    async def receive(self, request: Request) -> Response:
        """POST /whatsapp: every message in it, in order, all of them or, with 503, none."""
        body = await access.body_of(request, access.WHATSAPP_BYTES)
        self._access.signed(request, body)
        payload: Any = access.decode(body, object)
        try:
            found = whatsapp.read(payload, phone_numbers=self._topology.users.phone_numbers)
        except whatsapp.NotWhatsApp as error:
            raise Refused(422, "not_whatsapp", str(error)) from None
        except whatsapp.TooMany as error:
            raise Refused(413, "too_large", str(error), most=whatsapp.MOST) from None
        if not self._appenders.takes(STATUSES):
            found.ignored += ["status"] * len(found.statuses)
            found.statuses = []
        trace = trace_of(request)
        arrivals = [arrival_of(inbound, trace) for inbound in found.messages]
        arrivals += [_arrival(status, trace) for status in found.statuses]
        try:
            appended = await self._appenders.append(arrivals)
        except Unavailable as error:
            raise unavailable(error) from error
        return Json(_counted(found, appended))


def _arrival(status: Status, trace: str) -> Arrival:
    return Arrival(
        stream=STATUSES,
        key=status.recipient_id or "",
        type=status.status,
        body=wire.encode(status),
        # A message of ours is sent, then delivered, then read: three things to know of one id.
        message_id=f"{status.message_id}:{status.status}",
        trace=trace,
    )


def _counted(found: whatsapp.Webhook, appended: list[Appended]) -> dict[str, Any]:
    messages, statuses = appended[: len(found.messages)], appended[len(found.messages) :]
    for inbound, one in zip(found.messages, messages, strict=True):
        _note(inbound, one)
    for kind, count in Counter(found.ignored).items():
        _IGNORED.inc(count)
        _log.info("webhook.ignored", type=kind, count=count)
    return {
        "accepted": sum(one.outcome == "new" for one in messages),
        "duplicates": sum(one.outcome != "new" for one in appended),
        "statuses": sum(one.outcome == "new" for one in statuses),
        "ignored": len(found.ignored),
        "entry_ids": [one.entry_id for one in messages],
    }


def _note(inbound: Inbound, appended: Appended) -> None:
    note(appended, inbound)
    if appended.outcome == "reused":
        # Refusing would make Meta repeat it for a week; the first text stands.
        _log.warning("webhook.changed", entry_id=appended.entry_id, message_id=inbound.message_id, stream=INBOUND)
