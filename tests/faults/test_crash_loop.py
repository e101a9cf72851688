"""kill -9 of everything, at random, under load; the long form is `make faults`."""

from __future__ import annotations

import os
import random
from statistics import median

import pytest
from conftest import Server

from tests.faults.crashes import by_group, crash_loop, idle, recoveries

pytestmark = [pytest.mark.slow, pytest.mark.timeout(170)]

PROMISED = 15.0
"""Seconds in which a dead worker's turns are resumed."""


async def test_whoever_is_killed_under_load_nothing_is_lost_doubled_or_out_of_order(own_server: Server) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(10**6))  # noqa: S311 - printed, no secret
    print(f"\nSEED={seed}")  # noqa: T201 - what a failure is repeated with
    trial, kills = await crash_loop(own_server, people=60, messages=3_000, rate=60, seed=seed, every=5)
    assert not trial.violations, f"SEED={seed}: {trial.says()}"
    recovered = recoveries(kills, trial.evidence)
    for name, seconds in by_group(recovered).items():
        print(f"{name}: {len(seconds)} kills, recovered in {median(seconds):.1f} s, {max(seconds):.1f} s at most")  # noqa: T201 - the figures
    assert [each for each in recovered if each.anew > PROMISED] == []
    # And nobody was spared
    assert idle(trial, kills) == []
