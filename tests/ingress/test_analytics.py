"""GET /analytics."""

from __future__ import annotations

import time

import pytest
from protocol import end

from streams.connection import Store
from streams.effects import Effects, Tally
from tests.ingress.front import OPERATOR, TOKEN, Puppet, front, secret


async def test_operators_are_told_what_was_counted_and_senders_are_not(store: Store) -> None:
    async with front(store, ingress_tokens=secret(TOKEN), operator_tokens=secret(OPERATOR)) as door:
        puppet = await Puppet(store).start()
        await door.say("Hola", Authorization=f"Bearer {TOKEN}")
        [grant] = (await puppet.turns.take(1, 1, 1)).grants
        tally = Tally(at_ms=int(time.time() * 1000), counts={"in": 1}, distinct={"people": "+1"}, timings={"reply": 99})
        await end(puppet.turns, grant, Effects(tallies=[tally]))
        assert (await door.get("/analytics", Authorization=f"Bearer {TOKEN}"))[0] == 403
        status, told = await door.get("/analytics?of=g&since=3d&by=day", Authorization=f"Bearer {OPERATOR}")
    assert (status, told["of"], told["groups"], told["by"], len(told["rows"])) == (200, "g", ["g"], "day", 3)
    assert told["total"]["counts"] == told["rows"][-1]["counts"] == {"in": 1}
    assert told["total"]["distinct"] == {"people": 1}
    assert told["total"]["timings"] == {"reply": {"count": 1, "p50": 99, "p95": 99, "p99": 99}}


async def test_where_nobody_counts_it_is_told_that_nobody_does(store: Store) -> None:
    async with front(store) as door:
        for path in ("/analytics", "/analytics?since=&until=&by=&of=", "/analytics?of=analytics"):
            status, told = await door.get(path)
            assert (status, told["groups"], told["by"], told["total"]["counts"]) == (200, [], "hour", {})


async def test_a_name_under_which_no_group_counts_is_refused_and_those_there_are_are_told(store: Store) -> None:
    async with front(store) as door:
        status, told = await door.get("/analytics?of=nope")
        _, description = await door.get("/openapi.json")
    assert (status, told["error"]) == (400, "invalid_field")
    assert told["detail"] == "`of`: no group counts under 'nope'; there are: analytics, g"
    # And so says the description
    [of] = [each for each in description["paths"]["/analytics"]["get"]["parameters"] if each["name"] == "of"]
    assert of["schema"]["enum"] == ["", "analytics", "g"]


async def test_a_period_told_from_its_end_is_that_period(store: Store) -> None:
    async with front(store) as door:
        first, last = "2025-10-01", "2025-10-03"
        _, told = await door.get(f"/analytics?since={first}&until={last}&by=day")
        status, same = await door.get(f"/analytics?since={last}&until={first}&by=day")
    assert (status, same["rows"]) == (200, told["rows"])


@pytest.mark.parametrize(
    "query", ["since=soon", "until=2025-02-30", "by=week", "of=A%3AB", "since=2025-10-05T25:00", "since=7d%0A"]
)
async def test_a_parameter_that_is_none_is_refused_by_its_name(store: Store, query: str) -> None:
    async with front(store) as door:
        status, told = await door.get(f"/analytics?{query}")
    assert (status, told["error"]) == (400, "invalid_field")
    assert f"`{query.partition('=')[0]}`" in told["detail"]
