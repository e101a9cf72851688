"""`Prefer: wait=N`: the reply in the answer, or by the webhook, never both and never neither."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from protocol import end

from ingress.waiting import preferred
from streams import doors
from streams.connection import Store
from streams.doors import release
from streams.errors import Unavailable
from tests.ingress.front import ANA, Front, Puppet, a_topology, front

WAIT = {"Prefer": "wait=20"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ([], 0),
        (["wait=5"], 5),
        (["wait=5.5"], 0),
        (["wait=-1"], 0),
        (["wait"], 0),
        (["wait=abc"], 0),
        (["wait=0"], 0),
        (["respond-async, Wait = 7"], 7),
        (['return=minimal; foo="some", wait="8"'], 8),
        (["respond-async", "wait=9"], 9),
        (["wait=9; x=y", "wait=3"], 9),
        (["wait=100000"], 60),
        (["wait=99999999999999999999"], 0),
        (["await=5"], 0),
    ],
)
def test_a_preference_is_read_as_the_rfc_has_it(headers, seconds) -> None:
    assert preferred(headers, 60) == seconds


async def ask(door: Front, text: str = "Hola", message_id: str = "m1", **headers: str) -> tuple[int, dict, dict]:
    body = {"user_id": ANA, "message": text, "message_id": message_id}
    return await door.ask("POST", "/chat", json=body, headers=WAIT | headers)


async def both(store: Store) -> Puppet:
    return await Puppet(store).start()


async def test_the_reply_comes_with_the_answer_and_the_webhook_stays_silent(store: Store) -> None:
    puppet = await both(store)
    async with front(store) as door:
        asking = asyncio.create_task(ask(door))
        [entry] = await puppet.reply("¡Hola!", action="book", slots={"time": "15:00"}, conversation_id="conv_1")
        status, answer, headers = await asking
        assert (status, headers["preference-applied"]) == (200, "wait=20")
        assert answer == {
            "status": "replied", "entry_id": entry, "user_id": ANA, "message_id": "m1", "duplicate": False,
            "reply": "¡Hola!", "action": "book", "slots": {"time": "15:00"}, "conversation_id": "conv_1",
        }  # fmt: skip
        assert await release(store, entry) == -1
        # And a repeat reads it again
        again = await ask(door)
        assert (again[0], again[1]["reply"], again[1]["duplicate"]) == (200, "¡Hola!", True)
    assert await store.command("HLEN", "waiting:inbound") == 0


@pytest.mark.slow
async def test_what_is_not_there_in_time_is_left_to_the_webhook(store: Store) -> None:
    puppet = await both(store)
    async with front(store) as door:
        status, answer, headers = await ask(door, Prefer="wait=1")
        assert (status, answer["status"], headers["preference-applied"]) == (202, "accepted", "wait=1")
        assert await store.command("HLEN", "waiting:inbound") == 0
        [entry] = await puppet.reply()
        assert await release(store, entry) == 0
        # A repeat learns that, and leaves nothing behind
        status, answer, _ = await ask(door)
        assert (status, answer["status"]) == (200, "delivered")
        assert "reply" not in answer
        assert await store.command("HLEN", "waiting:inbound") == 0


async def test_a_repeat_joins_while_the_first_is_in_work_and_the_newest_gets_the_answer(store: Store) -> None:
    puppet = await both(store)
    async with front(store) as door:
        first = asyncio.create_task(ask(door, Prefer="wait=60"))
        entry = await registered(store)
        older = (await store.command("HGET", "waiting:inbound", entry)).decode()
        second = asyncio.create_task(ask(door))
        while (await store.command("HGET", "waiting:inbound", entry)).decode() == older:
            pass  # Redis is asked again
        # Then the older one is let go at once: two that know the text might both send it
        status, answer, _ = await first
        assert (status, answer["status"], answer["entry_id"]) == (202, "accepted", entry)
        await puppet.reply("una vez")
        status, answer, _ = await second
        assert (status, answer["reply"], answer["duplicate"]) == (200, "una vez", True)
        # And whoever repeats it once that has ended reads it
        assert (await ask(door))[1]["reply"] == "una vez"


async def test_a_repeat_that_waits_does_not_sit_out_the_window_of_a_message_that_did_not(each_store: Store) -> None:
    top = a_topology(debounce=60, debounce_max=60)
    puppet = await Puppet(each_store, top).start()
    async with front(each_store, top) as door:
        # Given a message whose window has begun
        first = await door.say("Hola", "m1")
        assert (await puppet.turns.take(1, 100, 1)).grants == []
        # When it is repeated by a request that waits
        asking = asyncio.create_task(ask(door))
        await registered(each_store)
        [entry] = await puppet.reply("ya")
        assert (entry, (await asking)[1]["reply"]) == (first["entry_id"], "ya")
        # Then an idle worker was woken for it
        assert await each_store.command("XLEN", "bell:g") == 1


async def test_a_repeat_hurries_nobody_whose_turn_failed_or_has_ended(each_store: Store) -> None:
    top = a_topology(debounce=60, debounce_max=60)
    puppet = await Puppet(each_store, top).start()
    async with front(each_store, top) as door:
        # Given one message that was answered by the webhook, and a later one in its window
        await give_up(each_store, door, ANA)
        await puppet.reply()
        await door.say("Otra", "m2")
        assert (await puppet.turns.take(1, 100, 1)).grants == []
        assert (await ask(door))[1]["status"] == "delivered"
        assert (await puppet.turns.take(1, 100, 1)).grants == []
        # And one of another person whose turn waits for its next attempt
        await give_up(each_store, door, "web-1")
        await end(puppet.turns, (await puppet.turns.take(1, 100, 1)).grants[0], delay_ms=60_000)
        await give_up(each_store, door, "web-1")
        assert (await puppet.turns.take(1, 100, 1)).grants == []
    assert await each_store.command("XLEN", "bell:g") == 0


async def give_up(store: Store, door: Front, user_id: str) -> None:
    """Ask with `Prefer`, and hang up once the message is there."""
    asking = asyncio.create_task(door.say("Hola", "m1", user_id=user_id, Prefer="wait=20"))
    await registered(store)
    asking.cancel()
    while await store.command("HLEN", "waiting:inbound"):
        pass  # Redis is asked again


async def registered(store: Store, count: int = 1) -> str:
    """Wait until so many requests wait; the last one's entry."""
    while await store.command("HLEN", "waiting:inbound") < count:
        pass  # Redis is asked again
    return max((await store.command("HKEYS", "waiting:inbound")), key=lambda id: id.rjust(40)).decode()


