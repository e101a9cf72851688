"""A stream written anew is the same to whoever reads it, and has no byte of what was deleted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from conftest import Server
from protocol import a_consumer, a_topology, bodies, end, ids, say
from waiting import until

from streams.connection import Store
from streams.effects import Handler
from streams.erasure import rewriting
from streams.erasure.rewriting import NotRewritten, write_anew
from streams.retention import trim
from streams.stores import Stores
from streams.survey import survey


async def told(store: Store) -> dict[str, Any]:
    """All that can be asked of the stream and its groups that has nothing to do with where it lies in memory."""
    groups = []
    for row in await store.command("XINFO", "GROUPS", "inbound"):
        fields = dict(zip(row[::2], row[1::2], strict=True))
        pending = await store.command("XPENDING", "inbound", fields[b"name"], "-", "+", 2000)
        groups.append([fields[b"name"], fields[b"last-delivered-id"], [[row[0], row[1], row[3]] for row in pending]])
    info = await store.command("XINFO", "STREAM", "inbound")
    last = dict(zip(info[::2], info[1::2], strict=True))[b"last-generated-id"]
    return {"entries": await store.command("XRANGE", "inbound", "-", "+"), "last": last, "groups": groups}


async def test_entries_groups_and_what_is_pending_stay_as_they_are(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    for number in range(700):
        await say(each_store, f"+{number % 7}", f'"{number}"')
    await each_store.command("XGROUP", "CREATE", "inbound", "somebody else's", "0")
    await each_store.command("XREADGROUP", "GROUP", "somebody else's", "c1", "COUNT", 520, "STREAMS", "inbound", ">")
    grants = (await turns.take(3, 200, 1)).grants
    assert (await end(turns, grants[0]))[0]
    gone = (await ids(each_store))[::3] + (await ids(each_store))[-1:]
    await each_store.command("XDEL", "inbound", *gone)
    before = await told(each_store)
    assert await write_anew(each_store, "inbound") == len(before["entries"])
    after = await told(each_store)
    # What is pending though it was deleted is no longer
    left = [row[0] for row in before["entries"]]
    for group in before["groups"]:
        group[2] = [row for row in group[2] if row[0] in left]
    assert after == before
    assert await each_store.command("PTTL", "inbound") == -1
    assert await each_store.command("KEYS", "anew:*") == []


async def test_the_lag_stays_right(each_store: Store) -> None:
    turns, top = await a_consumer(each_store), a_topology()
    for number in range(30):
        await say(each_store, f"+{number}")
    await turns.take(100, 10, 1)
    everything = await ids(each_store)
    await each_store.command("XDEL", "inbound", everything[2], everything[12], everything[29])
    for left in (29, 28):
        await write_anew(each_store, "inbound")
        view = (await survey(Stores.alone(each_store), top))["g"]
        assert (view.pending, view.lag) == (9, left - 2)  # two of those that were deleted were not read
        await each_store.command("XDEL", "inbound", everything[20])
    while taken := (await turns.take(100, 100, 1)).grants:
        assert taken
    view = (await survey(Stores.alone(each_store), top))["g"]
    assert view.lag == view.pending == 26


async def test_who_waits_for_a_message_is_woken_by_the_first_that_comes(each_store: Store) -> None:
    await say(each_store, "+1")
    gone = await say(each_store, "+2")
    turns, follower = await a_consumer(each_store), each_store.follower()
    taken = await turns.take(5, 100, 1)
    waiting = asyncio.create_task(follower.read({"inbound": taken.cursor}, 20_000))

    async def waits() -> bool:
        return b"cmd=xread" in await each_store.command("CLIENT", "LIST")

    await until(waits)
    await each_store.command("XDEL", "inbound", gone)
    await write_anew(each_store, "inbound")
    new = await say(each_store, "+3", '"new"')
    [(_, [(id, _)])] = await waiting
    assert id == new
    assert bodies((await turns.take(5, 100, 1)).grants[0]) == ['"new"']
    await follower.close()


async def test_one_that_is_empty_by_now_numbers_on(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    ahead = await say(each_store, "+1", id="99999999999999-0")
    await turns.take(1, 100, 1)
    await each_store.command("XDEL", "inbound", ahead)
    assert await write_anew(each_store, "inbound") == 0
    assert await say(each_store, "+2") == "99999999999999-1"
    assert len((await turns.take(5, 100, 1)).grants) == 1
    assert await write_anew(each_store, "not there") is None
    assert await each_store.command("EXISTS", "not there") == 0


async def test_what_comes_goes_and_is_settled_meanwhile_is_not_lost_and_does_not_come_back(each_store: Store) -> None:
    """Between any two slices: entries are appended, taken, settled, trimmed and deleted."""
    for number in range(450):
        await say(each_store, f"+{number}", id=f"{number + 1}-0")
    turns = await a_consumer(each_store, Handler(handle=lambda _: None))  # type: ignore[arg-type,return-value]
    live = Live(each_store, turns)
    await write_anew(live, "inbound")  # type: ignore[arg-type]
    assert live.slices > 4
    assert await ids(each_store) == live.expected
    # And what was taken and not settled is pending, what was settled is not
    pending = await each_store.command("XPENDING", "inbound", "g", "-", "+", 1000)
    assert {row[0].decode() for row in pending} == live.held


class Live:
    """A store on which much happens between two calls."""

    def __init__(self, store: Store, turns: Any) -> None:
        self._store, self._turns = store, turns
        self.slices = 0
        self.expected: list[str] = []
        self.held: set[str] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def run(self, script: Any, keys: Any, args: Any) -> Any:
        self.slices += 1
        if script is rewriting._COPY and self.slices < 30:
            await say(self._store, "+new", id=f"{1000 + self.slices}-0")
            grants = (await self._turns.take(2, 20, 1)).grants
            for grant in grants[:1]:
                await end(self._turns, grant)
            self.held |= {message.id for grant in grants[1:] for message in grant.turn.messages}
            first = (await ids(self._store))[0]
            if self.slices % 2:
                await self._store.command("XTRIM", "inbound", "MINID", f"{self.slices + 1}-0")
            elif self.slices < 10:
                await self._store.command("XDEL", "inbound", f"{100 + self.slices}-0")
            assert first
        self.expected = await ids(self._store)
        pending = await self._store.command("XPENDING", "inbound", "g", "-", "+", 1000)
        self.held = {row[0].decode() for row in pending} & set(self.expected)
        return await self._store.run(script, keys, args)


async def test_where_somebody_deletes_all_the_time_it_gives_up_and_nothing_is_lost(each_store: Store) -> None:
    for number in range(300):
        await say(each_store, "+1", id=f"{number + 1}-0")

    class Busy(Live):
        async def run(self, script: Any, keys: Any, args: Any) -> Any:
            if script is rewriting._SWAP:
                self.slices += 1
                await self._store.command("XDEL", "inbound", f"{self.slices + 100}-0")
            return await self._store.run(script, keys, args)

    with pytest.raises(NotRewritten, match="somebody deletes"):
        await write_anew(Busy(each_store, None), "inbound")  # type: ignore[arg-type]
    assert len(await ids(each_store)) == 300 - rewriting.TRIES
    assert await each_store.command("KEYS", "anew:*") == []


async def test_what_was_begun_and_left_goes_by_itself(each_store: Store) -> None:
    await say(each_store, "+1")
    await each_store.run(rewriting._COPY, ["inbound", "anew:left"], [10, rewriting.LIVES_MS])
    assert 0 < await each_store.command("PTTL", "anew:left") <= rewriting.LIVES_MS


async def test_without_room_for_it_twice_the_stream_stays_as_it_is(each_own_server: Server) -> None:
    store = Store.open(each_own_server.url)
    for number in range(300):
        await say(store, "+1", '"' + "x" * 10_000 + '"', id=f"{number + 1}-0")
    used = int((await store.command("INFO", "memory")).decode().split("used_memory:")[1].split()[0])
    await store.command("CONFIG", "SET", "maxmemory", used + 1_000_000)
    with pytest.raises(NotRewritten, match="no room"):
        await write_anew(store, "inbound")
    assert len(await ids(store)) == 300
    await store.close()


async def test_it_is_trimmed_as_before(each_store: Store) -> None:
    turns = await a_consumer(each_store)
    for number in range(5):
        await say(each_store, f"+{number}", id=f"{number + 1}-0")
    for grant in (await turns.take(3, 3, 1)).grants:
        await end(turns, grant)
    await write_anew(each_store, "inbound")
    assert (await trim(each_store, a_topology()))["inbound"] == 3
