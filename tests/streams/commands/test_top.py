"""`cauce top`: what it finds out, what it shows of it, and that it goes on while Redis is away."""

from __future__ import annotations

import io
import json
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from datetime import datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from conftest import Server
from protocol import a_consumer, a_topology, say
from rich.console import Console

from bench.ports import free_port
from processors.egress import breaker
from streams import metrics, probe
from streams.commands import top
from streams.commands.counters import Counters
from streams.commands.frame import SPARKS, Frame, Stream, draw
from streams.connection import Store
from streams.errors import Unavailable
from streams.pulse import Server as Told
from streams.settings import Secret, Settings
from streams.stores import Stores
from tests.ingress.front import OPERATOR, TOKEN, front, secret

ROOT = Path(__file__).parents[3]
NOWHERE = f"http://127.0.0.1:{free_port()}"


def a_looker(stores: Stores, base: str = NOWHERE, **settings: object) -> top.Looker:
    ours = Settings(**settings)  # type: ignore[arg-type]
    return top.Looker(stores, a_topology(), ours, Counters(ours, base), "redis://:secret@here:6379")


def shown(frame: Frame) -> str:
    console = Console(file=io.StringIO(), width=120)
    console.print(draw(frame, hint="q quits"))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_past_of_a_stream_grows_from_the_right_and_shows_its_last_seconds() -> None:
    past = [9.0] * SPARKS + [0.0] * (SPARKS - 3) + [1.0, 4.0, 8.0]
    server = Told(name="Redis", version="7.0.15", memory_bytes=1, limit_bytes=0, ops=0)
    for seen in (past, past[-3:]):
        streams = {"inbound": Stream(entries=1, dead=0, per_s=8.0, past=seen)}
        [line] = [line for line in shown(Frame(at="", where="", redis=server, streams=streams)).splitlines()
                  if line.startswith("inbound")]  # fmt: skip
        assert line.rstrip().endswith(f"8.0{' ' * (SPARKS - 3)}  ▁▄█")


async def test_what_came_since_the_last_look_is_a_rate(store: Store) -> None:
    await a_consumer(store)
    looker = a_looker(Stores.alone(store))
    assert (await looker.look()).streams["inbound"].per_s is None
    await say(store, "+1")
    await say(store, "+2")
    frame = await looker.look()
    assert frame.streams["inbound"].per_s > 0
    assert frame.groups["g"].per_s == 0  # nobody has settled anything
    assert (frame.groups["g"].lag, frame.groups["g"].workers) == (2, 0)
    text = shown(frame)
    assert "█" in text
    assert "secret" not in text


async def test_rates_of_messages_are_the_ingresss_and_where_it_is_away_that_is_said(store: Store) -> None:
    stores = Stores.alone(store)
    async with probe.serve(0, ready=lambda: True, host="127.0.0.1") as port:
        looker = a_looker(stores, f"http://127.0.0.1:{port}")
        metrics.MESSAGES.labels("accepted").inc(5)
        await looker.look()
        metrics.MESSAGES.labels("accepted").inc(5)
        frame = await looker.look()
    assert frame.rates["messages"]["accepted"] > 0
    assert frame.ingress == ""
    assert "/s accepted" in shown(frame)
    away = await a_looker(stores).look()
    assert NOWHERE in away.ingress
    assert "messages  not known" in shown(away)


@pytest.mark.slow
async def test_who_may_not_ask_the_ingress_is_told_what_it_wants(store: Store) -> None:
    tokens = {"ingress_tokens": secret(TOKEN), "operator_tokens": secret(OPERATOR)}
    async with front(store, **tokens) as door:
        stranger = Counters(Settings(ingress_tokens=secret(TOKEN)), door.url)
        assert await stranger.look() is None
        assert "OPERATOR_TOKENS" in stranger.trouble
        assert await Counters(Settings(**tokens), door.url).look() is not None


async def test_it_is_as_late_as_timezone_says(store: Store) -> None:
    zone = ZoneInfo("Asia/Kolkata")
    before = datetime.now(zone).strftime("%H:%M:%S")
    at = (await a_looker(Stores.alone(store), timezone="Asia/Kolkata").look()).at
    after = datetime.now(zone).strftime("%H:%M:%S")
    assert at in (before, after)