async def test_of_two_requests_answered_together_one_gets_the_text_and_the_other_learns_who(each_store: Store) -> None:
    top = a_topology()
    puppet = await both(each_store)
    async with front(each_store, top) as door:
        asking = [asyncio.create_task(ask(door, "uno", "m1"))]
        await registered(each_store)
        asking.append(asyncio.create_task(ask(door, "dos", "m2")))
        last = await registered(each_store, 2)
        await puppet.reply("a las dos")
        (_, merged, _), (_, replied, _) = [await each for each in asking]
    assert (merged["status"], merged["into"]) == ("merged", last)
    assert "reply" not in merged
    assert (replied["status"], replied["reply"], replied["entry_id"]) == ("replied", "a las dos", last)


async def test_a_client_that_hangs_up_leaves_the_reply_to_the_webhook(each_store: Store) -> None:
    puppet = await both(each_store)
    async with front(each_store) as door:
        await give_up(each_store, door, ANA)
        [entry] = await puppet.reply()
        assert await release(each_store, entry) == 0


@pytest.mark.parametrize(("status", "http"), [("paused", 200), ("failed", 200), ("rate_limited", 429)])
async def test_a_turn_that_ends_otherwise_says_how(store: Store, status, http) -> None:
    puppet = await both(store)
    async with front(store) as door:
        asking = asyncio.create_task(ask(door))
        text = None if status == "paused" else "un texto"
        await puppet.reply(text, status, detail="Demasiadas solicitudes", retry_after=60)
        code, answer, headers = await asking
    assert (code, answer["status"], answer["reply"]) == (http, status, text)
    if http == 429:
        assert (answer["error"], answer["detail"]) == ("rate_limited", "Demasiadas solicitudes")
        assert headers["retry-after"] == "60"
        assert headers["preference-applied"] == "wait=20"


