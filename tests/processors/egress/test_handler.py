"""What egress does with a reply, from a turn to a real receiver."""

from __future__ import annotations

import io
import time

import pytest
from msgspec.structs import replace

from processors.egress import breaker, handler
from processors.egress.handler import deliver
from streams import log, wire
from streams.connection import Store
from streams.errors import Bury, ConfigurationError, Retry
from streams.settings import Settings
from streams.stores import Stores
from tests.processors.egress.stories import ENTRY, NOW, pipeline, process, reply, settings, turn
from tests.sink import Sink

LONG = "Primera frase, bastante larga. Segunda frase, también larga. Tercera."
PARTS = ["Primera frase, bastante larga.", "Segunda frase, también larga.", "Tercera."]


async def test_a_reply_is_posted_once_and_settled(store):
    async with Sink() as sink, process(store, sink.url) as here:
        assert await deliver.handle(turn(here, reply(), trace="00-" + "1" * 32 + "-" + "2" * 16 + "-01")) is None
        [got] = sink.requests
        assert got.json["message"] == reply().message
        assert got.json["action"] == "book"
        assert got.headers["traceparent"].startswith("00-111")


async def test_types_that_are_off_are_settled_unseen(store):
    async with Sink() as sink, process(store, sink.url) as here:
        assert await deliver.handle(turn(here, reply(type="handover", message="¿hay alguien?"))) is None
        assert sink.requests == []
    async with Sink() as sink, process(store, sink.url, egress={"types": ["reply", "handover"]}) as here:
        await deliver.handle(turn(here, reply(type="handover", message="¿hay alguien?")))
        assert sink.requests[0].json["type"] == "handover"


async def test_a_reply_of_a_replay_is_never_sent(store):
    async with Sink() as sink, process(store, sink.url) as here:
        again = turn(here, reply())
        again.messages = [replace(again.messages[0], replayed=True)]
        with pytest.raises(Bury, match="never sent"):
            await deliver.handle(again)
        assert sink.requests == []


async def test_that_somebody_types_is_said_once_and_only_while_it_is_true(store):
    typing = reply(type="typing", message="", action=None)
    async with Sink() as sink, process(store, sink.url, egress={"types": ["reply", "typing"]}) as here:
        assert await deliver.handle(turn(here, typing)) is None
        [got] = sink.requests
        assert (got.json["type"], got.json["message"], got.json["in_reply_to"]) == ("typing", "", ["wamid.ABC"])
        await deliver.handle(turn(here, typing, attempt=2))
        await deliver.handle(turn(here, typing, now_ms=int((NOW + 60) * 1000)))
        assert len(sink.requests) == 1
    # A receiver that does not take it holds nothing up
    async with Sink() as sink, process(store, sink.url, egress={"types": ["typing"]}) as here:
        sink.plan(status=503, count=None)
        assert await deliver.handle(turn(here, typing)) is None
        assert len(sink.requests) == 1
    async with process(store, None, egress={"types": ["typing"]}) as here:
        assert await deliver.handle(turn(here, typing)) is None


async def test_without_an_address_replies_are_settled_and_the_log_says_so_once(store):
    lines = io.StringIO()
    log.configure(Settings(), lines)
    async with process(store, None) as here:
        for _ in range(3):
            assert await deliver.handle(turn(here, reply())) is None
    log.flush()
    assert lines.getvalue().count("delivery.unsent") == 1
    assert lines.getvalue().count("Con gusto te ayudo") == 3


async def test_what_is_said_is_printed_in_development_only(store):
    for environment, printed in (("development", 1), ("production", 0)):
        lines = io.StringIO()
        log.configure(Settings(environment=environment, log_level="debug"), lines)
        async with Sink() as sink, process(store, sink.url, environment=environment) as here:
            await deliver.handle(turn(here, reply()))
        log.flush()
        assert lines.getvalue().count("Con gusto te ayudo") == printed
        assert lines.getvalue().count("delivery.sent") == 1
        assert "59112345678" not in lines.getvalue()


async def test_nothing_secret_in_the_address_reaches_the_log(store):
    lines = io.StringIO()
    log.configure(Settings(log_level="debug"), lines)
    async with Sink() as sink:
        address = sink.url.replace("http://", "http://ana:pa55word@") + "/tok-1234567890?key=q1w2e3"
        async with process(store, address, egress={"breaker_failures": 1}) as here:
            await deliver.handle(turn(here, reply()))
            for status in (404, 503, 400):
                sink.plan(status=status, body=address)
                with pytest.raises((Retry, Bury)) as caught:
                    await deliver.handle(turn(here, reply()))
                lines.write(str(caught.value))
                await breaker.close(here.stores.first, address)
                here.breaker = breaker.Breaker(here.stores.first, address, here.topology.egress)
    for secret in ("pa55word", "tok-1234567890", "q1w2e3"):
        assert secret not in lines.getvalue()
    assert "/webhook/…" in lines.getvalue()


