"""A configuration that changes under a running pipeline: with real processes, and a Redis of its own."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import Server
from pipeline import Process
from up import Up
from waiting import until

from bench.ports import free_port
from streams import anew, topology
from streams.commands import reload
from streams.commands.reload import Notice, Outcome, concerned, parts
from streams.commands.supervisor import _ports
from streams.connection import Store
from streams.errors import ConfigurationError
from streams.settings import Secret, Settings

PIPELINE = """
[groups.first]
reads = "inbound"
handler = "mine:say"
writes = ["outbound"]
"""

MINE = """
from streams import Effects, Output

async def say(turn):
    return Effects(outputs=[Output(stream="outbound", type="said", body={"n": m.decode(dict)["text"]})
                            for m in turn.messages])
"""

NEW = """
[groups.new]
reads = "inbound"
handler = "fresh:note"
"""

FRESH = """
async def note(turn):
    with open("noted.txt", "a") as file:
        file.writelines(f"{turn.key} {m.decode(dict)['text']}\\n" for m in turn.messages)
"""


class Here:
    """A folder that `cauce up` runs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.write("mine.py", MINE)
        self.write("streams.toml", PIPELINE)
        self.up = Up(folder)
        found = re.search(r"http://127.0.0.1:\d+", self.up.until("Cauce is ready"))
        assert found
        self.url = found[0]

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def reload(self) -> tuple[int, str]:
        done = self.up.cauce("reload")
        return done.returncode, done.stdout + done.stderr

    def metrics(self) -> str:
        with urllib.request.urlopen(self.url + "/metrics", timeout=30) as answer:  # noqa: S310 - ours
            return str(answer.read().decode())

    def pids(self) -> dict[str, int]:
        """Of each process, by the end of its command line."""
        children = psutil.Process(self.up.process.pid).children()
        return {" ".join(child.cmdline()[-2:]): child.pid for child in children}


@pytest.fixture
def here(short_path: Path) -> Iterator[Here]:
    running = Here(short_path)
    yield running
    running.up.stop()


