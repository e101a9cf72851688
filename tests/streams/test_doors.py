"""A reply goes out by exactly one of two doors, whoever is late."""

from __future__ import annotations

from typing import Any

import pytest
from protocol import a_topology, end, nothing, redis_ms, say

from ingress.waiting import _WITHDRAW
from streams.connection import Store
from streams.doors import Doors, release
from streams.effects import Answer, Effects, Handler, Output
from streams.topology import Topology
from streams.turns import Grant, Turns

REPLY = Effects(
    outputs=[Output(stream="outbound", type="reply", body={"message": "hola"}, answers=True)],
    answer=Answer(status="replied", body={"reply": "hola"}),
)


def both_groups() -> Topology:
    top = a_topology()
    top.groups["egress"] = type(top.groups["g"])(name="egress", reads="outbound", handler="nowhere:nothing", turn_max=1)
    return top


class Stage:
    """A consumer of each group, and the doors between them."""

    def __init__(self, store: Store) -> None:
        self.store, self.top = store, both_groups()
        self.doors = Doors(store, self.top, "inbound")

    async def set(self) -> None:
        self.inference = Turns(self.store, self.top, self.top.groups["g"], Handler(handle=nothing))
        self.egress = Turns(self.store, self.top, self.top.groups["egress"], Handler(handle=nothing))
        await self.inference.open()
        await self.egress.open()

    async def ask(self, ticket: str, wait_ms: int = 60_000) -> str:
        """What append.lua does for a request that waits."""
        entry = await say(self.store, "+1", now="1")
        deadline = await redis_ms(self.store) + wait_ms
        await self.store.command("HSET", "waiting:inbound", entry, f"{deadline}|front|{ticket}")
        return entry

    async def reply(self, effects: Effects = REPLY) -> None:
        await end(self.inference, (await self.inference.take(5, 100, 1)).grants[0], effects)

    async def outbound_door(self) -> str | None:
        """The mark on the reply that egress takes."""
        self.held = (await self.egress.take(5, 100, 1)).grants[0]
        return self.held.turn.messages[0].door

    async def rung(self) -> list[bytes]:
        """The tickets that the front's bell named."""
        return [flat[1] for _, flat in await self.store.command("XRANGE", "bell:front", "-", "+")]


@pytest.fixture
def stage(each_store: Store) -> Stage:
    return Stage(each_store)


async def claim(stage: Stage, entry: str, ticket: str, **how: Any) -> tuple[str, bytes]:
    found = await stage.doors.claim("+1", entry, ticket, **how)
    return found.state, found.answer


async def test_a_claimed_reply_is_held_back_from_the_webhook_for_good(each_store: Store, stage: Stage) -> None:
    await stage.set()
    entry = await stage.ask("t1")
    assert (await claim(stage, entry, "t1"))[0] == "pending"
    await stage.reply()
    assert await stage.rung() == [b"t1"]
    assert await stage.outbound_door() == entry
    assert 0 < await release(each_store, entry) <= 60_000
    assert await claim(stage, entry, "t1") == ("claimed", b'{"reply":"hola"}')
    assert await release(each_store, entry) == -1
    # And whoever asks again, with whatever ticket, gets the same text
    assert await claim(stage, entry, "t2") == ("claimed", b'{"reply":"hola"}')


async def test_a_reply_nobody_claims_in_time_goes_by_the_webhook_and_cannot_be_claimed(
    each_store: Store, stage: Stage
) -> None:
    await stage.set()
    entry = await stage.ask("t1")
    await stage.reply()
    await each_store.command("HSET", f"door:{entry}", "deadline", await redis_ms(each_store))
    assert await release(each_store, entry) == 0
    assert (await claim(stage, entry, "t1"))[0] == "webhook"


async def test_at_a_full_redis_a_reply_still_goes_through_one_of_its_doors(each_store: Store, stage: Stage) -> None:
    await stage.set()
    late, in_time = await stage.ask("t1"), ""
    await stage.reply()
    await each_store.command("HSET", f"door:{late}", "deadline", await redis_ms(each_store))
    in_time = await stage.ask("t2")
    await stage.reply()
    await each_store.command("CONFIG", "SET", "maxmemory", "1")
    try:
        assert await release(each_store, late) == 0
        assert (await claim(stage, late, "t1"))[0] == "webhook"
        assert await claim(stage, in_time, "t2") == ("claimed", b'{"reply":"hola"}')
        assert await release(each_store, in_time) == -1
    finally:
        await each_store.command("CONFIG", "SET", "maxmemory", "0")


async def test_a_request_that_stops_waiting_leaves_the_reply_to_the_webhook(each_store: Store, stage: Stage) -> None:
    await stage.set()
    entry = await stage.ask("t1")
    assert (await claim(stage, entry, "t1", stop=True))[0] == "pending"
    await stage.reply()
    assert await stage.outbound_door() is None
    assert (await claim(stage, entry, "t1"))[0] == "webhook"
    assert await release(each_store, entry) == 0


async def test_a_repeat_that_joins_is_not_withdrawn_by_the_older_request(each_store: Store, stage: Stage) -> None:
    await stage.set()
    entry = await stage.ask("old")
    await each_store.command("HSET", "waiting:inbound", entry, f"{await redis_ms(each_store) + 9_999}|front|new")
    await claim(stage, entry, "old", stop=True)
    await stage.reply()
    assert await stage.rung() == [b"new"]


