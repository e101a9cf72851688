"""What the benchmark stands on: figures are only worth as much as it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import named

from bench import commands, systems
from bench.ground import SLOTS, cut
from bench.stage import staged
from streams import topology


def test_cauce_is_measured_with_the_shipped_file_and_what_the_comparison_needs(tmp_path: Path) -> None:
    systems.ours_as_configured(tmp_path, shards=3, max_messages=7)
    told = topology.load(tmp_path / "streams.toml")
    assert (told.shards, told.history.max_messages, told.actions) == (3, 7, [])
    assert [(group.debounce, group.turn_max, group.concurrency) for group in told.groups.values()] == [(0, 1, 100)] * 2


@pytest.mark.parametrize("slots", [[5], [9842, 13907], [13907, 9842, 5649]])
def test_a_clusters_slots_are_cut_between_those_of_the_shards(slots: list[int]) -> None:
    pieces = cut(slots)
    assert [slot for piece in pieces for slot in piece] == list(range(SLOTS))
    assert [[slot for slot in slots if slot in piece] for piece in pieces] == [[slot] for slot in sorted(slots)]


SERVER = shutil.which("redis-server")


@pytest.mark.slow
@pytest.mark.skipif(not SERVER or bool(re.match(r"redis-6", named(SERVER))), reason="needs Redis 7 on the PATH")
async def test_on_a_cluster_each_master_has_a_shard_and_messages_get_through() -> None:
    async with staged(systems.OURS, masters=3, shards=3) as stage:
        sent = await stage.say(60, 20)
        assert sent.statuses == {"202": 60}
        lengths = []
        for server in stage.ground.servers:
            streams = server.ask("--scan", "--pattern", "inbound:{?}").decode().split()
            assert len(streams) == 1
            lengths.append(int(server.ask("XLEN", streams[0])))
        assert sum(lengths) == 60
        assert all(lengths)
        stage.start(*stage.system.workers)
        await stage.arrived(60)
        assert len(await stage.arrivals()) == stage.turns_kept() == 60
        assert {"redis.1", "redis.2", "redis.3", "ingress"} < (await stage.cpu()).keys()


MONITORED = b"""OK
1795885032.000001 [0 127.0.0.1:40000] "evalsha" "feed" "1" "inbound"
1795885032.000002 [0 lua] "GET" "a \\"quoted\\" key"
1795885032.000003 [0 lua] "xadd" "inbound" "*"
1795885032.000004 [0 127.0.0.1:40001] "get" "x"
1795885032.000005 [0 unix:/tmp/redis.sock] "xgroup" "CREATE" "inbound"
1795885032.000006 [0 127.0.0.1:40002] "config" "resetstat"
"""
STATS = {
    "cmdstat_evalsha": "calls=10,usec=1000,usec_per_call=100.00,rejected_calls=0,failed_calls=0",
    "cmdstat_get": "calls=20,usec=300,usec_per_call=15.00,rejected_calls=0,failed_calls=0",
    "cmdstat_xadd": "calls=10,usec=500,usec_per_call=50.00,rejected_calls=0,failed_calls=0",
    "cmdstat_xgroup|create": "calls=1,usec=7,usec_per_call=7.00,rejected_calls=0,failed_calls=1",
    "cmdstat_config|resetstat": "calls=1,usec=90,usec_per_call=90.00,rejected_calls=0,failed_calls=0",
}


def test_what_a_script_calls_is_no_call_of_a_client_and_its_time_is_the_scripts() -> None:
    asked = commands.read(MONITORED.splitlines(), messages=2)
    assert asked.by_clients == {"evalsha": 1, "get": 1, "xgroup": 1}
    assert asked.by_scripts == {"get": 1, "xadd": 1}
    assert asked.calls == 1.5
    # All of the script, half of the GETs, and none of the XADDs, whose time is the script's
    assert commands.microseconds(STATS, asked) == 1000 + 150 + 7


@pytest.mark.slow
@pytest.mark.skipif(not SERVER, reason="needs a redis-server on the PATH")
async def test_a_drain_is_watched_from_its_start_and_costs_far_fewer_calls_than_messages() -> None:
    asked = await commands.watched(systems.OURS)
    assert asked.by_clients["evalsha"] > asked.messages / 100 / 2  # a hundred turns at most in a call, two groups
    assert 0 < asked.calls < 0.5
    assert asked.by_scripts["xadd"] >= asked.messages


@pytest.mark.slow
@pytest.mark.skipif(not SERVER, reason="needs a redis-server on the PATH")
async def test_the_load_generator_has_a_sink_to_itself() -> None:
    async with staged(systems.BARE) as stage:
        sent = await stage.say(500, 50)
        assert sent.statuses == {"200": 500}