class Traffic:
    """Somebody who posts, one message after the other of each of five people, until told to end."""

    def __init__(self, url: str) -> None:
        self.url, self.said, self.enough = url, 0, threading.Event()
        self.wrong: list[str] = []
        self._thread = threading.Thread(target=self._post)
        self._thread.start()

    def _post(self) -> None:
        while not self.enough.is_set():
            body = json.dumps({"user_id": f"web-{self.said % 5}", "message": f"{self.said}"}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(self.url + "/chat", body, headers)  # noqa: S310 - ours
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                    assert answer.status == 202
            except OSError as error:  # an HTTPError is one
                self.wrong.append(repr(error))
            self.said += 1

    def end(self) -> int:
        """How many were said."""
        self.enough.set()
        self._thread.join()
        assert self.wrong == []
        return self.said


def in_order(of: Callable[[int], str], count: int) -> dict[str, list[str]]:
    """What each of the five has said."""
    return {f"web-{person}": [of(n) for n in range(count) if n % 5 == person] for person in range(5)}


def noted(folder: Path) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    path = folder / "noted.txt"
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        person, text = line.split()
        found.setdefault(person, []).append(text)
    return found


@pytest.mark.slow
async def test_a_group_that_is_added_under_traffic_gets_all_of_it_in_order_and_nobody_is_refused(here: Here) -> None:
    traffic = Traffic(here.url)
    try:
        await until(lambda: _true(traffic.said > 20))
        # When a table is added
        before = here.pids()
        here.write("fresh.py", FRESH)
        here.write("streams.toml", PIPELINE + NEW)
        status, said = await asyncio.to_thread(here.reload)
        assert (status, said) == (0, "started: new\nrestarted: ingress\n")
        after = here.pids()
        since = traffic.said
        await until(lambda: _true(traffic.said > since + 20))
    finally:
        count = await asyncio.to_thread(traffic.end)
    # Then the worker that it does not concern is the same
    assert after["work first"] == before["work first"]
    assert after["work new"]
    # And both groups have handled each message once, each person's in order, the new one from the very first
    await until(lambda: _true(noted(here.folder) == in_order(str, count)))
    store = Store.open(f"unix://{here.folder}/data/redis.sock")
    await until(lambda: _length(store, "outbound", count))
    await store.close()


async def _true(it: bool) -> bool:
    return it


async def _length(store: Store, stream: str, count: int) -> bool:
    return bool(await store.command("XLEN", stream) == count)


@pytest.mark.slow
def test_a_file_that_is_wrong_is_refused_in_one_line_and_all_stays_as_it_was(here: Here) -> None:
    before = here.pids()
    here.write("streams.toml", PIPELINE.replace("inbound", "inbond"))
    status, said = here.reload()
    why = "streams.toml: groups.first.reads = 'inbond' is not a stream; did you mean 'inbound'?"
    assert (status, said) == (2, f"cauce: {why}; nothing was changed\n")
    assert why.replace('"', "") in here.up.until("reload.refused")
    assert here.pids() == before
    # Even one that dies now comes back as it was
    here.up.child("work first").kill()
    here.up.until("process.died")
    here.up.until("worker.reading")
    # And so where messages lie that it would not find again
    for changed, why in (
        (PIPELINE.replace("inbound", "outbound").replace('writes = ["outbound"]', ""), "'inbound' to 'outbound'"),
        ("shards = 2\n" + PIPELINE, "which is for `cauce reshard`"),
    ):
        here.write("streams.toml", changed)
        status, said = here.reload()
        assert (status, why in said, here.pids().keys()) == (2, True, before.keys()), said
    # And with a handler that is not there
    here.write("streams.toml", PIPELINE + NEW)
    status, said = here.reload()
    assert status == 2
    assert "groups.new.handler = 'fresh:note': there is no module 'fresh'" in said
    assert "work new" not in here.pids()


SLOW = """
import asyncio
import contextlib
from streams import handler

@contextlib.asynccontextmanager
async def never(group, topology, settings, stores):
    open("waiting", "w").close()
    await asyncio.Event().wait()
    yield

@handler(lifespan=never)
async def note(turn):
    return None
"""


@pytest.mark.slow
async def test_who_is_never_ready_does_not_keep_the_next_reload_waiting(here: Here) -> None:
    # Given a process that lives, and is waited for
    here.write("fresh.py", SLOW)
    here.write("streams.toml", PIPELINE + NEW)
    first = asyncio.create_task(asyncio.to_thread(here.reload))
    await until(lambda: _true((here.folder / "waiting").exists()))
    # When what was wrong is mended
    here.write("fresh.py", FRESH)
    second = asyncio.create_task(asyncio.to_thread(here.reload))
    # Then the first reload says who was not ready, and the second has it start anew
    status, said = await first
    assert status == 1
    assert "not ready: new" in said
    assert (await second)[0] == 0


@pytest.mark.slow
def test_only_who_is_concerned_is_started_again_and_a_group_that_is_gone_is_ended(here: Here) -> None:
    here.write("inner.py", FRESH)
    here.write("fresh.py", "from inner import note\n")
    here.write("streams.toml", PIPELINE + NEW)
    assert here.reload()[0] == 0
    before = here.pids()
    # When what one handler imports changes
    here.write("inner.py", FRESH + "# and more\n")
    assert here.reload() == (0, "restarted: new\n")
    after = here.pids()
    assert {name for name in before if before[name] != after[name]} == {"work new"}
    # When nothing does
    assert here.reload() == (0, "nothing to start again: no process's part of the configuration has changed\n")
    assert here.pids() == after
    # When .env does, it concerns everybody
    here.write(".env", "DEBOUNCE=1\n")
    status, said = here.reload()
    assert (status, said) == (0, "restarted: ingress, first, new\n")
    # But for what `cauce up` has acted on
    here.write(".env", "NAMESPACE=other\n")
    status, said = here.reload()
    assert status == 2
    assert "NAMESPACE has changed, for which `cauce up` has to be stopped and started" in said
    here.write(".env", "DEBOUNCE=1\n")
    assert 'cauce_group_lag{group="new"} 0.0' in here.metrics()
    # When there are to be two of it, it is not gone
    here.write("streams.toml", PIPELINE + NEW + "processes = 2\n")
    assert here.reload() == (0, "started: new.1, new.2\nrestarted: ingress\nstopped: new\n")
    # When a table is taken away
    here.write("streams.toml", PIPELINE)
    status, said = here.reload()
    assert status == 0
    assert said.startswith("restarted: ingress\nstopped: new.1, new.2\n")
    assert "`cauce group list` shows what Redis still keeps for new\n" in said
    # it cannot come back on another stream, where what it has not settled is not
    here.write("streams.toml", PIPELINE + NEW.replace("inbound", "outbound"))
    status, refused = here.reload()
    assert (status, "it has read 'inbound' until now" in refused) == (2, True)
    here.write("streams.toml", PIPELINE)
    # and nothing is told of it that was true once
    assert {group for group in ("first", "new") if f'cauce_group_lag{{group="{group}"}}' in here.metrics()} == {"first"}
    assert "work new" not in here.pids()
    here.up.process.send_signal(signal.SIGTERM)
    assert here.up.end() == 0
    assert "process.died" not in "".join(here.up.said)


@pytest.mark.slow
def test_a_group_that_does_not_start_is_said_and_takes_nobody_along(here: Here) -> None:
    here.write("fresh.py", FAILING)
    here.write("streams.toml", PIPELINE + NEW)
    status, said = here.reload()
    assert status == 1
    assert "not ready: new: its log says why" in said
    here.up.until("the database is not there")
    # When it is mended it starts
    here.write("fresh.py", FRESH)
    status, said = here.reload()
    assert status == 0
    assert "new" in said
    assert "work first" in here.pids()


FAILING = """
from contextlib import asynccontextmanager
from streams import handler
from streams.errors import ConfigurationError

@asynccontextmanager
async def opened(group, topology, settings, stores):
    raise ConfigurationError("environment: DATABASE_URL: the database is not there")
    yield

@handler(lifespan=opened)
async def note(turn): pass
"""


TOGETHER = """
import asyncio
from contextlib import asynccontextmanager
from pathlib import Path
from streams import handler

@asynccontextmanager
async def met(group, topology, settings, stores):
    Path(f"here.{group.name}").touch()
    while len(list(Path().glob("here.*"))) < 2:
        await asyncio.sleep(0.01)
    yield

@handler(lifespan=met)
async def note(turn): pass
"""


@pytest.mark.slow
def test_new_groups_start_at_once_and_one_that_fails_is_named(here: Here) -> None:
    # Given two that are ready only once both are there, and one that does not start
    here.write("together.py", TOGETHER)
    here.write("failing.py", FAILING)
    tables = {"one": "together", "two": "together", "other": "failing"}
    more = [f'[groups.{name}]\nreads = "outbound"\nhandler = "{of}:note"\n' for name, of in tables.items()]
    before = here.pids()
    here.write("streams.toml", PIPELINE + "".join(more))
    # When they are added
    status, said = here.reload()
    # Then the two are, the third is named, and who was there goes on
    assert (status, said.splitlines()[:2]) == (1, ["started: one, two, other", "restarted: ingress"])
    assert "not ready: other: its log says why" in said
    assert here.pids()["work first"] == before["work first"]


@pytest.mark.slow
def test_a_terminal_that_is_closed_ends_it_as_ever(short_path: Path) -> None:
    (short_path / "mine.py").write_text(MINE)
    (short_path / "streams.toml").write_text(PIPELINE)
    ours, theirs = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATA_DIR")}
    up = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "up"], cwd=short_path, stdin=theirs, stdout=theirs, stderr=theirs,
        start_new_session=True, env={**environ, "INGRESS_PORT": "0", "MODEL": "echo", "NO_COLOR": "1"},
    )  # fmt: skip
    os.close(theirs)
    try:
        said = b""
        while b"Cauce is ready" not in said:
            said += os.read(ours, 4096)
        os.close(ours)
        up.send_signal(signal.SIGHUP)  # as the kernel does to whom the terminal belongs
        assert up.wait(timeout=60) == 0
    finally:
        up.kill()
        up.wait()


