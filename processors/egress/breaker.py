"""
The breaker of a destination: stop hammering what is down, let one delivery try, let the others wait without blame.

It lives in Redis, so that all egress processes know one state (breaker.lua is each change of it); here is one process's
copy, and when to ask.  While all goes well it costs nothing per delivery: the copy is renewed by the first delivery
after each second, Redis hears of every failure at once, and of a success only where it remembers failures or is open.
So another process's opening is noticed a second late, at the price of a few deliveries that fail as they would have.

What counts: replies in a row that failed, each once however often it is tried, for an answer such as 500 may be that
reply's own fault; but every time where there was no connection at all, for which no reply can be blamed.

Knows no HTTP.
"""

from __future__ import annotations

import hashlib
import random
import secrets
import time
from collections.abc import Callable
from typing import Literal

import msgspec

from streams import log as logs
from streams import metrics
from streams.connection import Store
from streams.errors import Unavailable
from streams.scripts import script
from streams.tables import Egress

log = logs.get("egress")

_SCRIPT = script(__file__, "breaker.lua")
_FRESH_SECONDS = 1.0
_GONE_SECONDS = 60.0
"""After a 410: how often a waiting key looks whether an operator has closed the breaker."""
_SPREAD_SECONDS = 30.0
"""What waited together is not let go together; but recovery should not take minutes longer for it."""
_PROBE_GRACE_SECONDS = 5.0
"""Beyond the HTTP timeout, before another delivery is let through in place of one whose process died."""

State = Literal["closed", "open", "gone"]


class Sight(msgspec.Struct, frozen=True):
    """The breaker as Redis has it."""

    state: State = "closed"
    """`open`: after failures, until a time. `gone`: after a 410, until closed by hand."""
    remaining_seconds: float = 0.0
    wait_seconds: float = 0.0
    """How long this opening lasts; it doubles at each failed try."""
    failures: int = 0
    """In a row, while closed."""


def key_of(store: Store, url: str) -> str:
    """The key of a destination; another OUTBOUND_URL is another destination, with a breaker of its own."""
    return store.keys.of("breaker", hashlib.sha256(url.encode()).hexdigest()[:16])


async def look(store: Store, url: str) -> Sight:
    """For operators: the state, changing nothing."""
    flat = await store.command("HGETALL", key_of(store, url))
    fields = {flat[i]: flat[i + 1] for i in range(0, len(flat), 2)}
    now_seconds, micros = await store.command("TIME")
    now_ms = int(now_seconds) * 1000 + int(micros) // 1000
    state: State = {b"open": "open", b"gone": "gone"}.get(fields.get(b"state", b""), "closed")  # type: ignore[assignment]
    return Sight(
        state=state,
        remaining_seconds=max(0, int(fields.get(b"until", now_ms)) - now_ms) / 1000,
        wait_seconds=int(fields.get(b"wait", 0)) / 1000,
        failures=sum(field.startswith(b"f:") for field in fields),
    )


async def close(store: Store, url: str) -> bool:
    """
    `cauce breaker close`: whatever it was, deliveries may try again; noticed within a second by the next one due.

    Returns:
        Was there anything to close or forget?
    """
    return bool(await store.command("DEL", key_of(store, url)))


class Breaker:
    """One process's door to the breaker of one destination."""

    def __init__(
        self,
        store: Store,
        url: str,
        egress: Egress,
        *,
        clock: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        """
        Args:
            clock: any seconds that only go forward.
            uniform: from where spread is drawn.
        """
        self._store = store
        self._keys = [key_of(store, url)]
        self._clock = clock
        self._uniform = uniform
        self._probe_ms = int((egress.timeout + _PROBE_GRACE_SECONDS) * 1000)
        self._rule = (
            egress.breaker_failures,
            max(1, int(egress.breaker_wait * 1000)),
            max(1, int(egress.breaker_wait_max * 1000)),
        )
        self._copy = Sight()
        self._until = 0.0
        self._looked = float("-inf")

    async def admit(self, who: str) -> float | None:
        """
        May this delivery go?  `who` is its webhook-id.

        Returns:
            None: go.  Else seconds to wait, spread so that not all who wait come back at one moment.

        Raises:
            Unavailable: Redis cannot say.
        """
        now = self._clock()
        fresh = now - self._looked < _FRESH_SECONDS
        if fresh and self._copy.state == "closed":
            return None
        if fresh and (self._copy.state == "gone" or self._until > now):
            return self._wait()
        # Set before Redis answers: of the many deliveries that start in this moment one asks.
        self._looked = now
        return None if await self._call("ask", who, self._probe_ms) in ("closed", "probe") else self._wait()

    async def failed(self, who: str, why: str, *, unreached: bool) -> float | None:
        """
        Nothing came of this delivery.

        Args:
            why: for the log, should this open the breaker.
            unreached: there was no connection to send it over: counts each time, not once a reply.

        Returns:
            None: it is closed, the failure is the delivery's.  Else seconds to wait, and nobody's attempt is used up.
        """
        before = self._copy.state
        mark = f"{who}/{secrets.token_hex(4)}" if unreached else who
        try:
            state = await self._call("fail", who, mark, *self._rule)
        except Unavailable:
            return None  # Redis will hear of the next one
        if state == "closed":
            return None
        if before == "closed":
            log.warning("breaker.opened", why=why, wait_s=self._copy.wait_seconds)
        return self._wait()

    async def succeeded(self, who: str) -> None:
        """The destination took this delivery, or at least answered it in its right mind."""
        if self._copy.state == "closed" and not self._copy.failures:
            return
        was, self._copy = self._copy, Sight()  # of many successes at once one tells Redis
        try:
            if await self._call("succeed", who) == "closed" and was.state == "open":
                log.info("breaker.closed")
        except Unavailable:
            self._copy = was

    async def gone(self, who: str) -> float:
        """The destination said 410.  Returns seconds to wait before looking whether an operator closed it."""
        if self._copy.state != "gone":
            log.error("breaker.gone", remedy="set another OUTBOUND_URL, or run `cauce breaker close`")
        try:
            await self._call("gone", who)
        except Unavailable:
            self._copy = Sight(state="gone")
        return self._wait()

    async def _call(self, verb: str, *args: str | int) -> str:
        reply = await self._store.run(_SCRIPT, self._keys, [verb, *args])
        state = reply[0].decode()
        remaining_ms, wait_ms, failures = reply[1:]
        shown: State = state if state in ("closed", "gone") else "open"
        self._copy = Sight(shown, remaining_ms / 1000, wait_ms / 1000, failures)
        self._looked = self._clock()
        self._until = self._looked + self._copy.remaining_seconds
        metrics.BREAKER.set(shown != "closed")
        return str(state)

    def _wait(self) -> float:
        if self._copy.state == "gone":
            return _GONE_SECONDS * self._uniform(1.0, 1.5)
        left = max(0.0, self._until - self._clock())
        return left + self._uniform(0.0, min(max(self._copy.wait_seconds, 1.0), _SPREAD_SECONDS))
