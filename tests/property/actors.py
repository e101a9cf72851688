"""
Who acts in the stories: workers with what they hold in memory, which a crash takes away, and clients that wait.

A worker does what streams/worker.py and the handlers do, one step at a time, so that anything can come between two.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import msgspec

from streams import fate
from streams.connection import entries
from streams.doors import release
from streams.effects import Answer, Effects, Handler, Metering, Output, Turn, Write
from streams.endings import Ending, ending
from streams.errors import Malformed, Retry, Unavailable
from streams.tables import Group
from streams.topology import Topology, parse
from streams.turns import Gone, Grant, Impossible, Turns
from tests.property.wire import Wire

TTL = 10**6
"""Seconds, more than the clock ever moves in one story."""


async def nothing(turn: Turn) -> None:
    """Handlers are played by `Worker.handle`."""


HANDLERS = {
    "answers": Handler(handle=nothing, recall=("own",), metering=Metering(kind="rate_limit", window_seconds=TTL)),
    "archive": Handler(handle=nothing, recall=("own",)),
    "egress": Handler(handle=nothing),
}


def a_topology() -> Topology:
    """Two groups on one stream, one of which answers, and the group behind it."""
    common = {"handler": "nowhere:nothing", "attempts": 3, "backoff": ["1s", "5s"]}
    return parse(
        {
            "streams": {"inbound": {}, "outbound": {}},
            "wait": {"keep": TTL},
            "groups": {
                "answers": {"reads": "inbound", "writes": ["outbound"], "turn_max": 3, "debounce": "2s",
                            "debounce_max": "5s", "on_new_message": "supersede", "supersede_max": 2, **common},
                "archive": {"reads": "inbound", **common},
                "egress": {"reads": "outbound", "turn_max": 1, **common},
            },
        }
    )  # fmt: skip


class Delivery(msgspec.Struct, frozen=True):
    """One POST that reached the webhook."""

    reply: str
    """The entry on outbound."""
    part: int
    rightful: bool
    """The lease was in force; one who was frozen and lost it may still send what he was about to send."""


class Work(msgspec.Struct):
    """A turn in a worker's memory."""

    grant: Grant
    end: Ending | None = None
    """Decided, and perhaps sent already; the same bytes are sent until Redis answers."""