def a_process(folder: Path, *command: str, **environ: str) -> Any:
    passed = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "PYTHONPATH")}
    environ = {**passed, "LOG_FORMAT": "json", **environ}
    return asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "streams.cli", *command, cwd=folder, env=environ,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip


async def _says_again(process: Process, text: str, times: int) -> None:
    await until(lambda: _true(sum(text in line for line in process.lines) >= times))


@pytest.mark.slow
async def test_a_worker_alone_begins_anew_at_a_hangup_and_stays_where_it_would_not_start(
    short_path: Path, store: Store, any_server: Server
) -> None:
    (short_path / "streams.toml").write_text(NEW)
    (short_path / "fresh.py").write_text(FRESH)
    child = await a_process(short_path, "work", "new", REDIS_URL=any_server.url)
    worker = Process("worker", child)
    try:
        await worker.says("worker.reading")
        await store.command("XADD", "inbound", "*", "key", "web-0", "type", "text", "body", '{"text":"0"}')
        await until(lambda: _true(noted(short_path) == {"web-0": ["0"]}))
        # When its handler is wrong now
        (short_path / "fresh.py").write_text("async def not_it(turn): pass\n")
        child.send_signal(signal.SIGHUP)
        assert "fresh has no 'note'" in await worker.says("reload.refused")
        await store.command("XADD", "inbound", "*", "key", "web-0", "type", "text", "body", '{"text":"5"}')
        await until(lambda: _true(noted(short_path) == {"web-0": ["0", "5"]}))
        # Or where it would read another stream
        (short_path / "fresh.py").write_text(FRESH.replace("{turn.key}", "again-{turn.key}"))
        (short_path / "streams.toml").write_text(NEW.replace("inbound", "outbound"))
        child.send_signal(signal.SIGHUP)
        assert "it has read 'inbound' until now" in await worker.says("cauce group drop")
        # When it is right again
        (short_path / "streams.toml").write_text(NEW)
        child.send_signal(signal.SIGHUP)
        await _says_again(worker, "worker.reading", 2)
        await store.command("XADD", "inbound", "*", "key", "web-0", "type", "text", "body", '{"text":"10"}')
        await until(lambda: _true(noted(short_path).get("again-web-0") == ["10"]))
        # Then it is the same process, and ends as ever
        assert child.returncode is None
    finally:
        status = await worker.end()
    assert status == 0, worker.lines


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2], ids=["alone", "of two"])
async def test_an_ingress_begins_anew_and_refuses_nobody_meanwhile(
    short_path: Path, store: Store, any_server: Server, count: int
) -> None:
    (short_path / "streams.toml").write_text("[streams.inbound]\n")
    port = free_port()
    child = await a_process(
        short_path, "ingress", "--workers", f"{count}", REDIS_URL=any_server.url, INGRESS_PORT=f"{port}"
    )
    ingress = Process("ingress", child)
    try:
        await ingress.says("ingress.listening")
        traffic = Traffic(f"http://127.0.0.1:{port}")
        try:
            for times in (1, 2):
                (short_path / "streams.toml").write_text(f"[streams.inbound]\nmax_len = {5000 + times}\n")
                child.send_signal(signal.SIGHUP)
                begun = "ingress.listening" if count == 1 else "reload.done"
                await _says_again(ingress, begun, times + (count == 1))
                since = traffic.said
                await until(lambda since=since: _true(traffic.said > since + 20))  # type: ignore[misc]
        finally:
            said = await asyncio.to_thread(traffic.end)
        assert await store.command("XLEN", "inbound") == said
        # And where it would not start it goes on as it is
        (short_path / "streams.toml").write_text("[streams.outbound]\n")
        child.send_signal(signal.SIGHUP)
        await ingress.says("reload.refused")
    finally:
        status = await ingress.end()
    assert status == 0, ingress.lines


