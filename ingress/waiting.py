"""
A reply for a request that waits.

The request registers in the very act that appends its message (append.lua); when the reply is there, our bell in Redis
rings and the reply is claimed, which takes it from the webhook for good.  So it is claimed only while the client is
still there; otherwise it is left to the webhook.  Knows doors and bells, no HTTP but its `Prefer` header.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
from collections.abc import Iterable, Iterator

from ingress.append import INBOUND, Waiter
from streams import log as logs
from streams import metrics
from streams.connection import Store
from streams.doors import Claim, Doors
from streams.errors import Unavailable
from streams.scripts import script
from streams.topology import Topology

GRACE_MS = 2_000
"""How much longer than its client a registration waits: for the claim to reach Redis."""

BLOCK_MS = 30_000
RETRY_SECONDS = 0.5

_WITHDRAW = script(__file__, "withdraw.lua")
_WAIT = re.compile(r'\s*wait\s*=\s*"?(\d{1,9})"?\s*(?:;.*)?', re.IGNORECASE)
_log = logs.get("ingress")


def preferred(headers: Iterable[str], most: float) -> int:
    """
    Seconds that `Prefer: wait=N` asks for (https://www.rfc-editor.org/rfc/rfc7240), at most `most`; 0 for none.

    What cannot be understood is no preference, as the RFC has it.
    """
    for header in headers:
        for preference in header.split(","):
            if match := _WAIT.fullmatch(preference):
                return min(int(match[1]), int(most))
    return 0


class Ticket:
    """One request that waits."""

    def __init__(self, seconds: float, bell: str) -> None:
        self.id = secrets.token_hex(8)
        self.rung = asyncio.Event()
        self.replaced = False
        """A newer request waits for the same entry, and gets the reply."""
        self.until = asyncio.get_running_loop().time() + seconds
        self.waiter = Waiter(ms=int(seconds * 1000) + GRACE_MS, bell=bell, ticket=self.id)


class Waiting:
    """All requests of this process that wait."""

    def __init__(self, store: Store, topology: Topology) -> None:
        self._store = store
        self._doors = Doors(store, topology, INBOUND)
        self._bell = f"ingress-{secrets.token_hex(8)}"
        self._tickets: dict[str, Ticket] = {}
        self._following: asyncio.Task[None] | None = None
        self._somebody = asyncio.Event()
        self._closing = asyncio.Event()

    @contextlib.contextmanager
    def ticket(self, seconds: float) -> Iterator[Ticket]:
        """A ticket, good while the context is open; take it before the message is appended."""
        ticket = Ticket(seconds, self._bell)
        self._tickets[ticket.id] = ticket
        self._somebody.set()
        if self._following is None:
            self._following = asyncio.create_task(self._follow())
        metrics.WAITING.inc()
        try:
            yield ticket
        finally:
            metrics.WAITING.dec()
            del self._tickets[ticket.id]
            if not self._tickets:
                self._somebody.clear()

    async def reply(
        self, ticket: Ticket, key: str, entry: str, gone: asyncio.Task[None], *, repeat: bool
    ) -> Claim | None:
        """
        The reply to `entry`, which `key` wrote.

        Args:
            gone: ends when the client hangs up.
            repeat: the entry was there before this request, so its reply may be as well.

        Returns:
            what the claim says, `pending` once the time is up or a newer request waits; None where the client has
            hung up.

        Raises:
            Unavailable: the last claim could not be made; `maybe_written` where any claim's answer was lost.
        """
        lost = False
        if repeat:
            ticket.rung.set()  # its reply may be there already, and then nobody rings
        while True:
            in_time = await self._rings(ticket, gone)
            if gone.done():
                await self._withdraw(ticket, entry)
                return None
            if ticket.replaced:
                return Claim("pending")
            try:
                found = await self._doors.claim(key, entry, ticket.id, stop=not in_time)
            except Unavailable as error:
                lost = lost or error.maybe_written
                if not in_time:
                    # Any of the claims may have taken the reply, also where the last one certainly did not.
                    raise Unavailable(
                        str(error), maybe_written=lost, retry_after=error.retry_after, told=error.told
                    ) from error
                await asyncio.sleep(RETRY_SECONDS)
                ticket.rung.set()  # ask again: the same claim gets the same answer
                continue
            if found.state != "pending" or not in_time:
                return found

    async def _rings(self, ticket: Ticket, gone: asyncio.Task[None]) -> bool:
        """Wait for the bell; False when time is up or the ingress stops."""
        loop = asyncio.get_running_loop()
        rung, closing = loop.create_task(ticket.rung.wait()), loop.create_task(self._closing.wait())
        try:
            await asyncio.wait(
                {rung, closing, gone}, timeout=ticket.until - loop.time(), return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            rung.cancel()
            closing.cancel()
        ticket.rung.clear()
        return loop.time() < ticket.until and not self._closing.is_set()

    async def _withdraw(self, ticket: Ticket, entry: str) -> None:
        # Not a claim with `stop`: that would take a reply that has just come, and nobody would read it.
        with contextlib.suppress(Unavailable):
            await self._store.run(_WITHDRAW, [self._store.keys.of("waiting", INBOUND)], [entry, ticket.id])

    async def _follow(self) -> None:
        """Wake whom the bell names, for as long as somebody waits."""
        bell, last, deaf = self._store.keys.of("bell", self._bell), "0", False
        follower = self._store.follower()
        try:
            while True:
                await self._somebody.wait()
                try:
                    found = await follower.read({bell: last}, BLOCK_MS, count=100)
                except Unavailable as error:
                    if not (error.told or deaf):
                        _log.warning("bell.lost", why=str(error))
                    deaf = deaf or not error.told
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                deaf = False
                for _, rings in found:
                    for last, fields in rings:  # noqa: B007 - the last one is where to go on
                        if ticket := self._tickets.get(fields.get("ticket", b"").decode(errors="replace")):
                            ticket.replaced = ticket.replaced or "replaced" in fields
                            ticket.rung.set()
        finally:
            await follower.close()

    def stop(self) -> None:
        """Let everybody who waits go: what is not there yet goes by the webhook."""
        self._closing.set()

    async def close(self) -> None:
        self.stop()
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._following
