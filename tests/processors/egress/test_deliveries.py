"""What became of each reply, on the stream that egress's `writes` names."""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from processors.egress import handler
from processors.egress.handler import deliver, given_up
from streams import topology, wire
from streams.effects import Effects
from streams.errors import Bury, Retry
from streams.stores import Stores
from tests.processors.egress.stories import NOW, reply, settings, turn
from tests.sink import Sink

ARCHIVING = """
[streams.inbound]
[streams.outbound]
[streams.deliveries]
[groups.inference]
reads = "inbound"
handler = "a:b"
writes = ["outbound"]
debounce = 2
[groups.egress]
reads = "outbound"
handler = "processors.egress.handler:deliver"
turn_max = 1
writes = ["deliveries"]
[groups.archive-deliveries]
reads = "deliveries"
handler = "a:b"
[egress]
max_chars = 30
"""


@pytest.fixture
def plan(tmp_path) -> topology.Topology:
    path = tmp_path / "streams.toml"
    path.write_text(ARCHIVING)
    return topology.load(path)


@asynccontextmanager
async def recording(store, url, plan):
    where = settings(url)
    async with handler.opened(plan.group("egress"), plan, where, Stores.alone(store), clock=lambda: NOW) as here:
        yield here


def told(effects: Effects | None) -> wire.Delivery:
    assert effects is not None
    [output] = effects.outputs
    assert output.stream == "deliveries"
    assert isinstance(output.body, wire.Delivery)
    assert output.type == output.body.outcome
    return output.body


async def test_a_delivered_reply_is_told_of_when_its_last_part_is_out(store, plan) -> None:
    async with Sink() as sink, recording(store, sink.url, plan) as here:
        long = reply(message="Primera frase, algo larga. Segunda frase, algo larga.")
        with pytest.raises(Retry) as spacing:
            await deliver.handle(turn(here, long))
        after = await deliver.handle(turn(here, long, progress=spacing.value.progress, attempt=2))
        delivery = told(after)
    assert (delivery.outcome, delivery.status, delivery.parts, delivery.attempts) == ("delivered", 200, 2, 2)
    assert (delivery.reply_id, delivery.user_id) == (long.id, long.user_id)


async def test_a_refused_reply_is_told_of_beside_its_burial(store, plan) -> None:
    async with Sink() as sink, recording(store, sink.url, plan) as here:
        sink.plan(status=400)
        with pytest.raises(Bury) as buried:
            await deliver.handle(turn(here, reply()))
        delivery = told(given_up(turn(here, reply()), str(buried.value)))
    assert (delivery.outcome, delivery.status) == ("failed", 400)
    assert delivery.why.startswith("400")
    assert given_up(turn(here, b"{"), "no reply") is None


async def test_without_a_webhook_a_reply_is_told_to_be_unsent(store, plan) -> None:
    async with recording(store, None, plan) as here:
        assert told(await deliver.handle(turn(here, reply()))).outcome == "unsent"


def test_egress_answers_nobody_and_waits_for_nothing_though_it_writes(plan) -> None:
    assert plan.answering("inbound").name == "inference"
    assert plan.answering("outbound") is None
    late = plan.debounced(20)
    assert (late.groups["inference"].debounce, late.groups["egress"].debounce) == (20, 0)
    assert plan.downstream("inbound") == ["inbound", "outbound", "deliveries"]
