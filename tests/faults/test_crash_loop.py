"""kill -9 of everything, at random, under load; the long form is `make faults`."""

from __future__ import annotations

import os
import random
from statistics import median

import pytest
from conftest import Server

from tests.faults.crashes import crash_loop

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]


async def test_whoever_is_killed_under_load_nothing_is_lost_doubled_or_out_of_order(own_server: Server) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))  # noqa: S311 - printed, no secret
    print(f"\nSEED={seed}")  # noqa: T201 - what a failure is repeated with
    run = await crash_loop(own_server, people=60, messages=3_000, rate=60, seed=seed, every=5)
    assert not run.violations, f"SEED={seed}: {len(run.violations)}, the first {run.violations[:10]}"
    for name, seconds in run.recoveries.items():
        print(f"{name}: {len(seconds)} kills, recovered in {median(seconds):.1f} s, {max(seconds):.1f} s at most")  # noqa: T201 - the figures
    assert {kill.name for kill in run.kills} >= {"redis", "ingress", "inference", "egress"}
