"""
What the processes have counted, as the ingress tells Prometheus: read over HTTP, now and then.

Under `cauce up` that is everybody's; elsewhere the ingress's own, and of the others nothing is known here.
"""

from __future__ import annotations

import asyncio

import aiohttp
import msgspec
from prometheus_client.parser import text_string_to_metric_families

from streams.settings import Settings

EVERY = 3.0
"""Seconds between two looks: to be asked costs the ingress more than Redis."""

_PATIENCE = aiohttp.ClientTimeout(total=2)


class Counted(msgspec.Struct):
    """Totals so far."""

    messages: dict[str, float] = {}
    """By outcome."""
    deliveries: dict[str, float] = {}
    """By outcome; empty where egress counts elsewhere."""
    tokens: dict[str, float] = {}
    """By kind."""
    waiting: float = 0
    """Requests that wait for their reply now."""


_WHERE = {
    "cauce_messages_total": ("messages", "outcome"),
    "cauce_deliveries_total": ("deliveries", "outcome"),
    "cauce_generation_tokens_total": ("tokens", "kind"),
}


class Counters:
    """Of one ingress."""

    def __init__(self, settings: Settings, base: str) -> None:
        self.base = base
        self.trouble = ""
        """Why nothing is known; empty where it is."""
        tokens = settings.operator_tokens or settings.ingress_tokens
        self._headers = {"Authorization": f"Bearer {tokens[0].reveal()}"} if tokens else {}
        self._looks = 0
        self._next = 0.0

    async def look(self) -> Counted | None:
        """What it tells; None where it is too early to ask again, or it does not answer."""
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return None
        self._looks += 1
        if self._looks > 1:  # the second is not waited for: a rate is a difference
            self._next = now + EVERY
        try:
            async with (
                aiohttp.ClientSession(timeout=_PATIENCE, headers=self._headers) as session,
                session.get(f"{self.base}/metrics") as answer,
            ):
                self.trouble = _meaning(answer.status)
                return None if self.trouble else counted(await answer.text())
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            self.trouble = str(error) or "it does not answer"
            return None


def _meaning(status: int) -> str:
    if status in (401, 403):
        return "it wants one of OPERATOR_TOKENS"
    return "" if status == 200 else f"it answers {status}"


def counted(text: str) -> Counted:
    """Raises ValueError: this is not what Prometheus reads."""
    found = Counted()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name in _WHERE:
                field, label = _WHERE[sample.name]
                getattr(found, field)[sample.labels[label]] = sample.value
            elif sample.name == "cauce_waiting_requests":
                found.waiting = sample.value
    return found
