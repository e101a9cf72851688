"""A message is found without looking through all that lies before and behind it."""

from __future__ import annotations

import pytest

from streams import finding, marks, topology
from streams.connection import Store
from streams.stores import Stores

HOUR_MS = 3_600_000
NOON_MS = 1_728_129_600_000


async def test_an_id_that_the_ingress_made_says_where_to_look(store: Store) -> None:
    # Given a day of messages without an id of their own, one a minute, by an ingress whose clock is 30 s ahead
    top, made = topology.parse({"groups": {}}), dict[int, str]()
    for minute in range(24 * 60):
        at = NOON_MS + minute * 60_000
        made[at] = marks.made(at + 30_000)
        body = f'{{"user_id":"+1","message_id":"{made[at]}"}}'
        await store.command("XADD", "inbound", f"{at}-0", "key", "+1", "type", "text", "body", body)
    looked = list[int]()
    finder = finding.Finder(Stores.alone(store), top, looked.append)

    # When one of the morning is asked for
    asked = NOON_MS + 20 * HOUR_MS
    place = await finder.message(made[asked])

    # Then it is found among its neighbours
    assert place.id == f"{asked}-0"
    assert sum(looked) <= 3

    # And one that came hours later than its id says is found as well, among all
    strayed = marks.made(NOON_MS + 2 * HOUR_MS)
    body = f'{{"user_id":"+1","message_id":"{strayed}"}}'
    newest = await store.command("XADD", "inbound", "*", "key", "+1", "type", "text", "body", body)
    assert (await finder.message(strayed)).id == newest.decode()
    with pytest.raises(finding.Unknown, match=r"through the 1,441 entries of inbound"):
        await finder.message(marks.made(NOON_MS))
