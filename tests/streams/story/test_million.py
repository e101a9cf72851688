"""A message among a million: found by its id, with few calls and few entries read, whatever lies around it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from streams import marks, sieve
from streams.connection import Store, info
from streams.stores import Stores
from streams.story import finding
from streams.story.timeline import Timeline
from streams.topology import Topology, load

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

MILLION, A_TURN_MS = 1_000_000, 3
ANAS = MILLION // 2
ANA, WAMID = "+59112345678", "wamid.HBgLNTkxMTIzNDU2NzgVAgASGBQzQTVBAA=="
DIGEST = b"k" * 64

FILL = """
local from, count, total, first, every = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), 20
local told = {}
for i = from, from + count - 1 do
  local id = string.format('%.0f-0', first + i)
  local person, name = '+5917' .. string.format('%07d', i % 5000), 'm' .. i
  if i == tonumber(ARGV[6]) then person, name = ARGV[7], ARGV[8] end
  redis.call('XADD', KEYS[1], id, 'key', person, 'type', 'text', 'body',
    string.format('{"user_id":"%s","message_id":"%s","text":"hola"}', person, name), 'v', '1', 'trace',
    string.format('00-%032x-00000000000000aa-01', i + 1))
  -- The group is slower than they come, so it falls behind by more and more.
  local at = first + i * tonumber(ARGV[5])
  told[#told + 1] = string.format('{"of":["%s"],"at":%.0f,"ms":2,"notes":[[1,"generated",{"tokens":7}]]}\\n', id, at)
  if #told == every then
    redis.call('XADD', KEYS[2], string.format('%.0f-0', at + 2), 'turns', table.concat(told))
    told = {}
  end
end
redis.call('SET', KEYS[3], string.format('%.0f-0', first + from + count - 1))
"""


async def fill(store: Store) -> int:
    """A million of other people's messages, one each millisecond, all of them settled; the time of the first."""
    first = int(time.time() * 1000) - MILLION * (A_TURN_MS + 1)
    keys = [store.keys.stream("inbound"), store.keys.group("journal", "inference"),
            store.keys.group("cursor", "inference")]  # fmt: skip
    for start in range(0, MILLION, 20_000):
        await store.command("EVAL", FILL, 3, *keys, start, 20_000, MILLION, first, A_TURN_MS, ANAS, ANA, WAMID)
    return first


@contextmanager
def timed(what: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    print(f"{what}: {(time.monotonic() - began) * 1000:.0f} ms")  # noqa: T201 - how long it takes is worth knowing


async def asked(store: Store) -> tuple[int, int]:
    """Calls of clients so far, and ranges read, those of scripts included."""
    told = info(await store.command("INFO", "commandstats"))
    counts = {
        name.removeprefix("cmdstat_"): int(value.split("calls=")[1].split(",")[0]) for name, value in told.items()
    }
    return counts.get("evalsha", 0), counts.get("xrange", 0) + counts.get("xrevrange", 0)


async def tell(store: Store, top: Topology, id: str, what: str) -> tuple[Timeline, int, int]:
    """A message's story, how many scripts ran for it, and how many ranges were read."""
    await store.command("CONFIG", "RESETSTAT")
    with timed(what):
        person = id if id == ANA else None
        told = await finding.tell(Stores.alone(store), top, id, person=person, since_seconds=86400, count=1)
    scripts, ranges = await asked(store)
    return told if isinstance(told, Timeline) else told[0], scripts, ranges


async def test_one_of_a_million_is_found_by_its_wamid_with_few_calls(store: Store) -> None:
    # Given a million messages, one of Ana's in their midst, to which the group came half an hour after it
    top, first = load(), await fill(store)
    entry, at_ms = f"{first + ANAS}-0", first + ANAS * A_TURN_MS
    await store.command("SET", store.keys.of("digest"), DIGEST)
    await store.command("SET", marks.name(store.keys, DIGEST, ANA, WAMID), f"{entry}|x|y")
    # When an operator asks for it by WhatsApp's id
    told, scripts, ranges = await tell(store, top, WAMID, "by its wamid")
    # Then it is told from the append to its end, and next to nothing was read for it
    assert (told.entry, [step.kind for step in told.steps]) == (entry, ["appended", "taken", "generated", "committed"])
    assert told.steps[1].at_ms == at_ms
    assert scripts < 60
    assert ranges < 1_000

    # And by an id that leads nowhere, in which case the stream is looked through, slice by slice
    told, scripts, ranges = await tell(store, top, f"m{MILLION // 4}", "by an id that is nobody's in particular")
    assert told.entry == f"{first + MILLION // 4}-0"
    assert scripts < MILLION // sieve.PIECE + 60

    # And the latest of one person
    told, scripts, _ = await tell(store, top, ANA, "a person's latest")
    assert scripts < MILLION // sieve.PIECE + 60
    with (
        timed("one that is not there"),
        pytest.raises(finding.Unknown, match="through the 1,000,000 entries of inbound"),
    ):
        await finding.tell(
            Stores.alone(store), top, "wamid.HBgLNTkxMTIzNDU2NzgVAgASGBQzQTVCAA==", since_seconds=1, count=1
        )