def given(**groups: dict[str, Any]) -> topology.Topology:
    ours = {"inference": {"reads": "inbound", "handler": "processors.inference.handler:reply"},
            "egress": {"reads": "outbound", "handler": "processors.egress.handler:deliver"}}  # fmt: skip
    return topology.parse({"groups": {**ours, **groups}})


def changed(before: topology.Topology, after: topology.Topology) -> set[str]:
    return concerned(parts(before, Settings()), parts(after, Settings())) - {"streams"}


def test_a_new_group_concerns_the_ingress_and_no_other_group() -> None:
    assert changed(given(), given(x={"reads": "inbound", "handler": "a:b"})) == {"ingress", "work x"}


@pytest.mark.slow
def test_what_a_handler_of_ours_does_not_read_does_not_concern_it() -> None:
    slower, warmer, wordier = given(), given(), given()
    slower.egress.spacing = topology.Seconds(5)
    warmer.inference.temperature = 0.9
    assert changed(given(), slower) == {"ingress", "work egress"}
    assert changed(given(), warmer) == {"ingress", "work inference"}
    wordier.vocabulary["appointment"] = "citas?"
    assert changed(given(), wordier) == {"ingress", "work inference"}


def test_examples_that_were_changed_in_their_file_concern_who_learns_them(tmp_path: Path) -> None:
    whole = given()
    whole.inference.examples, whole.path = ("spanish", "own.toml"), tmp_path / "streams.toml"
    told = []
    for sentence in ("una cita", "una cita", "un turno"):
        (tmp_path / "own.toml").write_text(f'book = ["{sentence}"]\n', encoding="utf-8")
        told.append(parts(whole, Settings()))
    assert concerned(told[0], told[1]) == set()
    assert concerned(told[1], told[2]) == {"work inference"}


