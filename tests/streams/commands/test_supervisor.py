"""`cauce up` as a whole: started, wounded, stopped; with real processes and a Redis of its own."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from up import Up

from bench.ports import free_ports
from streams import embedded, topology
from streams.commands.supervisor import _ports, stages
from streams.errors import ConfigurationError
from streams.settings import Settings

pytestmark = pytest.mark.slow

PIPELINE = """
[groups.first]
reads = "inbound"
handler = "mine:{handler}"
writes = ["outbound"]

[groups.second]
reads = "outbound"
handler = "mine:done"
"""

MINE = """
import asyncio
from contextlib import asynccontextmanager
from streams import handler
from streams.errors import ConfigurationError

async def done(turn): pass

async def hang(turn): await asyncio.Event().wait()

@asynccontextmanager
async def opened(group, topology, settings, store):
    raise ConfigurationError("environment: MODEL = 'nothing' is no model")
    yield

@handler(lifespan=opened)
async def wrong(turn): pass
"""


@pytest.fixture
def folder(short_path: Path) -> Path:
    (short_path / "mine.py").write_text(MINE)
    (short_path / "streams.toml").write_text(PIPELINE.format(handler="done"))
    return short_path


@pytest.fixture
def up(folder: Path, request: pytest.FixtureRequest) -> Iterator[Up]:
    environ = dict(getattr(request, "param", {}))
    (folder / "streams.toml").write_text(PIPELINE.format(handler=environ.pop("handler", "done")))
    running = Up(folder, **environ)
    yield running
    running.stop()


def test_it_starts_everything_and_stops_along_the_way_of_the_data(up) -> None:
    up.until("Cauce is ready")
    curl = up.until("curl ")
    assert "Prefer: wait=20" in curl
    everybody = psutil.Process(up.process.pid).children()
    status = json.loads(up.cauce("status", "--json").stdout)
    assert {name: group["workers"] for name, group in status["groups"].items()} == {"first": 1, "second": 1}
    up.process.send_signal(signal.SIGTERM)
    assert up.end() == 0
    stopped = re.findall(r'pipeline\.stopping processes=\["(\w+)"\]', "".join(up.said))
    assert stopped == ["ingress", "first", "second"]
    gone, alive = psutil.wait_procs(everybody, timeout=10)
    assert len(gone) == 4
    assert alive == []
    assert embedded.running(up.folder / "data") is None


def test_groups_and_the_ingress_get_as_many_processes_as_are_asked_for(folder) -> None:
    (folder / "streams.toml").write_text(PIPELINE.format(handler="done") + "processes = 2\n")
    ports = free_ports(3)
    up = Up(folder, INGRESS_WORKERS="2", WORKER_PORT=str(ports[0]))
    try:
        up.until("Cauce is ready")
        status = json.loads(up.cauce("status", "--json").stdout)
        assert {name: group["workers"] for name, group in status["groups"].items()} == {"first": 1, "second": 2}
        # Each has a port of its own, and answers for all
        for port in ports:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                assert "\ncauce_ingress_workers 2.0\n" in answer.read().decode()
        up.process.send_signal(signal.SIGTERM)
        assert up.end() == 0
    finally:
        up.stop()
    stopped = re.findall(r"pipeline\.stopping processes=(\[.*\])", "".join(up.said))
    assert [json.loads(each) for each in stopped] == [["ingress.1", "ingress.2"], ["first"], ["second.1", "second.2"]]


def test_who_comes_while_the_only_ingress_is_started_again_waits_and_is_not_refused(up) -> None:
    port = re.search(r"http://127.0.0.1:(\d+)", up.until("Cauce is ready"))
    assert port
    up.child(" ingress").kill()
    up.until("process.died")
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/health/live", timeout=30) as answer:
        assert answer.status == 200


def test_a_worker_and_a_redis_that_are_killed_come_back(up) -> None:
    up.until("Cauce is ready")
    for words in ("work first", "redis.sock", "ingress"):
        victim = up.child(words)
        victim.kill()
        up.until("process.died")
        victim.wait(timeout=10)
    up.until("worker.reading|redis.lost|round.skipped|Redis")
    up.process.send_signal(signal.SIGTERM)
    assert up.end() == 0


def test_after_it_was_killed_nothing_of_it_lives_on_and_the_next_one_starts(up) -> None:
    up.until("Cauce is ready")
    everybody = psutil.Process(up.process.pid).children()
    up.process.kill()
    gone, alive = psutil.wait_procs(everybody, timeout=30)
    assert alive == []
    assert len(gone) == 4
    again = Up(up.folder)
    try:
        again.until("Cauce is ready")
    finally:
        again.stop()


def test_with_a_redis_of_ones_own_none_is_started(folder, any_server) -> None:
    up = Up(folder, REDIS_URL=any_server.url)
    try:
        up.until("Cauce is ready")
        commands = [" ".join(child.cmdline()) for child in psutil.Process(up.process.pid).children()]
        assert len(commands) == 3
        assert [each.name for each in (folder / "data").iterdir()] == ["up.lock"]  # by which `cauce reload` finds it
    finally:
        up.stop()


def test_a_second_one_in_the_same_folder_is_refused(up) -> None:
    up.until("Cauce is ready")
    second = up.cauce("up")
    assert second.returncode == 2
    assert f"(pid {up.process.pid}) is using it" in second.stderr
    assert len(second.stderr.splitlines()) == 1


@pytest.mark.parametrize("up", [{"handler": "wrong"}], indirect=True)
def test_a_worker_whose_configuration_is_wrong_ends_it_with_status_2(up) -> None:
    assert up.end() == 2
    assert up.said[-1] == "cauce: first does not start: environment: MODEL = 'nothing' is no model\n"
    assert "Traceback" not in "".join(up.said)


def test_a_group_that_reads_another_stream_than_before_ends_it_before_any_worker_starts(folder, up) -> None:
    up.until("Cauce is ready")
    up.stop()
    text = (folder / "streams.toml").read_text()
    (folder / "streams.toml").write_text(text.replace('reads = "outbound"', 'reads = "statuses"'))
    again = Up(folder)
    assert again.end() == 2
    assert again.said[-1].startswith("cauce: streams.toml: groups.second.reads = 'statuses', but it has")
    assert "worker.reading" not in "".join(again.said)
    # With the old name it goes on
    (folder / "streams.toml").write_text(text)
    again = Up(folder)
    again.until("Cauce is ready")
    again.stop()


@pytest.mark.parametrize("up", [{"handler": "hang", "SHUTDOWN_GRACE": "600"}], indirect=True)
def test_a_second_signal_stops_at_once_what_would_not_end(up) -> None:
    up.until("Cauce is ready")
    with socket.socket(socket.AF_UNIX) as redis:
        redis.connect(str(up.folder / "data" / "redis.sock"))
        redis.sendall(b"XADD inbound * key somebody type text body {} v 1 trace x\r\n")
        assert redis.recv(100).startswith(b"$")
        redis.sendall(b"XREAD BLOCK 0 STREAMS never $\r\n")
        # While that turn hangs
        up.process.send_signal(signal.SIGINT)
        up.until("worker.draining")
        up.process.send_signal(signal.SIGINT)
        assert up.end() == 0


def test_a_taken_port_is_one_line_and_status_2(folder) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = Up(folder, INGRESS_PORT=str(port))
        assert refused.end() == 2
    assert len(refused.said) == 1
    assert f"127.0.0.1:{port}" in refused.said[0]


def test_a_redis_that_cannot_start_is_named_with_its_own_words(folder) -> None:
    (folder / "data").mkdir()
    (folder / "data" / "redis.conf").write_text("no-such-option yes\n")
    refused = Up(folder)
    assert refused.end() == 2
    assert refused.said[-1].startswith("cauce: redis does not start: ")
    assert "no-such-option" in "".join(refused.said)


def test_a_model_that_is_not_there_is_one_line_before_anything_is_started(folder) -> None:
    shutil.copy(Path(__file__).parents[3] / "streams.toml", folder)
    refused = Up(folder, MODEL="./nowhere")
    assert refused.end() == 2
    assert len(refused.said) == 1
    assert "MODEL = './nowhere'" in refused.said[0]
    assert not (folder / "data").exists()


def test_a_redis_that_is_not_there_is_one_line_and_status_2(folder) -> None:
    refused = Up(folder, REDIS_URL="redis://:pa55word@127.0.0.1:1/0")
    assert refused.end() == 2
    assert len(refused.said) == 1
    assert "Redis cannot be reached" in refused.said[0]
    assert "pa55word" not in refused.said[0]


def three_processes() -> topology.Topology:
    reads = {"reads": "inbound", "handler": "m:f"}
    return topology.parse({"groups": {"one": reads, "two": reads | {"processes": 2}}})


def test_workers_take_the_ports_from_worker_port_on_or_none() -> None:
    assert _ports(three_processes(), Settings(worker_port=9100), 8000) == [9100, 9101, 9102]
    assert _ports(three_processes(), Settings(), 8000) == [0, 0, 0]


@pytest.mark.parametrize(("first", "why"), [(7999, "the ingress has 8000"), (65534, "there is no port above 65535")])
def test_ports_that_do_not_fit_are_refused_before_anything_is_started(first: int, why: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        _ports(three_processes(), Settings(worker_port=first), 8000)
    told = f"WORKER_PORT = {first} is the first of 3, one for each process: {why}; choose another"
    assert str(caught.value) == f"environment: {told}"


def test_whoever_writes_a_stream_stops_before_its_readers() -> None:
    plain = {
        "groups": {
            "last": {"reads": "outbound", "handler": "m:f"},
            "middle": {"reads": "inbound", "handler": "m:f", "writes": ["outbound"]},
            "beside": {"reads": "inbound", "handler": "m:f"},
        }
    }
    assert stages(topology.parse(plain)) == [["middle", "beside"], ["last"]]


def test_groups_that_feed_each_other_stop_together() -> None:
    plain = {
        "groups": {
            "ping": {"reads": "inbound", "handler": "m:f", "writes": ["outbound"]},
            "pong": {"reads": "outbound", "handler": "m:f", "writes": ["inbound"]},
        }
    }
    assert stages(topology.parse(plain)) == [["ping", "pong"]]
