"""What Prometheus is told, and the pages a worker serves."""

from __future__ import annotations

import os
import subprocess
import sys

import aiohttp
import pytest
from protocol import a_consumer

from streams import metrics, probe
from streams.connection import Store
from streams.errors import ConfigurationError
from streams.memory import Memory, fullest


def value(line_start: str) -> float:
    found = [line for line in metrics.text().decode().splitlines() if line.startswith(line_start + " ")]
    return float(found[0].rpartition(" ")[2]) if found else 0.0


@pytest.mark.parametrize("outcome", ["settled", "refused", "parked", "failed"])
def test_a_turn_is_counted_by_how_it_ended(outcome) -> None:
    count = f'cauce_turns_total{{group="g",outcome="{outcome}"}}'
    before, times = value(count), value('cauce_turn_seconds_count{group="g"}')
    metrics.turn("g", outcome, 0.25)
    assert value(count) == before + 1
    assert value('cauce_turn_seconds_count{group="g"}') == times + 1


def test_what_a_group_will_count_begins_at_0() -> None:
    metrics.expect(["expected"])
    told = metrics.text().decode()
    for name in ('turns_total{group="expected",outcome="buried"}', 'skipped_total{group="expected"}',
                 'recoveries_total{group="expected"}', 'retries_total{group="expected"}'):  # fmt: skip
        assert f"cauce_{name} 0.0" in told


def test_the_loops_worst_is_told_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000_000.0
    monkeypatch.setattr("streams.metrics.time.monotonic", lambda: now)
    metrics.loop_lag("egress", 4.0)
    now += metrics.LATELY / 2
    metrics.loop_lag("egress", 0.1)
    assert value('cauce_loop_lag_seconds{process="egress"}') == 4.0
    now += metrics.LATELY
    metrics.loop_lag("egress", 0.2)
    assert value('cauce_loop_lag_seconds{process="egress"}') == 0.2


async def test_round_trips_are_counted_by_script_or_first_command(store: Store) -> None:
    turns = await a_consumer(store)
    takes, pings = 'cauce_redis_seconds_count{call="take"}', 'cauce_redis_seconds_count{call="PING"}'
    before = value(takes), value(pings)
    await turns.take(1, 1, 1)
    await store.pipeline([("PING",), ("TIME",)])
    assert (value(takes), value(pings)) == (before[0] + 1, before[1] + 1)
    assert "EVALSHA" not in metrics.text().decode()


async def test_of_several_servers_the_fullest_is_told() -> None:
    roomy, full = Memory(used=900, limit=10_000), Memory(used=80, limit=100)
    assert fullest([roomy, full]) == full
    assert fullest([Memory(used=5), Memory(used=7)]).used == 7
    metrics.observe({}, full)
    assert (value("cauce_redis_memory_bytes"), value("cauce_redis_memory_limit_bytes")) == (80, 100)
    metrics.forget({})
    assert value("cauce_redis_memory_bytes") != value("cauce_redis_memory_bytes")


def test_processes_that_share_a_folder_answer_for_each_other(tmp_path) -> None:
    environ = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    count = "from streams import metrics; metrics.MESSAGES.labels('accepted').inc(2)"
    for _ in range(2):
        subprocess.run([sys.executable, "-c", count], env=environ, check=True)
    tell = "import sys; from streams import metrics; sys.stdout.write(metrics.text().decode())"
    told = subprocess.run([sys.executable, "-c", tell], env=environ, check=True, capture_output=True, text=True).stdout
    assert 'cauce_messages_total{outcome="accepted"} 4.0' in told


async def test_a_worker_tells_whether_it_lives_is_ready_and_how_much_it_did() -> None:
    ready = False
    async with (
        probe.serve(0, ready=lambda: ready, host="127.0.0.1") as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as client,
    ):
        assert (await client.get("/health/live")).status == 200
        assert (await client.get("/health/ready")).status == 503
        ready = True
        assert (await client.get("/health/ready")).status == 200
        numbers = await client.get("/metrics")
        assert numbers.headers["Content-Type"].startswith("text/plain")
        assert "cauce_loop_lag_seconds" in await numbers.text()


async def test_a_taken_worker_port_is_said_in_one_line() -> None:
    async with probe.serve(0, ready=lambda: True, host="127.0.0.1") as port:
        with pytest.raises(ConfigurationError, match=f"WORKER_PORT = {port}"):
            async with probe.serve(port, ready=lambda: True, host="127.0.0.1"):
                pass