def test_who_becomes_the_one_that_answers_is_concerned() -> None:
    first = {"aaa": {"reads": "inbound", "handler": "a:b", "writes": ["outbound"]}}
    writes = {
        "inference": {"reads": "inbound", "handler": "processors.inference.handler:reply", "writes": ["outbound"]}
    }
    before, after = topology.parse({"groups": writes}), topology.parse({"groups": {**first, **writes}})
    assert "work inference" in changed(before, after)


def test_a_secret_that_was_rotated_concerns_everybody() -> None:
    before, after = (parts(given(), Settings(ingress_tokens=(Secret(text),))) for text in ("one", "other"))
    assert concerned(before, after) == {"ingress", "work inference", "work egress"}


@pytest.mark.slow
def test_a_stream_that_is_new_concerns_nobody_who_was_there_and_one_that_is_changed_all() -> None:
    more, kept = given(), given()
    more.streams["bookings"] = topology.Stream()
    kept.streams["inbound"].keep = topology.Seconds(9)
    assert changed(given(), more) == {"ingress"}
    assert changed(given(), kept) == {"ingress", "work inference", "work egress"}


def test_who_lives_on_keeps_its_port_and_the_new_ones_get_those_that_are_free() -> None:
    three = given(x={"reads": "inbound", "handler": "a:b"})
    assert _ports(three, Settings(worker_port=9100), 8000, taken={9100, 9102}) == [9101]


def test_without_a_cauce_up_to_be_found_one_is_told_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no `cauce up` is running in .*kill -HUP"):
        reload.ask(tmp_path)
    with Notice.posted(tmp_path) as notice:
        notice.tell(Outcome(started=["x"]))
    with pytest.raises(ConfigurationError, match="no `cauce up` is running"):
        reload.ask(tmp_path)


@pytest.mark.slow
async def test_a_trial_says_in_a_line_why_it_would_not_start(
    tmp_path: Path, any_server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", any_server.url)
    (tmp_path / "streams.toml").write_text(NEW)
    command = ["--config", str(tmp_path / "streams.toml"), "work", "new"]
    assert "there is no module 'fresh'" in await anew.refusal(command)
    (tmp_path / "fresh.py").write_text(FRESH)
    assert await anew.refusal(command) == ""
