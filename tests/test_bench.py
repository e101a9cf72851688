"""What the benchmark stands on: figures are only worth as much as it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import named

from bench import systems
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