async def test_a_long_reply_goes_in_parts_one_start_each_with_the_action_on_the_last(store):
    async with Sink() as sink, process(store, sink.url, egress={"max_chars": 30, "spacing": "2s"}) as here:
        progress = ""
        for part in (1, 2):
            with pytest.raises(Retry) as parked:
                await deliver.handle(turn(here, reply(message=LONG), progress=progress))
            assert (parked.value.after, parked.value.counted) == (2, False)
            progress = parked.value.progress
            assert len(sink.requests) == part
        assert await deliver.handle(turn(here, reply(message=LONG), progress=progress)) is None

        bodies = [got.json for got in sink.requests]
        assert [body["message"] for body in bodies] == PARTS
        assert [body["id"] for body in bodies] == [f"reply_1728123456789-0.p{n}" for n in (1, 2, 3)]
        assert [got.headers["webhook-id"] for got in sink.requests] == [body["id"] for body in bodies]
        assert [(body["part"], body["parts"]) for body in bodies] == [(1, 3), (2, 3), (3, 3)]
        assert [body["action"] for body in bodies] == [None, None, "book"]
        assert [body["slots"] for body in bodies] == [{}, {}, {"speciality": "cardiología"}]


async def test_a_part_that_failed_is_due_again_and_what_arrived_is_not_repeated(store):
    async with Sink() as sink, process(store, sink.url, egress={"max_chars": 30}) as here:
        sink.plan(status=503)
        with pytest.raises(Retry) as failed:
            await deliver.handle(turn(here, reply(message=LONG), progress=f"{ENTRY}/1"))
        # None leaves the progress as it was.
        assert failed.value.progress is None
        assert failed.value.counted
        assert sink.requests[0].json["part"] == 2


async def test_progress_that_another_entry_left_skips_nothing(store):
    async with Sink() as sink, process(store, sink.url, egress={"max_chars": 30}) as here:
        with pytest.raises(Retry):
            await deliver.handle(turn(here, reply(message=LONG), progress="1728123455999-0/2"))
        assert sink.requests[0].json["part"] == 1


async def test_a_refused_part_takes_the_rest_with_it(store):
    async with Sink() as sink, process(store, sink.url, egress={"max_chars": 30}) as here:
        sink.plan(status=422, body="no")
        with pytest.raises(Bury, match="422: no"):
            await deliver.handle(turn(here, reply(message=LONG), progress=f"{ENTRY}/1"))


async def test_a_failure_is_the_replys_until_it_is_everybodys(store):
    # Given a receiver that fails for everyone, and three failures that open the breaker
    async with Sink() as sink, process(store, sink.url, egress={"breaker_failures": 3}) as here:
        sink.plan(status=503, count=None)
        retries = []
        for n in range(5):
            with pytest.raises(Retry) as caught:
                await deliver.handle(turn(here, reply(id=f"reply_{n}-0")))
            retries.append(caught.value)
    # Then the first two count, with the group's backoff; from the third on nobody is to blame, and nothing is sent
    assert [retry.counted for retry in retries] == [True, True, False, False, False]
    assert [retry.after for retry in retries[:2]] == [None, None]
    assert all(4.9 <= retry.after <= 10 for retry in retries[2:])
    assert len(sink.requests) == 3


async def test_retry_after_is_passed_on(store):
    async with Sink() as sink, process(store, sink.url) as here:
        sink.plan(status=429, headers={"Retry-After": "77"})
        with pytest.raises(Retry) as caught:
            await deliver.handle(turn(here, reply()))
        assert (caught.value.not_before, caught.value.counted) == (77, True)


async def test_n8n_that_is_starting_up_gets_the_reply_again(store):
    async with Sink() as sink, process(store, sink.url) as here:
        sink.plan(starting_up=True)
        with pytest.raises(Retry, match="starts"):
            await deliver.handle(turn(here, reply()))
        assert await deliver.handle(turn(here, reply(), attempt=2)) is None
        first, second = sink.requests
        assert first.headers["webhook-id"] == second.headers["webhook-id"]


async def test_410_holds_every_reply_and_counts_no_attempt(store):
    async with Sink() as sink, process(store, sink.url) as here:
        sink.plan(status=410)
        for n in range(3):
            with pytest.raises(Retry) as caught:
                await deliver.handle(turn(here, reply(id=f"reply_{n}-0")))
            assert not caught.value.counted
        assert len(sink.requests) == 1
        assert (await breaker.look(here.stores.first, sink.url)).state == "gone"


