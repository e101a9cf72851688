"""The protocol of keyed turns, on each server version, one promise a test."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest
from protocol import a_consumer, a_topology, bodies, end, kill, named, nothing, redis_ms, say

from streams.connection import Store, order
from streams.effects import Effects, Handler, Message, Metering, Output, Turn, Write
from streams.endings import NotAllowed, ending
from streams.keys import Keys
from streams.retention import trim
from streams.turns import Changed, Gone, Impossible, Turns
from streams.watch import Watch


async def test_all_that_waits_of_a_person_is_one_turn(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    for number in range(12):
        await say(each_store, "+1", f"{number}")
    await say(each_store, "+2", "other")
    taken = await turns.take(room=5, count=100, suspects=1)
    assert [bodies(grant) for grant in taken.grants] == [[str(n) for n in range(12)], ["other"]]


async def test_a_call_repeated_brings_the_same_grants_and_reads_nothing(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1", "first")
    taken = await turns.take(5, 100, 1)
    # Given a message that came after the call, and the answer of the call lost on the way
    await say(each_store, "+1", "second")
    turns._calls -= 1
    again = await turns.take(5, 100, 1)
    assert [(grant.token, bodies(grant), grant.starts) for grant in again.grants] == [
        (grant.token, bodies(grant), grant.starts) for grant in taken.grants
    ]
    assert again.read == 0


async def test_one_turn_at_a_time_for_a_person_whatever_the_number_of_consumers(each_store: Store) -> None:
    one, two = await a_consumer(each_store), await a_consumer(each_store)
    await say(each_store, "+1", "first")
    mine = (await one.take(5, 100, 1)).grants[0]
    await say(each_store, "+1", "second")
    # When another consumer reads the second message, it may not start it
    assert (await two.take(5, 100, 1)).grants == []
    # Then the first to end its turn makes way, and anybody may go on
    assert await end(one, mine) == (True, 0)
    assert bodies((await two.take(5, 100, 1)).grants[0]) == ["second"]


async def test_a_turn_is_committed_once_however_often_it_is_settled(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1")
    grant = (await turns.take(5, 100, 1)).grants[0]
    effects = Effects(
        outputs=[Output(stream="outbound", type="reply", body={"message": "sí"})],
        writes=[Write(kind="conversation", value='{"ñ":1}'.encode(), ttl_seconds=60)],
    )
    assert await end(turns, grant, effects) == (True, -1)
    assert await end(turns, grant, effects) == (False, -1)
    assert await each_store.command("XLEN", "outbound") == 1
    assert await each_store.command("GET", "conversation:+1") == '{"ñ":1}'.encode()
    assert 0 < await each_store.command("PTTL", "conversation:+1") <= 60_000
    assert (await each_store.command("XPENDING", "inbound", "g"))[0] == 0
    assert await each_store.command("KEYS", "group:g:box:*") == []


async def test_one_refused_turn_does_not_keep_the_others_from_committing(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    for person in ("+1", "+2", "+3"):
        await say(each_store, person)
    grants = (await turns.take(5, 100, 1)).grants
    await end(turns, grants[1])
    packed = [
        ending(each_store.keys, turns.group, grant.turn, grant.token, [message.id for message in grant.turn.messages])
        for grant in grants
    ]
    assert [done for done, _ in await turns.settle(packed)] == [True, False, True]


async def test_a_window_slides_with_each_message_but_not_for_ever(each_store: Store) -> None:
    turns = await a_consumer(each_store, debounce=2, debounce_max=10)
    now = await redis_ms(each_store)
    # Given one who has been typing for nearly ten seconds, and one who wrote again a second ago, all read late
    for past in (9_500, 8_000, 6_500, 5_000, 3_500, 2_100, 1_000):
        await say(each_store, "+1", id=f"{now - past}-0")
    await say(each_store, "+2", id=f"{now - 900}-0")
    taken = await turns.take(5, 100, 1)
    assert taken.grants == []
    # Then the first waits only until its tenth second, not until two seconds after its last message
    scores = await each_store.command("ZRANGE", "group:g:due", 0, -1, "WITHSCORES")
    assert [(scores[0], int(scores[1])), (scores[2], int(scores[3]))] == [(b"+1", now + 500), (b"+2", now + 1_100)]


async def test_where_ids_lie_ahead_of_the_clock_a_window_slides_no_more(each_store: Store) -> None:
    async def starts() -> list[bytes | None]:
        """When the next turns may, of one who is idle and of one who is in work."""
        return [
            await each_store.command("ZSCORE", "group:g:due", "+1"),
            await each_store.command("HGET", "group:g:hints", "n:+2"),
        ]

    # Given a clock that was a day ahead for a while, and two who have written since; one has a turn in work
    turns = await a_consumer(each_store, debounce=2, debounce_max=10)
    await say(each_store, "+2", now="1")
    assert len((await turns.take(5, 100, 1)).grants) == 1
    await say(each_store, "+1", id=f"{await redis_ms(each_store) + 86_400_000}-0")
    await say(each_store, "+2")
    assert (await turns.take(5, 100, 1)).grants == []
    before, now = await starts(), await redis_ms(each_store)
    assert None not in before
    while await redis_ms(each_store) == now:
        pass
    # When they write again, then what they wait for is put off no further
    await say(each_store, "+1")
    await say(each_store, "+2")
    await turns.take(5, 100, 1)
    assert await starts() == before


async def test_a_message_whose_window_has_passed_starts_at_once(each_store: Store) -> None:
    turns = await a_consumer(each_store, debounce=2, debounce_max=10)
    now = await redis_ms(each_store)
    await say(each_store, "+1", id=f"{now - 2_001}-0")
    assert len((await turns.take(5, 100, 1)).grants) == 1


async def test_a_request_that_waits_starts_its_turn_without_the_window(each_store: Store) -> None:
    turns = await a_consumer(each_store, debounce=2, debounce_max=10)
    await say(each_store, "+1", "typed")
    await say(each_store, "+1", "asked", now="1")
    assert bodies((await turns.take(5, 100, 1)).grants[0]) == ["typed", "asked"]


async def test_messages_that_come_during_a_reply_have_their_own_window(each_store: Store) -> None:
    turns = await a_consumer(each_store, debounce=2, debounce_max=10)
    await say(each_store, "+1", "asked", now="1")
    grant = (await turns.take(5, 100, 1)).grants[0]
    await say(each_store, "+1", "and")
    await turns.take(5, 100, 1)
    done, due_ms = await end(turns, grant)
    assert done
    assert 1_000 < due_ms <= 2_000


async def test_a_turn_holds_at_most_turn_max_and_the_rest_forms_the_next(each_store: Store) -> None:
    turns = await a_consumer(each_store, turn_max=3)
    for number in range(5):
        await say(each_store, "+1", f"{number}")
    first = (await turns.take(5, 100, 1)).grants[0]
    assert bodies(first) == ["0", "1", "2"]
    assert await end(turns, first) == (True, 0)
    assert bodies((await turns.take(5, 100, 1)).grants[0]) == ["3", "4"]


async def test_a_parked_turn_waits_its_time_and_later_messages_do_not_overtake_it(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1", "first")
    grant = (await turns.take(5, 100, 1)).grants[0]
    assert await end(turns, grant, delay_ms=60_000, progress="2") == (True, 60_000)
    await say(each_store, "+1", "second", now="1")
    taken = await turns.take(5, 100, 1)
    assert taken.grants == []
    assert 50_000 < taken.next_due_ms <= 60_000
    # When its time has come
    await each_store.command("ZADD", "group:g:due", 0, "+1")
    grant = (await turns.take(5, 100, 1)).grants[0]
    assert (bodies(grant), grant.starts, grant.turn.progress) == (["first", "second"], [2, 1], "2")


async def test_an_attempt_that_says_nothing_about_the_turn_does_not_count(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1")
    for _ in range(3):
        grant = (await turns.take(5, 100, 1)).grants[0]
        assert grant.starts == [1]
        await end(turns, grant, delay_ms=0, uncount=True)


async def test_each_message_is_metered_once_whatever_is_retried(each_store: Store) -> None:
    handler = Handler(handle=nothing, metering=Metering(kind="rate_limit", window_seconds=60, skip_types=("staff",)))
    turns = await a_consumer(each_store, handler)
    await say(each_store, "+1", "a")
    grant = (await turns.take(5, 100, 1)).grants[0]
    await end(turns, grant, delay_ms=0)
    await say(each_store, "+1", "b")
    turns._calls += 1
    grant = (await turns.take(5, 100, 1)).grants[0]
    assert [message.count for message in grant.turn.messages] == [1, 2]
    assert await each_store.command("GET", "rate_limit:+1") == b"2"
    assert 0 < await each_store.command("PTTL", "rate_limit:+1") <= 60_000


async def test_nothing_is_metered_while_a_key_says_so(each_store: Store) -> None:
    metering = Metering(kind="rate_limit", window_seconds=60, unless="paused")
    turns = await a_consumer(each_store, Handler(handle=nothing, recall=("own", "paused"), metering=metering))
    await each_store.command("SET", "paused:+1", "x")
    await say(each_store, "+1")
    assert (await turns.take(5, 100, 1)).grants[0].turn.messages[0].count is None


def test_a_meter_stops_at_what_the_handler_recalls() -> None:
    with pytest.raises(TypeError, match="'paused', which `recall` does not name"):
        Handler(handle=nothing, recall=("own",), metering=Metering(kind="m", window_seconds=60, unless="paused"))


async def test_a_lease_whose_grant_was_lost_on_the_way_is_freed_by_the_beat(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1")
    held = (await turns.take(5, 100, 1)).grants[0]
    await say(each_store, "+2")
    lost = (await turns.take(5, 100, 1)).grants[0]
    # When the consumer names only the one it knows of, and one that never was
    missing, _, next_due_ms, _ = await turns.beat([held.token, "nobody.1.1.1"])
    assert missing == {"nobody.1.1.1"}
    assert next_due_ms == 0
    again = (await turns.take(5, 100, 1)).grants
    assert [(grant.turn.key, grant.starts) for grant in again] == [(lost.turn.key, [1])]


async def test_a_live_consumer_is_never_swept(each_store: Store) -> None:
    one, two = await a_consumer(each_store), await a_consumer(each_store)
    await say(each_store, "+1")
    await one.take(5, 100, 1)
    watch = Watch(each_store, a_topology())
    assert await watch.silent() == set()
    assert await watch.sweep(named(one)) is None
    assert (await two.take(5, 100, 1)).grants == []


async def test_a_dead_consumers_turn_goes_to_another_and_the_late_commit_is_refused(each_store: Store) -> None:
    one, two = await a_consumer(each_store), await a_consumer(each_store)
    await say(each_store, "+1", "hola")
    late = (await one.take(5, 100, 1)).grants[0]
    await each_store.command("DEL", one._heartbeat)
    watch = Watch(each_store, a_topology())
    assert await watch.silent() == {named(one)}
    assert await watch.sweep(named(one)) == 1
    grant = (await two.take(5, 100, 1)).grants[0]
    assert (bodies(grant), grant.starts) == (["hola"], [2])
    assert await end(one, late) == (False, -1)
    assert await end(two, grant) == (True, -1)
    consumers = await each_store.command("XINFO", "CONSUMERS", "inbound", "g")
    names = {dict(zip(row[::2], row[1::2], strict=True))[b"name"].decode() for row in consumers}
    # The dead one is gone, and what was pending has an owner who never reads.
    # From 7.2 on the other is there as well, though it has read nothing.
    assert names - {two.consumer} == {"left"}
    assert await watch.silent() == set()


async def test_who_was_in_work_at_two_crashes_is_handled_alone(each_store: Store) -> None:
    for _ in range(2):
        dead = await a_consumer(each_store)
        if _ == 0:
            for person in ("+1", "+1", "+2"):
                await say(each_store, person)
        await dead.take(5, 100, 1)
        await kill(each_store, dead)
    turns = await a_consumer(each_store)
    taken = await turns.take(5, 100, suspects=1)
    # Then one suspect starts, with its oldest message alone, and the other waits for it to end
    assert [(grant.turn.key, len(grant.turn.messages), grant.suspect) for grant in taken.grants] == [("+1", 1, True)]
    assert [grant.turn.key for grant in (await turns.take(5, 100, suspects=0)).grants] == []


async def test_a_thousand_suspects_hold_up_nobody_behind_them(each_store: Store) -> None:
    # Given more than a thousand people whose turns were in work at two crashes
    for number in range(1_001):
        await say(each_store, f"+{number}")
    for _ in range(2):
        turns = await a_consumer(each_store)
        assert len((await turns.take(2_000, 2_000, 1)).grants) == 1_001
        await kill(each_store, turns)
    # When somebody else writes while one of them is in work
    await say(each_store, "web-1")
    turns = await a_consumer(each_store)
    assert len((await turns.take(1, 100, 1)).grants) == 1
    # Then that turn starts
    assert [grant.turn.key for grant in (await turns.take(1, 100, 0)).grants] == ["web-1"]


async def test_one_who_leaves_hands_back_what_it_had_and_no_attempt_counts(each_store: Store) -> None:
    one, two = await a_consumer(each_store), await a_consumer(each_store)
    await say(each_store, "+1")
    await one.take(5, 100, 1)
    await one.leave()
    assert (await two.take(5, 100, 1)).grants[0].starts == [1]


async def test_a_group_that_redis_lost_goes_on_where_it_stopped(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1", "settled")
    await end(turns, (await turns.take(5, 100, 1)).grants[0])
    await say(each_store, "+2", "in work")
    grant = (await turns.take(5, 100, 1)).grants[0]
    await say(each_store, "+3", "unread")
    await each_store.command("XGROUP", "DESTROY", "inbound", "g")
    with pytest.raises(Gone):
        await turns.take(5, 100, 1)
    assert await turns.open() == (True, 1)
    assert [bodies(each) for each in (await turns.take(5, 100, 1)).grants] == [["unread"]]
    assert await end(turns, grant) == (True, -1)


async def test_a_stream_that_was_deleted_numbers_on_from_what_the_group_has_seen(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    ahead = await redis_ms(each_store) + 3_600_000
    await say(each_store, "+1", id=f"{ahead}-0")
    await end(turns, (await turns.take(5, 100, 1)).grants[0])
    await each_store.command("DEL", "inbound")
    with pytest.raises(Gone):
        await turns.take(5, 100, 1)
    await turns.open()
    await say(each_store, "+1", "after")
    assert bodies((await turns.take(5, 100, 1)).grants[0]) == ["after"]


async def test_a_stream_that_is_only_empty_numbers_on_from_what_it_had(each_store: Store) -> None:
    # Given what the group had not read yet, which is gone, and a clock that was ahead then
    turns = await a_consumer(each_store)
    gone = await say(each_store, "+1", id=f"{await redis_ms(each_store) + 3_600_000}-0")
    await each_store.command("XDEL", "inbound", gone)
    # When Redis loses the group, and it is made again
    await each_store.command("XGROUP", "DESTROY", "inbound", "g")
    await turns.open()
    # Then what comes is behind that, and no tombstone takes it for what was erased
    assert order(await say(each_store, "+1", "after")) > order(gone)
    assert bodies((await turns.take(5, 100, 1)).grants[0]) == ["after"]


async def test_after_flushall_the_group_begins_anew(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1")
    late = (await turns.take(5, 100, 1)).grants[0]
    await each_store.command("FLUSHALL")
    await say(each_store, "+1", "after")
    with pytest.raises(Gone):
        await turns.take(5, 100, 1)
    await turns.open()
    assert bodies((await turns.take(5, 100, 1)).grants[0]) == ["after"]
    assert await end(turns, late) == (False, -1)


async def test_an_entry_that_was_deleted_is_acknowledged_and_forgotten(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    gone = await say(each_store, "+1", "gone")
    await say(each_store, "+1", "there")
    grant = (await turns.take(5, 100, 1)).grants[0]
    await end(turns, grant, delay_ms=0)
    await each_store.command("XDEL", "inbound", gone)
    grant = (await turns.take(5, 100, 1)).grants[0]
    assert bodies(grant) == ["there"]
    assert await end(turns, grant) == (True, -1)
    assert (await each_store.command("XPENDING", "inbound", "g"))[0] == 0


async def test_what_is_buried_keeps_its_bytes_and_says_why(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    id = await say(each_store, "+1", '{"text":"año"}')
    grant = (await turns.take(5, 100, 1)).grants[0]
    assert await end(turns, grant, bury="the model cannot") == (True, -1)
    [[_, flat]] = await each_store.command("XRANGE", "inbound.dead", "-", "+")
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    assert fields[b"body"] == '{"text":"año"}'.encode()
    assert (fields[b"origin"], fields[b"group"], fields[b"attempts"]) == (id.encode(), b"g", b"1")
    assert fields[b"reason"] == b"the model cannot"


async def test_what_happened_meanwhile_is_looked_at_in_the_commit(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    effects = Effects(
        outputs=[Output(stream="outbound", type="reply", body={})],
        unless="paused",
        instead=lambda: Effects(writes=[Write(kind="conversation", value=b"recorded", ttl_seconds=60)]),
    )
    await say(each_store, "+1")
    grant = (await turns.take(5, 100, 1)).grants[0]
    await each_store.command("SET", "paused:+1", "by staff")
    # Then nothing of it is done, and the turn is still ours to end
    ids = [message.id for message in grant.turn.messages]
    unaware = ending(each_store.keys, turns.group, grant.turn, grant.token, ids, effects=effects)
    assert [type(result) for result in await turns.settle([unaware, unaware])] == [Changed, Changed]
    assert await end(turns, grant, effects) == (True, -1)
    assert await each_store.command("XLEN", "outbound") == 0
    assert await each_store.command("GET", "conversation:+1") == b"recorded"
    assert await turns.settle([unaware]) == [(False, -1)]


async def test_a_marked_entry_is_settled_unseen_by_groups_it_is_not_for(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1", **{"for": "another"})
    await say(each_store, "+1", replayed="1")
    await say(each_store, "+1", "mine", **{"for": "g"})
    [grant] = (await turns.take(5, 100, 1)).grants
    assert bodies(grant) == ["mine"]
    assert (await each_store.command("XPENDING", "inbound", "g"))[0] == 1


async def test_without_order_each_entry_is_a_turn_of_its_own(each_store: Store) -> None:
    turns = await a_consumer(each_store, order="none")
    for number in range(3):
        await say(each_store, "+1", f"{number}")
    taken = await turns.take(5, 100, 1)
    assert [bodies(grant) for grant in taken.grants] == [["0"], ["1"], ["2"]]
    assert [await end(turns, grant) for grant in taken.grants] == [(True, -1)] * 3


async def test_a_full_redis_still_lets_turns_be_taken_and_settled(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1")
    await say(each_store, "+2")
    effects = Effects(outputs=[Output(stream="outbound", type="reply", body={})])
    await each_store.command("CONFIG", "SET", "maxmemory", "1")
    try:
        one, two = (await turns.take(5, 100, 1)).grants
        assert await end(turns, one, effects) == (True, -1)
        assert await end(turns, two, delay_ms=0) == (True, 0)
        assert await turns.beat([]) == (set(), [], 0, b"")
    finally:
        await each_store.command("CONFIG", "SET", "maxmemory", "0")
    assert await each_store.command("XLEN", "outbound") == 1


async def test_an_output_to_a_stream_the_group_does_not_write_is_refused_before_redis(store: Store) -> None:
    turns = await a_consumer(store)
    await say(store, "+1")
    grant = (await turns.take(5, 100, 1)).grants[0]
    with pytest.raises(NotAllowed, match="inbound"):
        await end(turns, grant, Effects(outputs=[Output(stream="inbound", type="x", body={})]))


async def test_ids_of_one_millisecond_are_handled_in_their_order(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    for number in (0, 1, 2, 9, 10, 11, 100):
        await say(each_store, "+1", f"{number}", id=f"5-{number + 1}")
    assert bodies((await turns.take(5, 100, 1)).grants[0]) == ["0", "1", "2", "9", "10", "11", "100"]


async def test_a_copy_of_a_call_that_comes_late_grants_nothing(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1")
    first = (await turns.take(5, 100, 1)).grants[0]
    await turns.take(5, 100, 1)
    await say(each_store, "+2")
    # When the first call arrives once more, after the second has been answered
    turns._calls -= 2
    assert (await turns.take(5, 100, 1)).grants == []
    # Then its token still means one person alone
    turns._calls += 1
    second = (await turns.take(5, 100, 1)).grants[0]
    assert (first.turn.key, second.turn.key, first.token != second.token) == ("+1", "+2", True)


async def test_a_copy_that_comes_after_its_consumer_was_swept_revives_no_old_lease(each_store: Store) -> None:
    # Given a worker that is frozen with a turn in work, and swept; another ended that turn, and more messages came
    frozen, other = await a_consumer(each_store), await a_consumer(each_store)
    await say(each_store, "+1", "first")
    held = (await frozen.take(5, 100, 1)).grants[0]
    await kill(each_store, frozen)
    assert (await end(other, (await other.take(5, 100, 1)).grants[0]))[0]
    await say(each_store, "+1", "second")
    # When a copy of its call, held up on the way, comes now
    frozen._calls -= 1
    again = (await frozen.take(5, 100, 1)).grants[0]
    # Then the old turn cannot end, nor keep from the others, what that copy was given
    assert bodies(again) == ["second"]
    assert await frozen.beat([held.token]) == ({held.token}, [], 0, b"")
    assert bodies((await other.take(5, 100, 1)).grants[0]) == ["second"]


async def test_a_call_repeated_after_its_entries_were_deleted_is_no_error(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    entry = await say(each_store, "+1")
    await turns.take(5, 100, 1)
    await each_store.command("XDEL", "inbound", entry)
    turns._calls -= 1
    assert (await turns.take(5, 100, 1)).grants == []
    # And the lease that nobody holds is freed by the next beat
    await turns.beat([])
    await turns.take(5, 100, 1)
    assert await each_store.command("HLEN", "group:g:leases") == 0


async def test_a_turn_that_would_write_where_it_cannot_is_told_so_and_stays_ours(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1")
    grant = (await turns.take(5, 100, 1)).grants[0]
    await each_store.command("SET", "outbound", "not a stream")
    reply = Effects(outputs=[Output(stream="outbound", type="reply", body={})])
    packed = ending(each_store.keys, turns.group, grant.turn, grant.token, [grant.turn.id], effects=reply)
    assert [type(result) for result in await turns.settle([packed])] == [Impossible]
    assert await end(turns, grant) == (True, -1)


def test_an_output_that_is_no_text_fails_before_redis_sees_it() -> None:
    group = a_topology().groups["g"]
    turn = Turn(group="g", key="+1", messages=[Message(id="1-0", type="text", body=b"{}")])
    effects = Effects(outputs=[Output(stream="outbound", type=None, body={})])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="no text"):
        ending(Keys(), group, turn, "token", ["1-0"], effects=effects)


async def test_an_entry_of_thousands_of_fields_can_be_buried(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    await say(each_store, "+1", **{f"f{number}": "x" for number in range(4_500)})
    grant = (await turns.take(5, 100, 1)).grants[0]
    assert await end(turns, grant, bury="no") == (True, -1)
    [[_, flat]] = await each_store.command("XRANGE", "inbound.dead", "-", "+")
    assert flat[12:18] == [b"key", b"+1", b"type", b"text", b"body", b"{}"]


async def test_who_waits_for_an_answer_is_not_held_up_by_what_comes_after(each_store: Store) -> None:
    # Given a turn in work, a message that a request waits for, and then a plain one
    turns = await a_consumer(each_store, debounce=5, debounce_max=10)
    await say(each_store, "+1", now="1")
    grant = (await turns.take(5, 100, 1)).grants[0]
    await say(each_store, "+1", now="1")
    await turns.take(5, 100, 1)
    assert await end(turns, grant) == (True, 0)
    await say(each_store, "+1")
    assert len((await turns.take(5, 100, 1)).grants) == 1


async def test_a_turns_length_is_counted_in_characters(each_store: Store) -> None:
    turns = await a_consumer(each_store, turn_max_chars=100)
    for _ in range(3):
        await say(each_store, "+1", "ñ" * 40)
    assert len((await turns.take(5, 100, 1)).grants[0].turn.messages) == 2


async def test_a_new_group_begins_as_long_ago_as_it_is_told_to(each_store: Store) -> None:
    # Given what was said three hours ago, an hour ago, and now
    now = await redis_ms(each_store)
    await say(each_store, "+1", id=f"{now - 3 * 3_600_000}-0")
    later = [await say(each_store, f"+{n}", id=f"{now - n}-0") for n in (3_600_000, 0)]
    turns = await a_consumer(each_store, **{"from": "2h"})
    assert [grant.turn.id for grant in (await turns.take(9, 200, 1)).grants] == later


async def test_a_new_group_begins_with_the_first_message_of_its_date(each_store: Store) -> None:
    midnight = 1759636800000
    await say(each_store, "+1", id=f"{midnight - 1}-7")
    first = await say(each_store, "+2", id=f"{midnight}-0")
    top = a_topology(**{"from": "2025-10-05"}).dated(1759700000, ZoneInfo("America/La_Paz"))
    turns = Turns(each_store, top, top.groups["g"], Handler(handle=nothing))
    await turns.open()
    assert [grant.turn.id for grant in (await turns.take(9, 200, 1)).grants] == [first]
    # And trimming, which looks one id behind where it stands, gets along with that
    assert (await trim(each_store, top))["inbound"] == 1
