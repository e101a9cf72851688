"""
Replies that were given before, for questions that need no conversation to be answered (`inference.answers`).

A key is a hash of all that the reply depends on: what was asked, put plainly, the system prompt, the model and the
settings; so another prompt or model finds none of the former's.  Only turns without a history ask here.  Redis has them
beside the person's own keys; where it does not answer, there is none.
"""

from __future__ import annotations

import hashlib

import msgspec

from processors.inference.spanish_dates import fold
from streams import metrics
from streams.errors import Unavailable
from streams.stores import Stores

_SIGNS = " ¿?¡!.,;:…"

MAX_BYTES = 4096
"""A longer reply is not kept."""


class Answers:
    """Those of one group."""

    def __init__(self, stores: Stores, seconds: float, *depends_on: object) -> None:
        """
        Args:
            seconds: how long one is kept.
            depends_on: what is the same for all questions: the model, the settings.
        """
        self._stores, self._ms = stores, int(seconds * 1000)
        self._salt = msgspec.json.encode(depends_on)

    async def find(self, person: str, rules: str, question: str) -> str | None:
        """The reply that was given to this question, in `plain` words, under these rules; None where there is none."""
        store = self._stores.of(person)
        try:
            found = await store.command("GET", store.keys.of("answer", self._name(rules, question)))
        except Unavailable:
            return None
        metrics.ANSWERS.labels("hit" if found else "miss").inc()
        return found.decode() if found else None

    async def keep(self, person: str, rules: str, question: str, reply: str) -> None:
        value = reply.encode()
        if len(value) > MAX_BYTES:
            return
        store = self._stores.of(person)
        try:
            await store.command("SET", store.keys.of("answer", self._name(rules, question)), value, "PX", self._ms)
        except Unavailable:
            pass  # the next one asks the model

    def _name(self, rules: str, question: str) -> str:
        digest = hashlib.sha256(self._salt)
        for text in (rules, question):
            digest.update(b"\0" + text.encode())
        return digest.hexdigest()


def plain(question: str) -> str:
    """What was asked, without capitals, accents and signs at its ends: «¿A qué hora abren?» is `a que hora abren`."""
    return " ".join(fold(question).split()).strip(_SIGNS)
