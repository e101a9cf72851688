"""
The reply webhook: its body, its proofs of origin, and one POST over connections that suit n8n.

What an answer means is in answers.py.  Knows no Redis and no turns.  An address may hold a password or a token, so
whoever logs it takes `shown`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
from yarl import URL

from processors.egress.answers import Closed, Outcome, Unintelligible, Unreached, judge, unanswered
from processors.egress.connections import Connections
from streams import signature, wire
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.tables import Egress

_IDLE_SECONDS = 4.0
"""n8n closes an idle connection after 5 s; a POST sent into that moment is lost."""
_CONNECT_SECONDS = 5.0
_OWN_HEADERS = {"content-type", "content-length", "host", "transfer-encoding", "user-agent", "traceparent"}


class Payload(msgspec.Struct, kw_only=True):
    """The webhook's body, flat; its fields in this order."""

    id: str
    type: str
    source: str
    user_id: str
    wa_id: str | None
    name: str | None
    message: str
    action: str | None
    slots: dict[str, Any]
    conversation_id: str | None
    in_reply_to: list[str]
    created_at: str
    part: int
    parts: int
    metadata: dict[str, Any]


def payload(reply: wire.Reply, texts: Sequence[str], part: int) -> Payload:
    """
    One of the parts of a reply.

    Args:
        texts: what `split` made of its message.
        part: from 1.
    """
    parts, last = len(texts), part == len(texts)
    return Payload(
        id=f"{reply.id}.p{part}" if parts > 1 else reply.id,
        type=reply.type,
        source=reply.source,
        user_id=reply.user_id,
        wa_id=reply.wa_id,
        name=reply.name,
        message=texts[part - 1],
        action=reply.action if last else None,
        slots=reply.slots if last else {},
        conversation_id=reply.conversation_id,
        in_reply_to=reply.in_reply_to,
        created_at=reply.created_at,
        part=part,
        parts=parts,
        metadata=reply.metadata,
    )


def shown(url: str) -> str:
    """
    An address as logs may have it: `https://n8n.example.org/webhook/…`.

    The last part of a path may be a token, so it is never shown; nor are user, password and query.
    """
    parsed = URL(url)
    port = "" if parsed.is_default_port() or parsed.explicit_port is None else f":{parsed.explicit_port}"
    parts = [part for part in parsed.raw_parts[1:] if part]
    first = f"{parts[0]}/" if len(parts) > 1 else ""
    return f"{parsed.scheme}://{parsed.host}{port}/{first}{'…' if parts else ''}"


class Webhook:
    """The destination: connections to it, and what proves our origin."""

    def __init__(
        self,
        settings: Settings,
        egress: Egress,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] | None = None,
    ) -> None:
        """
        Args:
            clock: Unix seconds.
            monotonic: seconds that only go forward, by which connections grow old; None is the event loop's.

        Raises:
            ConfigurationError: OUTBOUND_URL, OUTBOUND_SECRET or OUTBOUND_HEADER cannot be used.
        """
        if settings.outbound_url is None:
            raise ConfigurationError("environment: OUTBOUND_URL is not set")
        self.url = settings.outbound_url.reveal()
        address = _address(self.url)
        self.shown = shown(self.url)
        self._clock = clock
        self._secrets = [secret.reveal() for secret in settings.outbound_secret]
        self._keys = _keys(self._secrets)
        static = {"content-type": "application/json", "user-agent": _agent(), **_own_header(settings, address)}
        self._hidden = _hidden(address, self._secrets, static)
        self._connections = _connections(address, static, egress, monotonic)

    async def post(self, body: Payload, *, trace: str = "") -> Outcome:
        """Send it once, or twice where the first connection turned out to have been closed while it was idle."""
        raw = wire.encode(body)
        headers = self.headers(body.id, raw, trace)
        try:
            try:
                answer = await self._connections.post(raw, headers)
            except Closed:
                # By the receiver before any answer, most likely while it lay in the pool.  The same webhook-id goes
                # again at once; should the receiver have taken the first one, that id lets it see so.
                answer = await self._connections.post(raw, headers, anew=True)
        except (Unreached, Closed, Unintelligible, TimeoutError) as error:
            return unanswered(error)
        except ValueError:
            return Outcome("bury", "its id cannot be sent as a header")
        return judge(answer, url=self.url, now=self._clock(), hidden=[*self._hidden, body.message])

    def headers(self, webhook_id: str, raw: bytes, trace: str = "") -> dict[str, str]:
        """What goes with these bytes, beside what goes with all; the timestamp is this attempt's."""
        timestamp = int(self._clock())
        headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp)}
        if self._keys:
            headers["webhook-signature"] = signature.standard(self._keys, webhook_id, timestamp, raw)
            headers["x-cauce-signature-256"] = signature.hexadecimal(self._secrets[0], raw)
        if trace:
            headers["traceparent"] = wire.trace_from(trace)
        return headers

    def close(self) -> None:
        self._connections.close()


def _connections(
    address: URL, static: dict[str, str], egress: Egress, monotonic: Callable[[], float] | None
) -> Connections:
    try:
        return Connections(
            address,
            static,
            timeout=egress.timeout,
            connect_timeout=_CONNECT_SECONDS,
            idle=_IDLE_SECONDS,
            clock=monotonic,
        )
    except ValueError:
        raise ConfigurationError("environment: OUTBOUND_HEADER holds a line break") from None


def _address(url: str) -> URL:
    try:
        return URL(url)
    except ValueError:
        raise ConfigurationError("environment: OUTBOUND_URL is no valid address") from None


def _keys(secrets: Sequence[str]) -> list[bytes]:
    try:
        return [signature.key_of(secret) for secret in secrets]
    except ValueError as error:
        raise ConfigurationError(f"environment: OUTBOUND_SECRET: {error}") from None


def _own_header(settings: Settings, address: URL) -> dict[str, str]:
    """OUTBOUND_HEADER as a header, by its lower-case name."""
    if settings.outbound_header is None:
        return {}
    name, _, value = settings.outbound_header.reveal().partition(":")
    name = name.strip().lower()
    if name in _OWN_HEADERS or name.startswith(("webhook-", "x-cauce-")):
        raise ConfigurationError(f"environment: OUTBOUND_HEADER: {name!r} is one that Cauce sets itself; take another")
    if name == "authorization" and address.user is not None:
        raise ConfigurationError(
            "environment: OUTBOUND_HEADER sets Authorization and OUTBOUND_URL has a user in it, which does so too; "
            "keep one of them"
        )
    return {name: value.strip()}


def _hidden(address: URL, secrets: Sequence[str], static: dict[str, str]) -> list[str]:
    own = [value for name, value in static.items() if name not in _OWN_HEADERS]
    words = [word for value in own for word in (value, *value.split())]
    path = [part for part in address.parts[1:] if len(part) >= 8]
    userinfo = [part for part in (address.user, address.password) if part]
    return [*secrets, *words, *userinfo, *path, *address.query.values()]


def _agent() -> str:
    try:
        return f"cauce/{version('cauce')}"
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "cauce"


@asynccontextmanager
async def opened(
    settings: Settings,
    egress: Egress,
    *,
    clock: Callable[[], float] = time.time,
    monotonic: Callable[[], float] | None = None,
) -> AsyncIterator[Webhook]:
    """
    A webhook with its connections.

    Raises:
        ConfigurationError: see Webhook.
    """
    webhook = Webhook(settings, egress, clock=clock, monotonic=monotonic)
    try:
        yield webhook
    finally:
        webhook.close()
