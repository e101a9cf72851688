"""How long a kill held things up is read from what was under way when it fell."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.faults.checker import Delivery, Entry, Evidence, Reply
from tests.faults.crashes import Kill, Recovery, recoveries

ANA = "+59170000001"


def found() -> Evidence:
    """One message, taken in second 10, answered in 13, delivered in 13.5 and once more in 24; another one in 30."""
    first = Delivery("reply_10000-0", ANA, "{}", "hola", ("m1",), taken=True, signed=True, at=13.5)
    return Evidence(
        said=[],
        inbound=[Entry("10000-0", ANA, "m1", "hola"), Entry("30000-0", ANA, "m2", "chau")],
        outbound=[Reply("13000-0", ANA, "reply_10000-0", ("m1",), "hola")],
        histories={},
        counts={},
        deliveries=[first, replace(first, at=24.0), replace(first, at=29.0, taken=False)],
    )


@pytest.mark.parametrize(("kill", "seconds"), [
    (Kill("inference2", at=11, back=12), 2),
    (Kill("inference", at=9, back=10), 0),
    (Kill("egress", at=13.2, back=14), 10.8),
    (Kill("egress2", at=25, back=26), 0),
    (Kill("redis", at=11, back=12.5), 0.5),
    (Kill("redis", at=13.1, back=14), 10),
    (Kill("ingress", at=28, again=29, back=29.5), 1),
])  # fmt: skip
def test_until_the_last_of_what_was_under_way_is_done(kill: Kill, seconds: float) -> None:
    [recovery] = recoveries([kill], found())
    assert recovery == Recovery(recovery.group, pytest.approx(seconds), pytest.approx(seconds))


@pytest.mark.parametrize(("other", "anew"), [
    (Kill("redis", at=12, back=12.5), 0.5),
    (Kill("inference2", at=12, back=20), 1),
    (Kill("redis", at=10.5, back=11.5), 1.5),
    (Kill("egress", at=12, back=13), 2),
    (Kill("redis", at=14, back=15), 2),
    (Kill("inference2", at=5, back=6), 2),
])  # fmt: skip
def test_another_kill_within_that_time_begins_it_anew(other: Kill, anew: float) -> None:
    recovered = recoveries([Kill("inference", at=11, back=12), other], found())
    assert recovered[0] == Recovery("inference", pytest.approx(2), pytest.approx(anew))


def test_whoever_dies_once_redis_is_back_begins_its_recovery_anew() -> None:
    recovered = recoveries([Kill("redis", at=13.1, back=14), Kill("egress", at=15, back=16)], found())
    assert recovered[0] == Recovery("redis", pytest.approx(10), pytest.approx(9))
