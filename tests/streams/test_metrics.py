"""What Prometheus is told, and the pages a worker serves."""

from __future__ import annotations

import os
import subprocess
import sys

import aiohttp
import pytest

from streams import metrics, probe
from streams.errors import ConfigurationError


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
