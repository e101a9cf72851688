"""Dead letters put back and dropped: each test buries something on a real Redis as a group would."""

from __future__ import annotations

import asyncio

import pytest
from protocol import a_consumer, a_topology, bodies, end, nothing, say
from redis.exceptions import ResponseError

from streams import deadletters
from streams.connection import Store
from streams.deadletters import Letter, Redriven, Wanted
from streams.effects import Handler, Metering
from streams.errors import Unavailable
from streams.turns import Turns

MANY = 1000


async def bury(store: Store, turns: Turns, key: str = "+1", body: str = "{}", why: str = "no", **fields: str) -> Letter:
    """Somebody writes, and it is buried."""
    await say(store, key, body, **fields)
    [grant] = (await turns.take(5, 100, 1)).grants
    assert await end(turns, grant, bury=why) == (True, -1)
    return (await dead(store))[-1]


async def dead(store: Store, **wanted: str) -> list[Letter]:
    return [letter async for letter in deadletters.letters(store, "inbound", Wanted(**wanted))]


async def redrive(store: Store, *letters: Letter, max_len: int = MANY) -> list[Redriven]:
    return await deadletters.redrive(store, "inbound", [[letter.id] for letter in letters], max_len=max_len)


async def another(store: Store, name: str) -> Turns:
    """A consumer of a second group that reads the same stream."""
    top = a_topology()
    group = type(top.groups["g"])(name=name, reads="inbound", handler="nowhere:nothing")
    top.groups[name] = group
    turns = Turns(store, top, group, Handler(handle=nothing))
    await turns.open()
    return turns


async def test_a_letter_comes_back_with_its_bytes_to_the_group_that_buried_it_and_to_no_other(
    each_store: Store,
) -> None:
    turns, other = await a_consumer(each_store), await another(each_store, "other")
    letter = await bury(each_store, turns, body='{"text":"año"}', trace="00-abc")
    # The other group has seen it once, as everybody has
    [grant] = (await other.take(5, 100, 1)).grants
    await end(other, grant)
    # When it is put back
    [became] = await redrive(each_store, letter)
    assert became.outcome == "done"
    # Then it is a first attempt of its group, as it was, and knows where it comes from
    [again] = (await turns.take(5, 100, 1)).grants
    [message] = again.turn.messages
    assert (message.body.decode(), message.trace, message.id) == ('{"text":"año"}', "00-abc", became.detail)
    assert (again.turn.attempt, message.origin, message.at_ms) == (1, letter.entry, int(letter.entry.split("-")[0]))
    # And the others settle it unseen; nothing is dead any more
    assert (await other.take(5, 100, 1)).grants == []
    assert (await each_store.command("XPENDING", "inbound", "other"))[0] == 0
    assert await dead(each_store) == []


@pytest.mark.parametrize("hurried", [False, True], ids=["", "of which one was waited for"])
async def test_letters_of_one_turn_are_one_turn_again(each_store: Store, hurried: bool) -> None:
    # Given three messages that were to be answered together, among those of others, and were buried
    turns = await a_consumer(each_store)
    for number in range(3):
        await say(each_store, "+1", f"{number}", **({"now": "1"} if hurried and number == 1 else {}))
    [grant] = (await turns.take(5, 100, 1)).grants
    await end(turns, grant, bury="no")
    for person in ("+2", "+3"):
        await bury(each_store, turns, person)
    letters = await dead(each_store)
    of_one = [letter.id for letter in letters if letter.person == "+1"]
    # Then any of them tells of all, and of no others
    for letter in letters[:3]:
        assert [each.id for each in await deadletters.beside(each_store, letter)] == of_one
    assert await deadletters.beside(each_store, letters[4]) == [letters[4]]
    # A stream with room for two of them takes none
    assert await deadletters.redrive(each_store, "inbound", [of_one], max_len=7) == [Redriven("full")] * 3
    assert await dead(each_store) == letters
    # And put back they are one turn, in their order, though nothing makes them wait for each other
    await deadletters.redrive(each_store, "inbound", [of_one], max_len=MANY)
    [again] = (await turns.take(5, 100, 1)).grants
    assert bodies(again) == ["0", "1", "2"]