async def test_a_refusal_shows_that_the_receiver_is_up(store):
    async with Sink() as sink, process(store, sink.url, egress={"breaker_failures": 2}) as here:
        for status in (503, 400, 503, 400):
            sink.plan(status=status)
            with pytest.raises((Retry, Bury)):
                await deliver.handle(turn(here, reply(id=f"reply_{len(sink.requests)}-0")))
        assert (await breaker.look(here.stores.first, sink.url)).state == "closed"
        assert len(sink.requests) == 4


async def test_a_reply_older_than_whatsapps_window_is_buried_unsent(store):
    async with Sink() as sink, process(store, sink.url, egress={"expire": "1h"}) as here:
        made = int(NOW * 1000) - 3600 * 1000
        await deliver.handle(turn(here, reply(), entry=f"{made}-0"))
        with pytest.raises(Bury, match="expired"):
            await deliver.handle(turn(here, reply(), entry=f"{made - 1}-0"))
        assert len(sink.requests) == 1


async def test_a_body_that_is_no_reply_is_buried(store):
    async with Sink() as sink, process(store, sink.url) as here:
        with pytest.raises(Bury, match="no Reply"):
            await deliver.handle(turn(here, b'{"id":1}'))
        assert sink.requests == []


async def test_fields_that_a_later_release_adds_do_no_harm(store):
    async with Sink() as sink, process(store, sink.url) as here:
        raw = wire.encode(reply())[:-1] + b',"mood":"calm"}'
        assert await deliver.handle(turn(here, raw)) is None
        assert "mood" not in sink.requests[0].json


async def test_a_reply_somebody_waits_for_is_held_then_goes_by_exactly_one_door(store, client):
    async with Sink() as sink, process(store, sink.url) as here:
        door = here.stores.first.keys.of("door", "1728123450000-0")
        waiting = turn(here, reply(), door="1728123450000-0")
        deadline = int(time.time() * 1000) + 60_000

        # Given a request that still waits, the reply is held
        client.hset(door, mapping={"state": "open", "deadline": deadline})
        with pytest.raises(Retry) as held:
            await deliver.handle(waiting)
        assert not held.value.counted
        assert 55 < held.value.after <= 60

        # When the request took it, it is not sent
        client.hset(door, "state", "http")
        assert await deliver.handle(waiting) is None
        assert sink.requests == []

        # And when the request's time has passed, it is, and no request can take it any more
        client.hset(door, mapping={"state": "open", "deadline": 1})
        assert await deliver.handle(waiting) is None
        assert len(sink.requests) == 1
        assert client.hget(door, "state") == "webhook"


async def test_without_an_address_what_a_request_took_is_not_called_unsent(store, client):
    async with process(store, None) as here:
        door = here.stores.first.keys.of("door", "1728123450000-0")
        waiting = turn(here, reply(), door="1728123450000-0")

        # Given a request that still waits, nothing is said of the reply yet
        client.hset(door, mapping={"state": "open", "deadline": int(time.time() * 1000) + 60_000})
        with pytest.raises(Retry, match="door") as held:
            await deliver.handle(waiting)
        assert held.value.at_door
        assert waiting.notes == []

        # When it took the reply, that is told
        client.hset(door, "state", "http")
        await deliver.handle(waiting)
        assert [note.name for note in waiting.notes] == ["claimed"]
        assert not here.said_not_sent

        # And when its time has passed, that nobody got it
        late = turn(here, reply(), door="1728123450000-0")
        client.hset(door, mapping={"state": "open", "deadline": 1})
        await deliver.handle(late)
        assert [note.name for note in late.notes] == ["unsent"]
        assert here.said_not_sent


async def test_typing_is_a_webhook_without_words(store):
    async with Sink() as sink, process(store, sink.url, egress={"types": ["reply", "typing"]}) as here:
        await deliver.handle(turn(here, reply(type="typing", message="", action=None, slots={})))
        assert (sink.requests[0].json["type"], sink.requests[0].json["message"]) == ("typing", "")


async def test_while_redis_is_away_nothing_is_sent(store, tmp_path):
    async with Sink() as sink, process(store, sink.url) as here:
        gone = Store.open(f"unix://{tmp_path}/none.sock", patience=0)
        here.breaker = breaker.Breaker(gone, sink.url, here.topology.egress)
        with pytest.raises(Retry) as caught:
            await deliver.handle(turn(here, reply()))
        assert not caught.value.counted
        assert sink.requests == []
        await gone.close()


@pytest.mark.parametrize(("field", "value"), [("turn_max", 5), ("order", "none"), ("replay", True)])
async def test_a_group_that_could_not_keep_order_or_would_send_anew_is_refused(field, value, store):
    plan = pipeline()
    group = plan.group("egress")
    setattr(group, field, value)
    with pytest.raises(ConfigurationError, match=field):
        async with handler.opened(group, plan, settings("http://localhost/x"), Stores.alone(store)):
            pass


def test_the_runtime_knows_that_it_acts_outside():
    assert deliver.outside
    assert deliver.lifespan is handler.opened
