"""
The breaker, shared by two egress processes over a real Redis.

Its times are Redis's; a test lets one pass by writing the moment it waits for into the past.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from processors.egress import breaker
from processors.egress.breaker import Breaker
from streams.connection import Store
from streams.errors import Unavailable
from streams.tables import Egress, Seconds
from tests.conftest import Server

URL = "https://n8n.example.org/webhook/cauce"
RULE = Egress(breaker_failures=3, breaker_wait=Seconds(5), breaker_wait_max=Seconds(15))


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Two:
    """Two processes that deliver to one destination, with no spread."""

    def __init__(self, store: Store, url: str = URL) -> None:
        self.store = store
        self.clock = Clock()
        self.one, self.other = (Breaker(store, url, RULE, clock=self.clock, uniform=min) for _ in range(2))

    async def open(self) -> None:
        for n in range(3):
            await self.one.failed(f"reply_{n}", "503", unreached=False)

    def let_the_wait_pass(self, client: redis.Redis, field: str = "until") -> None:
        client.hset(breaker.key_of(self.store, URL), field, 1)
        self.clock.now += 400


@pytest.fixture
def client(each_store: Store, each_server: Server) -> Iterator[redis.Redis]:
    """The same Redis, for what a test sees and does there itself."""
    with redis.Redis(unix_socket_path=str(each_server.socket), decode_responses=True) as opened:
        yield opened


def scripts_run(client: redis.Redis) -> int:
    return sum(
        stats["calls"]
        for name, stats in client.info("commandstats").items()
        if name in ("cmdstat_evalsha", "cmdstat_eval")
    )


async def test_while_all_goes_well_redis_is_asked_once_a_second(each_store, client):
    both = Two(each_store)
    await both.one.admit("reply_0")  # teaches Redis the script
    client.config_resetstat()
    both.clock.now += 1
    for n in range(100):
        assert await both.one.admit(f"reply_{n}") is None
        await both.one.succeeded(f"reply_{n}")
    assert scripts_run(client) == 1


async def test_failures_of_several_replies_in_a_row_open_it_for_all_processes(each_store):
    both = Two(each_store)
    assert await both.other.admit("reply_9") is None
    assert await both.one.failed("reply_1", "503", unreached=False) is None
    assert await both.other.failed("reply_2", "503", unreached=False) is None
    assert await both.one.failed("reply_3", "503", unreached=False) == pytest.approx(5, abs=0.1)
    assert await both.one.admit("reply_4") == pytest.approx(5, abs=0.1)
    both.clock.now += 1  # the other's copy is a second old by now
    assert await both.other.admit("reply_4") == pytest.approx(5, abs=1)


async def test_one_reply_that_the_receiver_cannot_digest_does_not_open_it(each_store):
    both = Two(each_store)
    for _ in range(20):
        assert await both.one.failed("reply_poison", "500", unreached=False) is None


async def test_where_nothing_is_reached_each_try_counts_even_of_one_reply(each_store):
    both = Two(each_store)
    for _ in range(2):
        assert await both.one.failed("reply_1", "cannot connect", unreached=True) is None
    assert await both.one.failed("reply_1", "cannot connect", unreached=True) is not None


async def test_a_success_in_another_process_ends_the_row(each_store):
    both = Two(each_store)
    for n in range(2):
        await both.one.failed(f"reply_{n}", "503", unreached=False)
    await both.other.admit("reply_8")
    await both.other.succeeded("reply_8")
    for n in range(2, 4):
        assert await both.one.failed(f"reply_{n}", "503", unreached=False) is None


async def test_half_open_it_lets_exactly_one_delivery_through(each_store, client):
    both = Two(each_store)
    await both.open()
    both.let_the_wait_pass(client)
    asked = [await one.admit(f"reply_{n}") for n in range(10) for one in (both.one, both.other)]
    assert asked[0] is None
    # The second to ask for the same reply is the same delivery, taken over or repeated.
    assert asked[1] is None
    assert None not in asked[2:]


async def test_at_a_full_redis_it_opens_lets_one_try_and_closes_all_the_same(each_store, client):
    # Else nothing is delivered, nothing is settled, and Redis stays full
    both = Two(each_store)
    client.config_set("maxmemory", 1)
    try:
        await both.open()
        client.config_set("maxmemory", 0)
        both.let_the_wait_pass(client)
        client.config_set("maxmemory", 1)
        assert await both.one.admit("reply_1") is None
        await both.one.succeeded("reply_1")
    finally:
        client.config_set("maxmemory", 0)
    assert not client.exists(breaker.key_of(both.store, URL))


async def test_each_failed_try_doubles_the_wait_up_to_the_longest(each_store, client):
    both = Two(each_store)
    await both.open()
    waits = []
    for _ in range(3):
        both.let_the_wait_pass(client)
        assert await both.other.admit("reply_7") is None
        waits.append(await both.other.failed("reply_7", "503", unreached=False))
    assert waits == pytest.approx([10, 15, 15], abs=0.1)


async def test_a_try_that_succeeds_closes_it_and_the_next_opening_starts_small_again(each_store, client):
    both = Two(each_store)
    await both.open()
    both.let_the_wait_pass(client)
    assert await both.other.admit("reply_7") is None
    await both.other.succeeded("reply_7")
    assert not client.exists(breaker.key_of(both.store, URL))
    both.clock.now += 1
    assert await both.one.admit("reply_1") is None
    await both.open()
    assert (await breaker.look(both.store, URL)).wait_seconds == 5


async def test_where_the_process_with_the_try_died_another_gets_it(each_store, client):
    both = Two(each_store)
    await both.open()
    both.let_the_wait_pass(client)
    assert await both.one.admit("reply_1") is None
    assert await both.other.admit("reply_2") is not None
    both.let_the_wait_pass(client, "probe_until")
    assert await both.other.admit("reply_2") is None


async def test_what_was_on_its_way_when_it_opened_does_not_lengthen_the_wait(each_store):
    both = Two(each_store)
    await both.open()
    for n in range(10, 20):
        wait = await both.other.failed(f"reply_{n}", "503", unreached=True)
        assert wait == pytest.approx(5, abs=0.5)


async def test_every_change_may_arrive_twice(each_store, client):
    # A call whose answer was lost is repeated with the same arguments.
    both = Two(each_store)
    keys = [breaker.key_of(both.store, URL)]

    async def twice(*args: str | int) -> list[object]:
        replies = [await both.store.run(breaker._SCRIPT, keys, args) for _ in range(2)]
        assert replies[0][0] == replies[1][0]
        assert replies[0][2:] == replies[1][2:]
        return replies[1]

    assert await twice("fail", "reply_1", "reply_1/a", 3, 5000, 15000) == [b"closed", 0, 0, 1]
    assert await twice("fail", "reply_1", "reply_1/b", 3, 5000, 15000) == [b"closed", 0, 0, 2]
    assert (await twice("fail", "reply_2", "reply_2/c", 3, 5000, 15000))[0::2] == [b"open", 5000]
    both.let_the_wait_pass(client)
    assert (await twice("ask", "reply_3", 20000))[0] == b"probe"
    assert (await twice("fail", "reply_3", "reply_3/d", 3, 5000, 15000))[2] == 10000
    both.let_the_wait_pass(client)
    await twice("ask", "reply_3", 20000)
    assert await twice("succeed", "reply_3") == [b"closed", 0, 0, 0]
    assert (await twice("gone", "reply_3"))[0] == b"gone"


async def test_after_410_it_stays_open_until_it_is_closed_by_hand(each_store, client):
    both = Two(each_store)
    wait = await both.one.gone("reply_1")
    assert wait >= 60
    both.clock.now += 100_000
    for one in (both.one, both.other):
        assert await one.admit("reply_2") == wait
        await one.succeeded("reply_0")  # was on its way before
    assert (await breaker.look(both.store, URL)).state == "gone"

    assert await breaker.close(both.store, URL)

    both.clock.now += 1
    for one in (both.one, both.other):
        assert await one.admit("reply_2") is None


async def test_what_waited_together_is_spread_when_it_is_let_go(each_store):
    long = Egress(breaker_failures=1, breaker_wait=Seconds(300), breaker_wait_max=Seconds(300))
    first, last = (Breaker(each_store, URL, long, clock=Clock(), uniform=draw) for draw in (min, max))
    assert await first.failed("reply_1", "503", unreached=False) == pytest.approx(300, abs=1)
    assert await last.admit("reply_2") == pytest.approx(330, abs=1)


async def test_another_address_has_a_breaker_of_its_own(each_store):
    both = Two(each_store)
    await both.one.gone("reply_1")
    elsewhere = Breaker(both.store, URL + "-2", RULE, clock=both.clock)
    assert await elsewhere.admit("reply_1") is None


async def test_it_never_outlives_a_day_without_news(each_store, client):
    both = Two(each_store)
    key = breaker.key_of(both.store, URL)
    await both.one.failed("reply_1", "503", unreached=False)
    assert 86_000 < client.ttl(key) <= 86_400
    await both.open()
    assert 86_000 < client.ttl(key) <= 86_400
    await both.one.gone("reply_1")
    assert 86_000 < client.ttl(key) <= 86_400


async def test_the_key_says_nothing_of_the_address(each_store, client):
    both = Two(each_store)
    await both.one.failed("reply_1", "503", unreached=False)
    assert [key.partition(":")[0] for key in client.keys()] == ["breaker"]
    assert "n8n" not in client.keys()[0]


async def test_without_redis_nothing_is_sent_and_what_failed_is_the_deliverys_own_failure(tmp_path):
    store = Store.open(f"unix://{tmp_path}/none.sock", patience=0)
    alone = Breaker(store, URL, RULE)
    with pytest.raises(Unavailable):
        await alone.admit("reply_1")
    assert await alone.failed("reply_1", "503", unreached=False) is None
    assert await alone.gone("reply_1") >= 60
    await store.close()