async def test_of_several_requests_in_one_turn_the_last_gets_the_text_and_the_others_learn_who(
    each_store: Store, stage: Stage
) -> None:
    await stage.set()
    first, second = await stage.ask("t1"), await stage.ask("t2")
    await stage.reply()
    # Merged is said only once the text has been claimed
    assert (await claim(stage, first, "t1"))[0] == "pending"
    assert (await claim(stage, second, "t2"))[0] == "claimed"
    found = await stage.doors.claim("+1", first, "t1")
    assert (found.state, found.into) == ("merged", second)
    assert await stage.rung() == [b"t1", b"t2", b"t1"]


async def test_of_several_requests_none_has_the_text_where_the_last_hangs_up(each_store: Store, stage: Stage) -> None:
    # Given two requests answered by one turn, of which the last, for whom the text is kept, hangs up before it claims
    await stage.set()
    first, second = await stage.ask("t1"), await stage.ask("t2")
    await stage.reply()
    withdrawn = await each_store.run(_WITHDRAW, ["waiting:inbound"], [second, "t2"])
    assert withdrawn == 0
    # Then nobody is told that somebody else got it, and the webhook has it once the time of the last is up
    assert (await claim(stage, first, "t1"))[0] == "pending"
    assert 0 < await release(each_store, second) <= 60_000
    await each_store.command("HSET", f"door:{second}", "deadline", await redis_ms(each_store))
    assert await release(each_store, second) == 0
    assert (await claim(stage, first, "t1", stop=True))[0] == "webhook"


async def test_of_several_requests_one_whose_time_is_up_does_not_get_the_text(each_store: Store, stage: Stage) -> None:
    await stage.set()
    first, second = await stage.ask("t1"), await stage.ask("t2", wait_ms=0)
    await stage.reply()
    assert (await claim(stage, first, "t1"))[0] == "claimed"
    found = await stage.doors.claim("+1", second, "t2")
    assert (found.state, found.into) == ("merged", first)


async def test_a_repeat_of_what_nobody_waited_for_learns_who_got_the_text(each_store: Store, stage: Stage) -> None:
    # Given a plain message, answered together with one that a request waits for
    await stage.set()
    plain = await say(each_store, "+1")
    entry = await stage.ask("t1")
    await stage.reply()
    assert (await claim(stage, entry, "t1"))[0] == "claimed"
    # Then its repeat is not told that the webhook has the reply
    found = await stage.doors.claim("+1", plain, "t2")
    assert (found.state, found.into) == ("merged", entry)


async def test_a_turn_without_a_text_answers_its_request_at_once(each_store: Store, stage: Stage) -> None:
    await stage.set()
    entry = await stage.ask("t1")
    await stage.reply(Effects(answer=Answer(status="paused")))
    found = await stage.doors.claim("+1", entry, "t1")
    assert (found.state, found.status) == ("claimed", "paused")


async def test_a_claim_wakes_the_egress_that_holds_the_reply(each_store: Store, stage: Stage) -> None:
    await stage.set()
    entry = await stage.ask("t1")
    await stage.reply()
    await stage.outbound_door()
    # Given egress parked the reply until the deadline
    await end(stage.egress, stage.held, delay_ms=60_000, uncount=True, at_door=True)
    assert (await stage.egress.take(5, 100, 1)).grants == []
    await claim(stage, entry, "t1")
    assert len((await stage.egress.take(5, 100, 1)).grants) == 1
    assert await each_store.command("XLEN", "bell:egress") == 1


async def test_a_claim_while_egress_is_about_to_park_is_not_missed(each_store: Store, stage: Stage) -> None:
    await stage.set()
    entry = await stage.ask("t1")
    await stage.reply()
    await stage.outbound_door()
    assert await release(each_store, entry) > 0
    await claim(stage, entry, "t1")
    assert await end(stage.egress, stage.held, delay_ms=60_000, uncount=True, at_door=True) == (True, 0)


async def test_a_claim_hurries_no_reply_that_waits_for_its_receiver(each_store: Store, stage: Stage) -> None:
    # Given a reply that failed and waits for its retry, and a later one that a request takes
    await stage.set()
    await end(stage.inference, await _granted(stage), REPLY)
    failed = (await stage.egress.take(5, 100, 1)).grants[0]
    await end(stage.egress, failed, delay_ms=60_000)
    entry = await stage.ask("t1")
    await stage.reply()
    # Then neither before nor while it is in work does the claim cut its wait short
    await claim(stage, entry, "t1")
    assert (await stage.egress.take(5, 100, 1)).grants == []


async def _granted(stage: Stage) -> Grant:
    await say(stage.store, "+1")
    return (await stage.inference.take(5, 100, 1)).grants[0]


async def test_only_the_group_that_answers_ends_a_registration(each_store: Store) -> None:
    # Given a group that only watches the same stream, and a request that waits
    top = both_groups()
    top.groups["archive"] = type(top.groups["g"])(name="archive", reads="inbound", handler="nowhere:nothing")
    stage = Stage(each_store)
    stage.top = top
    await stage.set()
    archive = Turns(each_store, top, top.groups["archive"], Handler(handle=nothing))
    await archive.open()
    entry = await stage.ask("t1")
    # When that group is done first
    await end(archive, (await archive.take(5, 100, 1)).grants[0])
    await stage.reply()
    # Then the reply still finds who waits
    assert await stage.outbound_door() == entry
    # And an entry of another stream that happens to have the same id as somebody's ends no registration either
    twin = stage.held.turn.id
    await each_store.command("HSET", "waiting:inbound", twin, f"{await redis_ms(each_store) + 60_000}|front|t2")
    await end(stage.egress, stage.held)
    assert await each_store.command("HEXISTS", "waiting:inbound", twin) == 1
