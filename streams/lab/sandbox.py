"""
Where a handler runs that must change nothing: its state is a run's file, and of Redis it finds none.

A turn is built as turns.py builds it, and its effects are checked as endings.py checks them; what would be appended is
told, not appended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

import msgspec

from streams import endings, fate
from streams.connection import Store
from streams.effects import Effects, Handler, Message, Output, Turn, Write
from streams.errors import Retry, Unavailable
from streams.keys import Keys, shard_of
from streams.lab.replayed import Appended, Input
from streams.lab.replayed import Output as Old
from streams.stores import Stores
from streams.tables import Group

State = dict[str, bytes]


class _Nowhere:
    """A way that leads to no server, so nothing that is said on it can do anything."""

    clustered = False

    async def pool(self) -> NoReturn:
        raise Unavailable("there is no Redis in a replay", told=True)

    def learn(self, pool: object, trouble: Exception) -> None:
        pass

    async def close(self) -> None:
        pass


def no_stores(shards: int) -> Stores:
    """Stores as a handler's lifespan is given; whatever is asked of them, Redis is away, at once and silently."""
    way = _Nowhere()
    each = [Store(way, Keys(shard=shard, shards=shards), patience=0) for shard in range(shards)]
    return Stores(each, each[0], way.close)


class Became(NamedTuple):
    """What a turn came to."""

    outputs: list[Appended]
    writes: list[Write]
    error: str = ""
    """Why it failed; then the rest is what is committed beside a burial."""


class Sandbox:
    """One group's handler, and what it needs to run."""

    def __init__(self, group: Group, handler: Handler, resources: Any, shards: int) -> None:
        self.group, self.handler, self.resources = group, handler, resources
        self._shards = shards

    def turn(self, key: str, inputs: Sequence[Input], began_ms: int, state: State) -> Turn:
        """A turn of the past, as its handler is given it."""
        return Turn(
            group=self.group.name,
            key=inputs[-1].id if self.group.order == "none" else key,
            messages=[message(each) for each in inputs],
            state={kind: state.get(kind) for kind in self.handler.recall},
            resources=self.resources,
            now_ms=began_ms,
            shard=shard_of(inputs[-1].person, self._shards) if self._shards > 1 else None,
        )

    async def handle(self, turn: Turn, state: State) -> Became:
        """What its handler makes of it; where it fails for good, what is committed beside its burial."""
        try:
            return self._became(turn, state, await self._handled(turn))
        except Exception as error:
            why = fate.why(error)
        if self.handler.buried is None:
            return Became([], [], why)
        try:
            became = self._became(turn, state, self.handler.buried(turn, why))
        except Exception as error:  # an apology that fails is none
            return Became([], [], f"{why}; and its apology: {fate.why(error)}")
        return became._replace(error=why)

    async def _handled(self, turn: Turn) -> Effects | None:
        """
        With the patience that it asks for itself, and no longer than the group's deadline.

        Another error than Retry is its answer: a replay says so at once, and does not wait for a backoff.
        """
        working = asyncio.current_task()
        async with asyncio.timeout(self.group.deadline):
            while True:
                try:
                    return await self._called(turn)
                except asyncio.CancelledError:
                    if working is None or working.cancelling():
                        raise
                    raise RuntimeError("the handler cancelled itself") from None
                except Retry as again:
                    if again.counted and turn.attempt >= self.group.attempts:
                        raise
                    if again.counted:
                        turn.attempt += 1
                    if again.progress is not None:
                        turn.progress = again.progress
                    await asyncio.sleep(1.0 if again.after is None else again.after)

    async def _called(self, turn: Turn) -> Effects | None:
        if self.handler.batch:
            answers: Sequence[Effects | None] = await self.handler.handle([turn]) or [None]
            return answers[0]
        effects: Effects | None = await self.handler.handle(turn)
        return effects

    def _became(self, turn: Turn, state: State, effects: Effects | None) -> Became:
        if effects is not None and effects.unless in state and effects.instead is not None:
            effects = effects.instead()
        if effects is None:
            return Became([], [])
        keys = Keys(shard=turn.shard or 0, shards=self._shards)
        outputs = [_told(keys, self.group, turn, output) for output in effects.outputs]
        for write in effects.writes:
            keys.state(write.kind, self.group.name, turn.key)  # a kind that is none fails the turn
        return Became(outputs, list(effects.writes))


def message(entry: Input) -> Message:
    return Message(
        id=entry.id, type=entry.type, body=bytes(entry.body), version=entry.v, trace=entry.trace, replayed=True,
        origin=entry.origin,
    )  # fmt: skip


def old_message(entry: Old) -> Message:
    """What was appended then, as whoever reads it has it."""
    return Message(
        id=f"{entry.ms}-{entry.seq}", type=entry.type, body=bytes(entry.body), version=entry.v, trace=entry.trace
    )


def _told(keys: Keys, group: Group, turn: Turn, output: Output) -> Appended:
    _, _, _, body, _ = endings.entry(keys, group, turn, output)
    return Appended(output.stream, output.type, output.key or turn.key, msgspec.Raw(body))