async def test_two_who_put_back_the_same_letters_put_each_back_once(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    letters = [await bury(each_store, turns, f"+{number}", f"{number}") for number in range(20)]
    both = await asyncio.gather(*(redrive(each_store, *letters) for _ in range(2)))
    assert sorted(each.outcome for became in both for each in became) == ["done"] * 20 + ["gone"] * 20
    grants = (await turns.take(50, 100, 1)).grants
    assert sorted(bodies(grant) for grant in grants) == sorted([f"{number}"] for number in range(20))


async def test_a_call_whose_answer_was_lost_is_told_what_it_did(each_store: Store, monkeypatch) -> None:
    turns = await a_consumer(each_store)
    letter = await bury(each_store, turns)
    monkeypatch.setattr(deadletters.secrets, "token_hex", lambda _: "this-call")
    first = await redrive(each_store, letter)
    assert await redrive(each_store, letter) == first
    assert first[0].outcome == "done"
    assert len((await turns.take(5, 100, 1)).grants) == 1


async def test_what_dies_again_keeps_the_id_it_first_had(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    first = await bury(each_store, turns, body="poison")
    for _ in range(2):
        await redrive(each_store, *(await dead(each_store)))
        [grant] = (await turns.take(5, 100, 1)).grants
        await end(turns, grant, bury="again")
    [letter] = await dead(each_store)
    assert (letter.origin, letter.reason, letter.field(b"body")) == (first.entry, "again", b"poison")
    assert letter.entry != first.entry
    assert [name for name, _ in letter.fields].count(b"origin") == 1


async def test_a_redis_that_is_full_puts_back_nothing_and_keeps_the_letters(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    letters = [await bury(each_store, turns, f"+{number}") for number in range(3)]
    length = await each_store.command("XLEN", "inbound")
    await each_store.command("CONFIG", "SET", "maxmemory", "1")
    try:
        with pytest.raises(Unavailable, match="full"):
            await redrive(each_store, *letters)
    finally:
        await each_store.command("CONFIG", "SET", "maxmemory", "0")
    assert await dead(each_store) == letters
    assert await each_store.command("XLEN", "inbound") == length
    assert [each.outcome for each in await redrive(each_store, *letters)] == ["done"] * 3


async def test_a_stream_at_its_cap_takes_back_as_many_as_fit(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    letters = [await bury(each_store, turns, f"+{number}") for number in range(3)]
    became = await redrive(each_store, *letters, max_len=4)
    assert [each.outcome for each in became] == ["done", "full", "full"]
    assert await dead(each_store) == letters[1:]


@pytest.mark.parametrize("registered", [None, '{"reads":"outbound"}', "no JSON"])
async def test_what_is_for_a_group_that_does_not_read_the_stream_stays_dead(each_store: Store, registered) -> None:
    turns = await a_consumer(each_store)
    letter = await bury(each_store, turns)
    await each_store.command("HDEL", "groups", "g")
    if registered:
        await each_store.command("HSET", "groups", "g", registered)
    assert await redrive(each_store, letter) == [Redriven("nobody", "g")]
    assert await dead(each_store) == [letter]


async def test_what_no_burial_wrote_is_shown_and_left_where_it_is(each_store: Store) -> None:
    await a_consumer(each_store)
    await each_store.command("XADD", "inbound.dead", "*", "key", "+1", "origin", "1-1", "group", "g")
    [letter] = await dead(each_store)
    assert (letter.person, letter.group) == ("+1", "")
    assert await redrive(each_store, letter) == [Redriven("foreign")]
    assert await dead(each_store) == [letter]


async def test_a_stream_that_is_none_is_an_error_before_anything_is_done(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    letter = await bury(each_store, turns)
    await each_store.command("DEL", "inbound")
    await each_store.command("SET", "inbound", "mine")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await redrive(each_store, letter)
    assert await dead(each_store) == [letter]


async def test_a_letter_whose_group_redis_lost_waits_for_it(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    letter = await bury(each_store, turns, body="still here")
    await each_store.command("XGROUP", "DESTROY", "inbound", "g")
    assert [each.outcome for each in await redrive(each_store, letter)] == ["done"]
    await turns.open()
    [grant] = (await turns.take(5, 100, 1)).grants
    assert bodies(grant) == ["still here"]


async def test_what_is_put_back_counts_towards_nobodys_limit_again(each_store: Store) -> None:
    top = a_topology()
    handler = Handler(handle=nothing, metering=Metering(kind="rate_limit", window_seconds=60))
    turns = Turns(each_store, top, top.groups["g"], handler)
    await turns.open()
    letter = await bury(each_store, turns)
    assert await each_store.command("GET", "rate_limit:+1") == b"1"
    await redrive(each_store, letter)
    [grant] = (await turns.take(5, 100, 1)).grants
    assert grant.turn.messages[0].count is None
    assert await each_store.command("GET", "rate_limit:+1") == b"1"


async def test_letters_are_found_by_group_reason_person_and_time(store: Store) -> None:
    turns = await a_consumer(store)
    letters = [
        await bury(store, turns, person, why=why)
        for person, why in (("+1", "ValueError: No"), ("+2", "deadline passed"), ("+1", "deadline passed"))
    ]
    assert await dead(store, group="g") == letters
    assert await dead(store, group="other") == []
    assert await dead(store, reason="valueerror: n") == letters[:1]
    assert await dead(store, person="+1") == [letters[0], letters[2]]
    assert await dead(store, person="+1", reason="deadline") == letters[2:]
    assert await dead(store, first=letters[1].id) == letters[1:]
    assert await dead(store, last=letters[1].id) == letters[:2]
    assert await deadletters.find(store, ["outbound", "inbound"], letters[1].id) == [letters[1]]


async def test_more_letters_than_a_page_are_each_listed_once_from_either_end(store: Store) -> None:
    await store.pipeline([("XADD", "inbound.dead", f"7-{number}", "a", "b") for number in range(2 * deadletters.PAGE)])
    ids = [letter.id for letter in await dead(store)]
    assert ids == [f"7-{number}" for number in range(2 * deadletters.PAGE)]
    backwards = deadletters.letters(store, "inbound", Wanted(), newest_first=True)
    assert [letter.id async for letter in backwards] == ids[::-1]
    assert len(await dead(store, first="7-150", last="7-349")) == deadletters.PAGE


async def test_dropped_letters_are_gone_and_a_repeat_says_so(store: Store) -> None:
    turns = await a_consumer(store)
    letters = [await bury(store, turns, f"+{number}") for number in range(3)]
    ids = [letter.id for letter in letters[:2]]
    assert await deadletters.drop(store, "inbound", ids) == [True, True]
    assert await deadletters.drop(store, "inbound", ids) == [False, False]
    assert await dead(store) == letters[2:]
