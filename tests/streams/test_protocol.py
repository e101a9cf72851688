"""
The protocol of turns against a model of its promises: random posts, crashes between any two steps, late, lost and
repeated calls, takeovers, parks, a Redis that forgets its groups.  On a real Redis; the seed is printed on a failure.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import pytest
from conftest import Server, emptied
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from protocol import a_topology, bodies, end, nothing

from streams.connection import Store
from streams.effects import Effects, Handler, Output, Write
from streams.turns import Gone, Grant, Turns
from streams.watch import Watch

PEOPLE = st.sampled_from(["+1", "+2", "+3"])
HANDLER = Handler(handle=nothing, recall=("own",))


class Consumer:
    """One worker's memory: what a crash takes away."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.held: list[Grant] = []
        self.done: list[Grant] = []


class Protocol(RuleBasedStateMachine):
    """Posts and faults in any order; at the end everything has been answered once, in order."""

    server: Server

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.store: Store = emptied(self.server)
        self.top = a_topology(turn_max=3)
        self.said: dict[str, list[str]] = {}
        self.live: list[Consumer] = []
        self.dead: list[Consumer] = []
        self.do(self.hire())

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def hire(self) -> Consumer:
        consumer = Consumer(Turns(self.store, self.top, self.top.groups["g"], HANDLER))
        await consumer.turns.open()
        self.live.append(consumer)
        return consumer

    def one(self, number: int) -> Consumer:
        return self.live[number % len(self.live)]

    async def _take(self, consumer: Consumer, room: int, count: int) -> list[Grant]:
        try:
            return (await consumer.turns.take(room, count, suspects=99)).grants
        except Gone:
            await consumer.turns.open()
            return []

    async def _end(self, consumer: Consumer, grant: Grant) -> None:
        """A handler that reads what was said before and adds to it, as a conversation does."""
        before = json.loads(grant.turn.state["own"] or b"[]")
        effects = Effects(
            outputs=[Output(stream="outbound", type="reply", body={"to": grant.turn.key, "said": bodies(grant)})],
            writes=[Write(kind="own", value=json.dumps([*before, *bodies(grant)]).encode(), ttl_seconds=600)],
        )
        await end(consumer.turns, grant, effects)
        consumer.done.append(grant)

    @rule(person=PEOPLE, count=st.integers(1, 4))
    def somebody_writes(self, person: str, count: int) -> None:
        said = self.said.setdefault(person, [])
        for _ in range(count):
            body = f'"{person}:{len(said)}"'
            self.do(self.store.command("XADD", "inbound", "*", "key", person, "type", "text", "body", body))
            said.append(body)

    @rule()
    def another_worker_starts(self) -> None:
        if len(self.live) < 4:
            self.do(self.hire())

    @rule(who=st.integers(0, 9), room=st.integers(1, 3), count=st.integers(1, 5))
    def a_worker_takes(self, who: int, room: int, count: int) -> None:
        consumer = self.one(who)
        consumer.held += self.do(self._take(consumer, room, count))

    @rule(who=st.integers(0, 9))
    def the_answer_of_a_take_is_lost_and_the_call_repeated(self, who: int) -> None:
        consumer = self.one(who)
        self.do(self._take(consumer, 2, 3))
        consumer.turns._calls -= 1
        consumer.held += self.do(self._take(consumer, 2, 3))

    @rule(who=st.integers(0, 9))
    def the_answer_of_a_take_is_lost_for_good(self, who: int) -> None:
        self.do(self._take(self.one(who), 2, 3))

    @rule(who=st.integers(0, 9))
    def a_worker_beats(self, who: int) -> None:
        consumer = self.one(who)
        lost, _ = self.do(consumer.turns.beat([grant.token for grant in consumer.held]))
        consumer.held = [grant for grant in consumer.held if grant.token not in lost]

    @rule(who=st.integers(0, 9), which=st.integers(0, 9), twice=st.booleans())
    def a_turn_is_committed(self, who: int, which: int, twice: bool) -> None:
        consumer = self.one(who)
        if consumer.held:
            grant = consumer.held.pop(which % len(consumer.held))
            for _ in range(1 + twice):
                self.do(self._end(consumer, grant))

    @rule(who=st.integers(0, 9), counted=st.booleans())
    def a_turn_is_parked(self, who: int, counted: bool) -> None:
        consumer = self.one(who)
        if consumer.held:
            self.do(end(consumer.turns, consumer.held.pop(), delay_ms=0, uncount=not counted))

    @rule(who=st.integers(0, 9), which=st.integers(0, 9))
    def an_old_commit_arrives_late(self, who: int, which: int) -> None:
        everybody = self.live + self.dead
        consumer = everybody[who % len(everybody)]
        if consumer.done:
            self.do(self._end(consumer, consumer.done[which % len(consumer.done)]))

    @precondition(lambda self: len(self.live) > 1)
    @rule(who=st.integers(0, 9), within_a_commit=st.booleans())
    def a_worker_dies(self, who: int, within_a_commit: bool) -> None:
        consumer = self.live.pop(who % len(self.live))
        if within_a_commit and consumer.held:
            self.do(self._end(consumer, consumer.held.pop()))
        self.dead.append(consumer)
        self.do(self.store.command("DEL", consumer.turns._heartbeat))

    @precondition(lambda self: bool(self.dead))
    @rule(who=st.integers(0, 9))
    def the_dead_are_swept_and_their_last_words_arrive(self, who: int) -> None:
        self.do(self._sweep())
        for consumer in self.dead:
            for grant in consumer.held:
                self.do(self._end(consumer, grant))
            consumer.held = []

    async def _sweep(self) -> None:
        watch = Watch(self.store, a_topology())
        for dead in await watch.silent():
            await watch.sweep(dead)

    @rule()
    def redis_forgets_the_group(self) -> None:
        self.do(self.store.command("XGROUP", "DESTROY", "inbound", "g"))
        self.do(self.live[0].turns.open())

    @rule()
    def redis_forgets_the_scripts(self) -> None:
        self.do(self.store.command("SCRIPT", "FLUSH"))

    @invariant()
    def every_unsettled_entry_is_after_the_cursor_or_in_exactly_one_box(self) -> None:
        self.do(self._check())

    async def _check(self) -> None:
        boxes = [name.decode() for name in await self.store.command("KEYS", "group:g:box:*")]
        leases = await self.store.command("HGETALL", "group:g:leases")
        due = await self.store.command("ZRANGE", "group:g:due", 0, -1)
        for box in boxes:
            key = box.removeprefix("group:g:box:").encode()
            assert (key in leases[::2]) != (key in due), f"{key!r} has neither or both of lease and due time"
        boxed = [member for box in boxes for member in await self.store.command("ZRANGE", box, 0, -1)]
        assert len(boxed) == len(set(boxed))
        pending = await self.store.command("XPENDING", "inbound", "g")
        assert pending[0] == len(boxed)

    def teardown(self) -> None:
        try:
            self.do(self._finish())
            self.do(self._judge())
        finally:
            self.do(self.store.close())
            self.loop.close()

    async def _finish(self) -> None:
        """No more faults: everybody still alive works until nothing is left."""
        for consumer in self.dead:
            await self.store.command("DEL", consumer.turns._heartbeat)
        await self._sweep()
        for _ in range(200):
            for consumer in self.live:
                lost, _ = await consumer.turns.beat([grant.token for grant in consumer.held])
                consumer.held = [grant for grant in consumer.held if grant.token not in lost]
                consumer.held += await self._take(consumer, 5, 100)
                while consumer.held:
                    await self._end(consumer, consumer.held.pop(0))
            if not await self.store.command("KEYS", "group:g:box:*"):
                break
        await self._check()

    async def _judge(self) -> None:
        replies: dict[str, list[str]] = {}
        for _, flat in await self.store.command("XRANGE", "outbound", "-", "+"):
            body = json.loads(dict(zip(flat[::2], flat[1::2], strict=True))[b"body"])
            replies.setdefault(body["to"], []).extend(body["said"])
        assert replies == self.said, "each message is answered exactly once, in its person's order"
        for person, said in self.said.items():
            assert json.loads(await self.store.command("GET", f"own:g:{person}")) == said


@pytest.mark.parametrize("steps", [30])
def test_whatever_happens_each_message_is_answered_once_and_in_order(each_server: Server, steps: int) -> None:
    Protocol.server = each_server
    run_state_machine_as_test(
        Protocol,
        settings=settings(
            max_examples=60,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