async def test_the_breaker_is_seen(store: Store) -> None:
    url = "http://n8n.example/hook"
    looker = a_looker(Stores.alone(store), outbound_url=Secret(url))
    assert "delivering" in shown(await looker.look())
    await store.command("HSET", breaker.key_of(store, url), "state", "gone")
    assert "until `cauce breaker close`" in shown(await looker.look())


@pytest.mark.slow
async def test_while_redis_is_away_the_last_frame_says_so_and_then_it_goes_on(own_server: Server) -> None:
    stores = Stores.open(own_server.url, patience=0.2)
    await say(stores.first, "+1")
    looker = a_looker(stores)
    before = await looker.look()
    own_server.kill()
    away = await looker.look()
    assert away.trouble
    assert (away.at, away.streams) == (before.at, before.streams)
    assert "trying again" in shown(away)
    with pytest.raises(Unavailable):
        await top.run(looker, once=True, as_json=False)
    own_server.start()
    back = await looker.look()
    assert back.trouble == ""
    assert back.streams["inbound"].entries == 1
    await stores.close()


async def test_a_server_that_is_silent_is_not_waited_for(own_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top, "PATIENCE", 0.2)
    stores = Stores.open(own_server.url)
    looker = a_looker(stores)
    await looker.look()
    assert own_server.process is not None
    own_server.process.send_signal(signal.SIGSTOP)
    try:
        assert "has not answered" in (await looker.look()).trouble
    finally:
        own_server.process.send_signal(signal.SIGCONT)
    assert (await looker.look()).trouble == ""
    await stores.close()


async def test_once_is_one_frame_for_people_or_for_machines(store: Store, capsys, monkeypatch) -> None:
    monkeypatch.setattr(top, "EVERY", 0.01)
    looker = a_looker(Stores.alone(store))
    await top.run(looker, once=True, as_json=True)
    frame = json.loads(capsys.readouterr().out)
    assert frame["groups"]["g"]["per_s"] == 0
    monkeypatch.delenv("COLUMNS", raising=False)
    await top.run(looker, once=False, as_json=False)  # no terminal
    text = capsys.readouterr().out
    [messages] = [line for line in text.splitlines() if line.startswith("messages")]
    assert messages.endswith(looker._trouble())  # whole, however wide
    assert text.count("cauce top") == 1
    assert "q quits" not in text


async def test_the_models_batch_is_seen_and_who_waits_before_it(store: Store) -> None:
    turns = await a_consumer(store)
    await turns.take(1, 1, 1)
    told = {"name": "demo", "slots": 4, "running": 4, "waiting": 3}
    await store.command("SET", f"model:{turns.consumer}", json.dumps(told))
    looker = a_looker(Stores.alone(store))
    await looker.look()
    assert "demo: 4 of 4 places, 3 waiting" in shown(await looker.look())


@pytest.mark.slow
def test_on_a_terminal_q_quits_and_leaves_it_as_it_was(any_server: Server, store: Store, tmp_path: Path) -> None:
    shutil.copy(ROOT / "streams.toml", tmp_path)
    keyboard, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "top"], cwd=tmp_path, env={**os.environ, "REDIS_URL": any_server.url},
        stdin=terminal, stdout=terminal, stderr=terminal,
    )  # fmt: skip
    try:
        read_until(keyboard, b"q quits")
        os.write(keyboard, b"q")
        read_until(keyboard, b"\x1b[?1049l")  # the screen of before
        assert process.wait(timeout=20) == 0
        assert termios.tcgetattr(terminal) == before
    finally:
        process.kill()
        process.wait()
        os.close(keyboard)
        os.close(terminal)


def read_until(keyboard: int, wanted: bytes) -> None:
    said, end = b"", time.monotonic() + 30
    while wanted not in said:
        assert time.monotonic() < end, said
        if select.select([keyboard], [], [], 0.1)[0]:
            said += os.read(keyboard, 65536)
