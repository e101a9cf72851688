"""
The two doors: a reply goes out through a waiting HTTP request or by the webhook, never through both.

`append.lua` registers who waits; `settle.lua` sees it and marks the reply; here the ingress claims it and egress asks
for its release.  Each is one compare-and-set, so it does not matter who crashes in between.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from streams.connection import Store
from streams.scripts import script
from streams.topology import Topology

_CLAIM = script(__file__, "claim.lua")
_RELEASE = script(__file__, "release.lua")


class Claim(msgspec.Struct, frozen=True):
    """What a waiting request learns."""

    state: Literal["claimed", "merged", "pending", "webhook", "erased"]
    """
    claimed: the answer is yours; merged: `into`'s request got it; pending: not yet; webhook: by that door; erased: its
    person was, and there is none.
    """
    status: str = ""
    answer: bytes = b"{}"
    """JSON, as the handler's `Answer.body`."""
    into: str = ""


class Doors:
    """The doors between one inbound stream and the groups behind it."""

    def __init__(self, store: Store, topology: Topology, stream: str) -> None:
        self._store = store
        keys = store.keys
        self._stream = stream
        answering = topology.answering(stream)
        self._group = answering.name if answering else ""
        written = answering.writes if answering else []
        holders = [holder.name for out in written for holder in topology.readers(out)]
        self._holders = msgspec.msgpack.encode(
            [
                [keys.group("leases", name), keys.group("due", name), keys.group("hints", name), keys.of("bell", name)]
                for name in holders
            ]
        )

    async def claim(self, key: str, entry: str, ticket: str, *, stop: bool = False) -> Claim:
        """
        Ask for the reply to `entry`, which `key` wrote.  A repeat after a claim gets the same answer again.

        Args:
            ticket: what the request registered with.
            stop: it does not wait any longer: where the reply is not there yet, it is left to the webhook.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        keys = self._store.keys
        found = await self._store.run(
            _CLAIM,
            [
                keys.of("door", entry),
                keys.of("waiting", self._stream),
                keys.group("cursor", self._group),
                keys.group("box", self._group, key),
                keys.of("erased"),
                keys.stream(self._stream),
            ],
            [entry, ticket, "1" if stop else "0", keys.of("door") + ":", keys.of("bell") + ":", self._holders, key],
        )
        state = found[0].decode()
        if state == "claimed":
            return Claim("claimed", status=found[1].decode(), answer=found[2])
        return Claim(state, into=found[1].decode() if state == "merged" else "")


async def release(store: Store, entry: str) -> int:
    """
    May the reply that answers `entry` go out by the webhook?

    Returns:
        0 yes, and no request can claim it any more; -1 no, it went through HTTP; else milliseconds to hold it still.
    """
    return int(await store.run(_RELEASE, [store.keys.of("door", entry)]))