class Worker:
    """One consumer of one group."""

    def __init__(self, store: Wire, topology: Topology, group: Group, sink: list[Delivery]) -> None:
        self.group, self.sink = group, sink
        self.turns = Turns(store, topology, group, HANDLERS[group.name])
        self.work: list[Work] = []
        self._store = store

    async def take(self, room: int, count: int) -> None:
        suspects = 0 if any(work.grant.suspect for work in self.work) else 1
        with contextlib.suppress(Unavailable):
            try:
                taken = await self.turns.take(room, count, suspects)
            except Gone:
                await self.turns.open()
            else:
                self.work += [Work(grant) for grant in taken.grants]

    async def handle(self, work: Work, how: str, rightful: bool = True) -> None:
        """Run the handler, which does `how`, and decide what becomes of the turn."""
        if work.end is not None:
            return
        grant = work.grant
        if burial := fate.before(grant.starts, self.group.attempts):
            work.end = self._bury(grant, burial)
            return
        try:
            effects = await self._effects(grant.turn, how, rightful)
        except (Retry, Malformed, ValueError) as error:
            verdict = fate.after(
                error, attempt=grant.turn.attempt, attempts=self.group.attempts, backoff=self.group.backoff, luck=0.5
            )
            if isinstance(verdict, fate.Burial):
                work.end = self._bury(grant, verdict)
            else:
                assert isinstance(verdict, fate.Park)
                work.end = self._ending(grant, [], park=verdict)
        else:
            work.end = self._ending(grant, [message.id for message in grant.turn.messages], effects=effects)

    async def commit(self) -> None:
        """All that has been decided, in one call; what got no answer is sent again the next time."""
        ready = [work for work in self.work if work.end]
        if not ready:
            return
        try:
            results = await self.turns.settle([work.end for work in ready if work.end])
        except Unavailable:
            return
        assert not any(isinstance(result, Impossible) for result in results)
        self.work = [work for work in self.work if work not in ready]

    async def beat(self) -> None:
        try:
            beaten = await self.turns.beat([work.grant.token for work in self.work])
        except Unavailable:
            return
        self.work = [work for work in self.work if work.grant.token not in beaten.lost]
        self._supersede(beaten.newer)

    async def listen(self) -> None:
        """To its bell, from its beginning: what it has acted on is passed over."""
        rung = entries(await self._store.command("XRANGE", f"bell:{self.turns.consumer}", "-", "+"))
        self._supersede([fields["newer"].decode() for _, fields in rung])

    def _supersede(self, tokens: list[str]) -> None:
        for work in self.work:
            if work.grant.token in tokens and work.end is None:
                most, times = self.group.supersede_max, work.grant.turn.superseded
                if join := fate.overtaken(times, most, suspect=work.grant.suspect):
                    work.end = self._ending(work.grant, [], park=join)

    async def _effects(self, turn: Turn, how: str, rightful: bool) -> Effects | None:
        if how == "fails":
            raise ValueError
        if how == "waits":
            raise Retry("breaker", after=3, counted=False)
        if how == "refuses":
            raise Malformed("refused", entry=turn.messages[-1].id)
        if self.group.name == "egress":
            return await self._deliver(turn, rightful)
        ids = [message.id for message in turn.messages]
        before = json.loads(turn.state["own"] or b"[]")
        said = how != "is silent" and self.group.name == "answers"
        told = json.dumps([*before, *([id, said] for id in ids)]).encode()
        reply = Output(stream="outbound", type="reply", body={"said": ids, "parts": len(ids)}, answers=True)
        return Effects(
            outputs=[reply] if said else [],
            writes=[Write(kind="own", value=told, ttl_seconds=TTL)],
            answer=Answer(status="replied", body={"said": ids}) if self.group.name == "answers" else None,
        )

    async def _deliver(self, turn: Turn, rightful: bool) -> None:
        """processors/egress/handler.py, with a list for a webhook."""
        [message] = turn.messages
        entry, _, done = turn.progress.rpartition("/")
        part = int(done) + 1 if entry == message.id else 1
        if message.door and part == 1:
            try:
                hold_ms = await release(self._store, message.door)
            except Unavailable as error:
                raise Retry("Redis is away", after=1, counted=False) from error
            if hold_ms > 0:
                raise Retry("door", after=hold_ms / 1000, counted=False, at_door=True)
            if hold_ms < 0:
                return
        self.sink.append(Delivery(message.id, part, rightful))
        if part < json.loads(message.body)["parts"]:
            raise Retry("spacing", after=1, counted=False, progress=f"{message.id}/{part}")

    def _bury(self, grant: Grant, burial: fate.Burial) -> Ending:
        """streams/worker.py buries these, and whoever answers says sorry for them."""
        ids = [
            message.id
            for message, starts in zip(grant.turn.messages, grant.starts, strict=True)
            if (not burial.exhausted_only or starts >= self.group.attempts) and burial.only in (None, message.id)
        ]
        sorry = Effects(
            outputs=[Output(stream="outbound", type="reply", body={"sorry": ids, "parts": 1}, answers=True)],
            answer=Answer(status="failed", body={"sorry": ids}),
        )
        return self._ending(grant, ids, bury=burial.why, effects=sorry if self.group.writes else None)

    def _ending(self, grant: Grant, ids: list[str], **how: Any) -> Ending:
        return ending(self._store.keys, self.group, grant.turn, grant.token, ids, **how)


class Post(msgspec.Struct):
    """One message of a person, as its sender knows it."""

    person: str
    message_id: str
    text: str
    entry: str = ""
    """Where the ingress said that it lies; empty while nobody has told the sender that it was accepted."""


class Client(msgspec.Struct):
    """A request that waits."""

    post: Post
    ticket: str
    entry: str
    ingress: int