async def test_an_ingress_that_stops_lets_go_of_who_waits(store: Store) -> None:
    await both(store)
    async with front(store) as door:
        asking = asyncio.create_task(ask(door, Prefer="wait=60"))
        await registered(store)
        door.server._on_signal()
        status, answer, _ = await asking
        assert (status, answer["status"]) == (202, "accepted")
    assert await store.command("HLEN", "waiting:inbound") == 0


@pytest.mark.slow
async def test_a_bell_that_redis_lost_delays_the_reply_but_loses_nothing(store: Store) -> None:
    puppet = await both(store)
    async with front(store) as door:
        asking = asyncio.create_task(ask(door, Prefer="wait=1"))
        await registered(store)
        # Given somebody else took the ring's place
        [entry] = await store.command("HKEYS", "waiting:inbound")
        deadline, _, ticket = (await store.command("HGET", "waiting:inbound", entry)).decode().split("|")
        await store.command("HSET", "waiting:inbound", entry, f"{deadline}|nobody|{ticket}")
        await puppet.reply("por fin")
        # Then the claim at the end of the wait finds it
        status, answer, _ = await asking
        assert (status, answer["reply"]) == (200, "por fin")


async def test_a_request_of_another_process_is_answered_by_that_process(store: Store) -> None:
    puppet = await both(store)
    async with front(store) as one, front(store) as other:
        asking = asyncio.create_task(ask(one))
        await puppet.reply("de uno")
        assert (await asking)[1]["reply"] == "de uno"
        assert (await ask(other))[1]["reply"] == "de uno"


class Trouble:
    """Between the ingress and Redis: the next claims find it away, or lose its answer, one after the other."""

    def __init__(self, store: Store, *told: str) -> None:
        self._run, self.told = store.run, list(told)
        store.run = self  # type: ignore[method-assign, assignment]

    async def __call__(self, script: Any, *given: Any, **how: Any) -> Any:
        trouble = self.told.pop(0) if script is doors._CLAIM and self.told else ""
        if trouble != "away":
            reply = await self._run(script, *given, **how)
        if trouble:
            raise Unavailable("Redis cannot be reached", maybe_written=trouble == "answer lost")
        return reply


@pytest.mark.slow
async def test_a_claim_whose_answer_was_lost_is_remembered_when_the_last_one_cannot_be_made(store: Store) -> None:
    puppet = await both(store)
    async with front(store) as door:
        trouble = Trouble(store, "answer lost", *["away"] * 100)
        asking = asyncio.create_task(ask(door, Prefer="wait=1"))
        [entry] = await puppet.reply("¿llegó?")
        status, answer, _ = await asking
        # Not "the webhook brings it": the first claim had taken it
        assert (status, answer["error"], answer["entry_id"]) == (503, "answer_lost", entry)
        assert await release(store, entry) == -1
        trouble.told.clear()
        assert (await ask(door))[1]["reply"] == "¿llegó?"


@pytest.mark.slow
async def test_a_claim_that_never_reached_redis_leaves_the_reply_to_the_webhook(store: Store) -> None:
    await both(store)
    async with front(store) as door:
        Trouble(store, *["away"] * 100)
        status, answer, _ = await ask(door, Prefer="wait=1")
        assert (status, answer["status"]) == (202, "accepted")


async def test_a_repeat_whose_first_claim_fails_asks_again_and_leaves_nothing_behind(store: Store) -> None:
    puppet = await both(store)
    async with front(store) as door:
        await door.say("Hola", "m1")
        await puppet.reply()
        Trouble(store, "away")
        assert (await ask(door))[1]["status"] == "delivered"
        assert await store.command("HLEN", "waiting:inbound") == 0


async def test_waiting_costs_the_others_nothing(store: Store) -> None:
    await both(store)
    async with front(store) as door:
        asking = [asyncio.create_task(ask(door, "x", f"m{n}")) for n in range(30)]
        await registered(store, 30)
        assert (await door.say("Hola", "other", user_id="web-1"))["http"] == 202
        # One connection of Redis's follows for all of them
        clients = (await store.command("CLIENT", "LIST")).decode().splitlines()
        assert sum(" cmd=xread " in client for client in clients) == 1
        for each in asking:
            each.cancel()


async def test_wait_zero_is_no_wait(store: Store) -> None:
    async with front(store) as door:
        status, answer, headers = await ask(door, Prefer="wait=0")
        assert (status, json.dumps(answer)[:21]) == (202, '{"status": "accepted"')
        assert "preference-applied" not in headers
