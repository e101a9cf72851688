"""The process: it starts, says why it cannot, and stops cleanly."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest
from conftest import Server
from pipeline import Process

from bench.ports import free_port
from ingress.app import create_app
from ingress.listening import bind, close
from streams import topology
from streams.connection import Store
from streams.errors import ConfigurationError
from streams.settings import Settings
from streams.stores import Stores
from tests.ingress.front import a_topology

ROOT = Path(__file__).parents[2]


async def process(server: Server, folder: Path, **environment: str) -> Process:
    passed = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG")}
    told = {**passed, "REDIS_URL": server.url, "LOG_FORMAT": "json", "PYTHONPATH": str(ROOT), **environment}
    (folder / "streams.toml").write_bytes((ROOT / "streams.toml").read_bytes())
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ingress", cwd=folder, env=told, limit=1 << 20,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    return Process("ingress", child)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_ends_who_waits_with_an_answer_and_the_process_with_0(
    any_server: Server, store: Store, tmp_path: Path, number
) -> None:
    port = free_port()
    ingress = await process(any_server, tmp_path, INGRESS_PORT=str(port))
    await ingress.says("ingress.listening")
    async with aiohttp.ClientSession() as session:
        asking = asyncio.create_task(
            session.post(
                f"http://127.0.0.1:{port}/chat", json={"user_id": "a", "message": "b"}, headers={"Prefer": "wait=60"}
            )
        )
        while not await store.command("HLEN", "waiting:inbound"):
            pass  # Redis is asked again
        assert await ingress.end(number) == 0
        answer = await asking
        assert answer.status == 202
    await ingress.says("redis.disconnected")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"REDIS_URL": "unix:///nowhere/redis.sock", "INGRESS_PORT": "0"}, "Redis cannot be reached"),
        ({"INGRESS_HOST": "192.0.2.1", "INGRESS_TOKENS": "t" * 24}, "nothing can listen on 192.0.2.1"),
        ({"ENVIRONMENT": "production"}, "INGRESS_TOKENS is not set"),
        ({"INGRESS_PORT": "http"}, "INGRESS_PORT"),
    ],
)
async def test_what_keeps_it_from_starting_is_one_line_and_exit_2(
    any_server: Server, tmp_path: Path, environment, says
) -> None:
    ingress = await process(any_server, tmp_path, **environment)
    assert await ingress.end(0) == 2
    assert [says in line for line in ingress.lines if line.startswith("cauce: ")] == [True]
    assert not any("Traceback" in line for line in ingress.lines)


def test_a_taken_port_is_named_with_what_to_do() -> None:
    [listeners] = bind(Settings(ingress_port=0))
    [taken] = listeners.own
    taken.listen()
    with taken, pytest.raises(ConfigurationError, match="another INGRESS_PORT"):
        bind(Settings(ingress_port=listeners.port))


def test_a_name_with_several_addresses_gets_one_port() -> None:
    [listeners] = bind(Settings(ingress_host="localhost", ingress_port=0))
    assert len({each.getsockname()[1] for each in listeners.own}) == 1
    close(listeners.own)


def test_a_topology_without_inbound_is_no_front_door_s(store: Store) -> None:
    top = topology.parse({"streams": {"messages": {}}})
    with pytest.raises(ConfigurationError, match=r"\[streams.inbound\] is missing"):
        create_app(top, Settings(), Stores.alone(store))


def test_an_app_of_its_own_needs_to_know_where_redis_is() -> None:
    with pytest.raises(ConfigurationError, match="REDIS_URL"):
        create_app(a_topology(), Settings())
