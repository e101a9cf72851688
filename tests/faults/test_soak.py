"""Memory stays flat under load; the long form is `python -m tests.faults.soak --minutes 30`."""

from __future__ import annotations

import sys

import pytest
from conftest import Server

from tests.faults.soak import leaks, soak

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]


@pytest.mark.long
async def test_neither_redis_nor_a_process_grows_with_the_messages_that_pass(any_server: Server) -> None:
    samples = await soak(any_server, 40)
    assert samples[-1].messages > 2_000
    assert leaks(samples) == []
