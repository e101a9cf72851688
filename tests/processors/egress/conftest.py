"""A look into the Redis of a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from streams.connection import Store
from tests.conftest import Server


@pytest.fixture
def client(store: Store, any_server: Server) -> Iterator[redis.Redis]:
    """The same Redis as `store`, for what a test sees and does there itself."""
    with redis.Redis(unix_socket_path=str(any_server.socket), decode_responses=True) as opened:
        yield opened
