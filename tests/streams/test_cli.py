"""The command line: what it refuses, what it shows, what it loads."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Server, named
from sources import command
from up import Up

from streams import cli, layout, signature, wire
from streams.commands import check, dead, entry
from streams.connection import Store, entries
from streams.deadletters import Letter
from streams.memory import Memory
from streams.settings import Settings
from streams.stores import Stores

ROOT = Path(__file__).parents[2]
NUMBER = "+59112345678"
Cauce = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cauce(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cauce:
    """
    Run a command in a folder with the shipped streams.toml and a clean environment.

    Commands that would change this process for good (logging, signals) run in one of their own, the others here, on a
    thread that may have a loop of its own.
    """
    shutil.copy(ROOT / "streams.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("typer.main.get_command", command)
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PYTHONPATH")}

    def here(arguments: list[str], given: str) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["cauce", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()
            except SystemExit as end:
                return subprocess.CompletedProcess(arguments, int(end.code or 0), out.getvalue(), err.getvalue())
        raise AssertionError("a command ends the process")

    def run(*arguments: str, given: str = "", **environ: str) -> subprocess.CompletedProcess[str]:
        environ = {**kept, "MODEL": "echo", **environ}
        if {"up", "ingress", "work"} & set(arguments):
            return subprocess.run(
                [sys.executable, "-m", "streams.cli", *arguments], env=environ, text=True, capture_output=True,
                timeout=60, check=False,
            )  # fmt: skip
        for name in os.environ.keys() - environ.keys():
            monkeypatch.delenv(name)
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(here, list(arguments), given).result()

    return run


def assert_one_line(refused: subprocess.CompletedProcess[str], *words: str) -> None:
    assert refused.returncode == 2, refused.stderr
    assert len(refused.stderr.splitlines()) == 1, refused.stderr
    assert "Traceback" not in refused.stderr
    for word in words:
        assert word in refused.stderr


def test_help_loads_neither_a_model_nor_a_server() -> None:
    code = """
import sys
from streams import cli
sys.argv[0] = "cauce"
try:
    cli.main()
except SystemExit:
    pass
heavy = {"torch", "transformers", "uvicorn", "starlette", "aiohttp", "redis", "rich", "prometheus_client"}
sys.stderr.write(" ".join(sorted(heavy & sys.modules.keys())))
"""
    shown = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert "Commands:" in shown.stdout
    assert shown.stderr == ""


def test_the_version_is_the_distributions(cauce) -> None:
    from importlib.metadata import version

    assert cauce("--version").stdout == f"cauce {version('cauce')}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["status"], ["tail", "outbound"], ["chat"], ["work", "inference"], ["ingress"], ["dead", "list"]],
    ids=" ".join,
)
def test_without_a_running_pipeline_a_command_says_how_to_start_one(cauce, arguments) -> None:
    assert_one_line(cauce(*arguments), "start `cauce up`, or set REDIS_URL")


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["status"], ["tail", "inbound"], pytest.param(["work", "egress"], marks=pytest.mark.slow)],
    ids=" ".join,
)
def test_a_redis_that_is_not_there_is_one_line(cauce, arguments) -> None:
    refused = cauce(*arguments, REDIS_URL="redis://:pa55word@127.0.0.1:1/0")
    assert_one_line(refused, "Redis cannot be reached")
    assert "pa55word" not in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", ["up", "ingress", "status"])
def test_production_takes_the_embedded_redis_only_where_it_is_asked_for(cauce, command) -> None:
    assert_one_line(cauce(command, ENVIRONMENT="production"), "REDIS_URL=embedded")


def test_an_unknown_key_in_streams_toml_is_one_line_with_the_nearest_spelling(cauce, tmp_path) -> None:
    text = (tmp_path / "streams.toml").read_text().replace("debounce =", "debouce =")
    (tmp_path / "streams.toml").write_text(text)
    assert_one_line(cauce("up"), "streams.toml", "debouce", "did you mean 'debounce'?")


def test_a_bad_setting_is_one_line_with_what_is_accepted(cauce) -> None:
    assert_one_line(cauce("up", DEBOUNCE="soon"), "DEBOUNCE = 'soon'", "number of seconds")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["work", "inferrence"], ["no group 'inferrence'", "did you mean 'inference'?"]),
        (["tail", "outbond"], ["no stream 'outbond'", "did you mean 'outbound'?"]),
        (["tail", "outbound", "--from", "yesterday"], ["--from 'yesterday'"]),
        (["--config", "nowhere.toml", "check"], ["nowhere.toml"]),
        (["send", "nowhere.json", "--url", "http://127.0.0.1:1"], ["nowhere.json"]),
        (["send", "streams.toml", "--url", "http://127.0.0.1:1"], ["no JSON"]),
        (["chat", "--url", "ftp://somewhere"], ["no http:// or https:// address"]),
        (["breaker", "show"], ["OUTBOUND_URL is not set"]),
        (["dead", "list", "inbond"], ["no stream 'inbond'", "did you mean 'inbound'?"]),
        (["dead", "redrive"], ["say which dead letters", "--all"]),
        (["dead", "drop", "1-1", "--all"], ["leave filters and --all out"]),
        (["dead", "drop", "yesterday"], ["'yesterday' is no dead letter's id"]),
        (["dead", "redrive", "--since", "yesterday"], ["--since 'yesterday' is no time", "2h"]),
        (["dead", "redrive", "--person", "a/b"], ["--person must not contain '/'"]),
        (["replay", "--into", "trial", "--model", "x"], ["--into replays nothing, so leave --model out"]),
        (["export", "inferrence", "x.jsonl"], ["no group 'inferrence'", "did you mean 'inference'?"]),
        (["export", "inference", "x.jsonl", "--group", "egress"], ["one group and one file: cauce export inference"]),
        (["replay", "--resume", "x", "--dead"], ["--resume goes on with what the run was asked"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_what_is_misspelt_is_one_line(cauce, any_server, arguments, words) -> None:
    assert_one_line(cauce(*arguments, REDIS_URL=any_server.url, given="Hola\n"), *words)


def test_nothing_at_the_ingress_is_one_line(cauce) -> None:
    refused = cauce("chat", "--url", "http://127.0.0.1:1", given="Hola\n")
    assert_one_line(refused, "nothing answers at http://127.0.0.1:1", "cauce up")


@pytest.mark.parametrize("command", ["check", "status", "up"])
def test_a_file_that_was_asked_for_must_be_there(cauce, command) -> None:
    refused = cauce("--env-file", "nosuch.env", command)
    assert refused.returncode == 2
    assert "nosuch.env: no such file" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_a_process_of_cauce_up_is_led_to_the_files_that_were_named(tmp_path) -> None:
    assert entry.Place(Path("x.toml"), None).arguments == ["--config", "x.toml"]
    assert entry.Place(Path("x.toml"), Path("x.env")).arguments == ["--config", "x.toml", "--env-file", "x.env"]


def test_secrets_can_be_appended_to_a_file_without_a_final_newline(cauce, tmp_path) -> None:
    (tmp_path / ".env").write_text("MODEL=echo")
    with (tmp_path / ".env").open("a") as file:
        file.write(cauce("secrets").stdout)
    assert re.search(r"tokens +2", cauce("check").stdout)


def test_secrets_are_long_and_the_webhooks_key_can_be_typed_into_n8n(cauce, tmp_path) -> None:
    made = dict(line.split("=", 1) for line in cauce("secrets").stdout.split())
    assert made.keys() == {"INGRESS_TOKENS", "OPERATOR_TOKENS", "OUTBOUND_SECRET"}
    assert len(made["INGRESS_TOKENS"]) >= 24
    assert made["INGRESS_TOKENS"] != made["OPERATOR_TOKENS"]
    key = base64.b64decode(made["OUTBOUND_SECRET"].removeprefix("whsec_"))
    assert key == signature.key_of(made["OUTBOUND_SECRET"])
    assert len(key) >= 24
    assert key.decode("ascii").isprintable()
    # And `cauce secrets >> .env` is all there is to do
    (tmp_path / ".env").write_text(cauce("secrets").stdout)
    assert re.search(r"tokens +2", cauce("check").stdout)


async def put(server: Server, stream: str, body: wire.Inbound | wire.Reply, **fields: str) -> None:
    store = Store.open(server.url)
    more = [part for pair in fields.items() for part in pair]
    await store.command(
        "XADD", stream, "*", "key", body.user_id, "type", "text", "body", wire.encode(body), "v", "1", *more
    )
    await store.close()


async def test_status_shows_streams_groups_and_who_has_no_worker(cauce, any_server, store) -> None:
    await put(any_server, "inbound", wire.Inbound(user_id=NUMBER, message_id="m1", text="Hola"))
    await store.command("HSET", "groups", long := "a-name-of-some-length-" * 9, '{"reads":"inbound","handler":"a:b"}')
    shown = cauce("status", REDIS_URL=any_server.url).stdout
    assert re.search(r"inbound +1 +0", shown)
    # Dead letters are a stream's: beside each group that reads it they would look like several
    assert re.findall(r"(?m)^.* dead *$", shown) == [next(line for line in shown.splitlines() if "entries" in line)]
    # Whole lines, where they go into a pipe
    assert "inference has no worker: start one with `cauce work inference`\n" in shown
    assert f"{long}: is registered" in shown
    assert f"`cauce group drop inbound {long}`\n" in shown
    assert long in cauce("group", "list", REDIS_URL=any_server.url).stdout
    plain = json.loads(cauce("status", "--json", REDIS_URL=any_server.url).stdout)
    assert plain["groups"]["inference"]["lag"] == 1
    assert plain["groups"]["inference"]["workers"] == 0
    assert plain["streams"]["inbound"] == {"length": 1, "dead": 0}
    assert plain["redis"]["version"]


async def test_tail_shows_what_was_said_and_masks_who_said_it(cauce, any_server, store) -> None:
    await put(any_server, "inbound", wire.Inbound(user_id=NUMBER, message_id="wamid.HBgLNTk=", text="Hola\x1b[2J"))
    tail = ("tail", "inbound", "--from", "start", "-n", "1")
    shown = cauce(*tail, REDIS_URL=any_server.url).stdout
    assert "+591…678" in shown
    assert "Hola" in shown
    assert "\x1b" not in shown
    plain = cauce(*tail, "--json", REDIS_URL=any_server.url).stdout
    assert NUMBER[1:] not in plain
    assert "HBgLNTk" not in plain
    assert json.loads(plain)["body"]["text"] == "Hola\x1b[2J"
    full = json.loads(cauce(*tail, "--json", "--full", REDIS_URL=any_server.url).stdout)
    assert (full["key"], full["body"]["message_id"]) == (NUMBER, "wamid.HBgLNTk=")


async def test_times_are_shown_by_the_clock_by_which_they_are_typed(cauce, any_server, store) -> None:
    # Given an entry and a letter of 10:17:36 UTC
    at, fields = "1728123456789", ("key", NUMBER, "type", "text", "body", "{}")
    await store.command("XADD", "inbound", f"{at}-0", *fields)
    header = ("origin", f"{at}-0", "group", "inference", "reason", "no", "attempts", "1", "first_ms", at, "last_ms", at)
    await store.command("XADD", "inbound.dead", f"{at}-7", *header, *fields)
    there = {"REDIS_URL": any_server.url, "TIMEZONE": "Asia/Kolkata"}
    # Then everything shows the time that it was in India
    for words in (["tail", "inbound", "--from", "start", "-n", "1"], ["dead", "list"], ["dead", "show", f"{at}-7"],
                  ["trace", f"{at}-0"], ["trace", NUMBER, "--since", "20y"]):  # fmt: skip
        assert "15:47:36" in cauce(*words, **there).stdout, words
    assert "goes back to 2024-10-05 15:47:36" in cauce("trace", "nothing", **there).stderr
    # And from that time on it is found
    for since in ("2024-10-05T15:47:36", at):
        assert "15:47:36" in cauce("tail", "inbound", "--from", since, "-n", "1", **there).stdout
    assert "15:47:36" in cauce("dead", "list", "--since", "2024-10-05T15:47:36", **there).stdout
    assert cauce("dead", "list", "--since", "2024-10-05T15:47:37", **there).stdout == ""


async def test_tail_follows_what_comes_after_it_started(cauce, any_server, store) -> None:
    await put(any_server, "inbound", wire.Inbound(user_id="web-1", message_id="m1", text="before"))
    entry = cauce("tail", "inbound", "--from", "start", "-n", "1", "--json", REDIS_URL=any_server.url).stdout
    await put(any_server, "inbound", wire.Inbound(user_id="web-1", message_id="m2", text="after"))
    since = json.loads(entry)["id"]
    shown = cauce("tail", "inbound", "--from", since, "-n", "1", REDIS_URL=any_server.url).stdout
    assert "after" in shown
    assert "before" not in shown


async def bury(
    server: Server, person: str, text: str, reason: str, stream: str = "inbound", shards: int = 1, id: str = "*"
) -> str:
    """As settle.lua does; the letter's id."""
    stores = Stores.open(server.url, shards=shards)
    store = stores.of(person)
    group = "inference" if stream == "inbound" else "egress"
    await store.command("HSET", store.keys.of("groups"), group, json.dumps({"reads": stream}))
    body = wire.encode(wire.Inbound(user_id=person, message_id="wamid.HBgLNTk=", text=text))
    given = await store.command(
        "XADD", store.keys.dead(stream), id, "origin", "1728123456789-0", "group", group, "reason", reason,
        "attempts", "5", "first_ms", "1728123456800", "last_ms", "1728123470000",
        "key", person, "type", "text", "body", body, "v", "1", "received", "1728123456788",
    )  # fmt: skip
    await stores.close()
    return str(given.decode())


async def test_dead_letters_are_listed_with_their_reason(cauce, any_server, store) -> None:
    await bury(any_server, NUMBER, "Hola", "ValueError: no")
    await bury(any_server, "web-7", "Adiós", "503 from n8n", "outbound")
    shown = cauce("dead", "list", REDIS_URL=any_server.url).stdout
    assert "inbound.dead" in shown
    assert "inference, 5 attempts:  ValueError: no" in shown
    assert "+591…678" in shown
    assert NUMBER not in shown
    assert "outbound.dead" in shown
    # And those that are meant, and no others
    only = cauce("dead", "list", "--reason", "valueerror", "--person", "591 123-45678", REDIS_URL=any_server.url).stdout
    assert "Hola" in only
    assert "Adiós" not in only
    none = cauce("dead", "list", "inbound", "--until", "1h", REDIS_URL=any_server.url)
    assert (none.stdout, none.stderr) == ("", "no dead letters\n")
    assert "Hola" in cauce("dead", "list", "--since", "1h", REDIS_URL=any_server.url).stdout
    # Of a group that there is not, it is said which there are
    for words in (("list",), ("redrive", "--yes"), ("drop", "--dry-run")):
        slip = cauce("dead", *words, "--group", "inferrence", REDIS_URL=any_server.url)
        assert_one_line(slip, "there is no group 'inferrence'; did you mean 'inference'?; there are: ")


async def test_a_dead_letter_is_shown_whole_and_its_body_byte_for_byte(cauce, any_server, store) -> None:
    id = await bury(any_server, NUMBER, "Hola\nAna", "ValueError: no")
    shown = cauce("dead", "show", id, REDIS_URL=any_server.url).stdout
    for told in (id, "inference", "ValueError: no", "1728123456789-0", "1728123456788", "+591…678", "Ana"):
        assert told in shown
    assert NUMBER not in shown
    assert NUMBER in cauce("dead", "show", id, "--full", REDIS_URL=any_server.url).stdout
    command = [sys.executable, "-m", "streams.cli", "dead", "show", id, "--raw"]
    environ = {**os.environ, "REDIS_URL": any_server.url}
    raw = await asyncio.to_thread(subprocess.run, command, env=environ, capture_output=True, check=True)
    assert raw.stdout == wire.encode(wire.Inbound(user_id=NUMBER, message_id="wamid.HBgLNTk=", text="Hola\nAna"))
    gone = cauce("dead", "show", "1-1", REDIS_URL=any_server.url)
    assert (gone.returncode, "no such dead letter" in gone.stderr) == (1, True)


async def test_an_id_in_two_streams_has_to_be_told_apart(cauce, any_server, store) -> None:
    for stream in ("inbound", "outbound"):
        await store.command("XADD", f"{stream}.dead", "5-5", "body", stream)
    refused = cauce("dead", "show", "5-5", REDIS_URL=any_server.url)
    assert_one_line(refused, "inbound.dead and outbound.dead", "--stream")
    assert "outbound" in cauce("dead", "show", "5-5", "--stream", "outbound", REDIS_URL=any_server.url).stdout


async def test_dead_letters_are_put_back_once_after_a_look_and_a_question(cauce, any_server, store) -> None:
    ids = [await bury(any_server, f"web-{number}", "Hola", "ValueError: no") for number in range(150)]
    redrive = ("dead", "redrive")
    # A dry run and a no do nothing
    foretold = cauce(*redrive, "--all", "--dry-run", REDIS_URL=any_server.url)
    assert (foretold.returncode, len(foretold.stdout.splitlines())) == (0, 150)
    assert "150 would be redriven" in foretold.stderr
    declined = cauce(*redrive, "--all", given="n\n", REDIS_URL=any_server.url)
    assert (declined.returncode, declined.stdout) == (1, "")
    assert "150 of inbound.dead: to be redriven? [y/N]" in declined.stderr
    assert "--yes" not in declined.stderr
    # From cron nobody answers, and what would is named
    alone = cauce(*redrive, "--all", given="", REDIS_URL=any_server.url)
    assert (alone.returncode, alone.stdout) == (1, "")
    assert "--yes does not ask\nnothing was done" in alone.stderr
    assert await store.command("XLEN", "inbound") == 0
    # One by its id, which needs no question; again it is no longer there
    assert cauce(*redrive, ids[0], REDIS_URL=any_server.url).stdout == "1 redriven\n"
    again = cauce(*redrive, ids[0], "--json", REDIS_URL=any_server.url)
    assert (again.returncode, json.loads(again.stdout)) == (1, {"redriven": 0, "gone": 1})
    # The rest
    rest = cauce(*redrive, "--group", "inference", "--json", given="y\n", REDIS_URL=any_server.url)
    assert (rest.returncode, json.loads(rest.stdout)) == (0, {"redriven": 149})
    assert await store.command("XLEN", "inbound") == 150
    assert await store.command("XLEN", "inbound.dead") == 0


async def test_who_puts_back_one_letter_of_a_turn_puts_back_the_turn(cauce, any_server, store) -> None:
    ids = [await bury(any_server, NUMBER, text, "ValueError: no") for text in ("uno", "dos", "tres")]
    other = await bury(any_server, NUMBER, "otro", "ValueError: another")
    foretold = cauce("dead", "redrive", ids[1], "--dry-run", REDIS_URL=any_server.url)
    assert len(foretold.stdout.splitlines()) == 3
    redriven = cauce("dead", "redrive", ids[2], ids[1], REDIS_URL=any_server.url)
    assert (redriven.stdout, redriven.stderr) == ("3 redriven\n", "with 1 more: of one turn, and answered together\n")
    back = entries(await store.command("XRANGE", "inbound", "-", "+"))
    assert [json.loads(fields["body"])["text"] for _, fields in back] == ["uno", "dos", "tres"]
    # Each then says as what it came back
    for id, (became, _) in zip(ids, back, strict=True):
        for verb in ("show", "redrive"):
            gone = cauce("dead", verb, id, REDIS_URL=any_server.url)
            assert (gone.returncode, f"redriven, as {became} of inbound" in gone.stderr) == (1, True)
    # Whoever lets one go means that one
    assert cauce("dead", "drop", other, REDIS_URL=any_server.url).stdout == "1 dropped\n"


async def test_more_letters_than_a_call_takes_split_no_turn() -> None:
    letters = [
        Letter(stream="inbound", id=f"{number}-0", group="g", last_ms=str(number // 3), fields=[(b"key", b"+1")])
        for number in range(150)
    ]
    calls = list(dead._calls(letters[::-1]))
    assert [len(call) for call in calls] == [33, 17]
    assert [id for call in calls for turn in call for id in turn] == [letter.id for letter in letters]


async def test_the_dead_of_all_shards_are_one_list_and_go_back_where_they_lay(
    cauce, any_server, store, tmp_path
) -> None:
    whole = (tmp_path / "streams.toml").read_text()
    (tmp_path / "streams.toml").write_text("shards = 2\n" + whole)
    people = [f"web-{number}" for number in range(6)]
    for number, person in enumerate(people, start=1):  # two shards may number theirs alike in one millisecond
        await bury(any_server, person, "Hola", "ValueError: no", shards=2, id=f"1728123470000-{number}")
    listed = cauce("dead", "list", "-n", "4", "--json", REDIS_URL=any_server.url).stdout.splitlines()
    assert [json.loads(line)["key"] for line in listed] == people[-4:]
    assert cauce("dead", "redrive", "--all", "--yes", REDIS_URL=any_server.url).stdout == "6 redriven\n"
    stores = Stores.open(any_server.url, shards=2)
    for shard in stores:
        back = entries(await shard.command("XRANGE", shard.keys.stream("inbound"), "-", "+"))
        expected = [person for person in people if stores.of(person) is shard]
        assert expected
        assert [fields["key"].decode() for _, fields in back] == expected
    await stores.close()


@pytest.mark.slow
async def test_people_move_to_as_many_shards_as_the_file_says_after_a_question(
    cauce, any_server, store, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr("streams.layout.EVERY", 0.001)  # nobody runs who would have to be waited for
    one, three = Stores.open(any_server.url), Stores.open(any_server.url, shards=3)
    await layout.agree(one)
    people = [f"web-{number}" for number in range(12)]
    for person in people:
        await store.command("SET", one.first.keys.of("conversation", person), person)
    assert cauce("reshard", REDIS_URL=any_server.url).stdout == "nothing to do: shards = 1\n"
    # When the file says another number, then nobody moves who was not told to, and nothing else runs with it
    whole = (tmp_path / "streams.toml").read_text()
    (tmp_path / "streams.toml").write_text("shards = 3\n" + whole)
    assert_one_line(cauce("work", "inference", REDIS_URL=any_server.url), "shards = 3", "cauce reshard")
    declined = cauce("reshard", given="n\n", REDIS_URL=any_server.url)
    assert (declined.returncode, declined.stdout) == (2, "")
    assert "From 1 to 3 shards" in declined.stderr
    assert await layout.compare(one)
    # And who says yes finds everybody at their new place
    moved = cauce("reshard", given="y\n", REDIS_URL=any_server.url)
    assert (moved.returncode, moved.stdout) == (0, "moved to 3 shards; start everything again\n")
    for person in people:
        there = three.of(person)
        assert await there.command("GET", there.keys.of("conversation", person)) == person.encode()
    assert await layout.compare(three)
    assert cauce("reshard", "--yes", REDIS_URL=any_server.url).stdout == "nothing to do: shards = 3\n"
    # And where one was cut off only the same one goes on
    left = wire.encode(layout.Layout(shards=3, tagged=True, moving_to=2))
    await store.command("SET", three.layout.keys.of("layout"), left)
    assert_one_line(cauce("reshard", "--yes", REDIS_URL=any_server.url), "a move to 2 shards was cut off")
    for stores in (one, three):
        await stores.close()


async def test_what_cannot_be_put_back_says_why(cauce, any_server, store) -> None:
    id = await bury(any_server, "web-1", "Hola", "ValueError: no")
    await store.command("DEL", "groups")
    refused = cauce("dead", "redrive", "--all", "--yes", REDIS_URL=any_server.url)
    assert (refused.returncode, refused.stdout) == (1, "0 redriven\n")
    assert refused.stderr == f"{id}: no group 'inference' reads its stream; `cauce work inference` makes one\n"


async def test_dead_letters_are_dropped_by_what_they_have_in_common(cauce, any_server, store) -> None:
    for person in ("web-1", "web-2", "web-1"):
        await bury(any_server, person, "Hola", "ValueError: no")
    dropped = cauce("dead", "drop", "--person", "web-1", "--yes", REDIS_URL=any_server.url)
    assert (dropped.returncode, dropped.stdout) == (0, "2 dropped\n")
    assert "web-2" in cauce("dead", "list", REDIS_URL=any_server.url).stdout
    assert await store.command("XLEN", "inbound.dead") == 1


async def test_the_breaker_is_shown_and_closed(cauce, any_server, store) -> None:
    from processors.egress import breaker

    url = "http://127.0.0.1:1/webhook/x"
    environ = {"REDIS_URL": any_server.url, "OUTBOUND_URL": url}
    assert cauce("breaker", "show", **environ).stdout.startswith("closed")
    await store.command("HSET", breaker.key_of(store, url), "state", "gone")
    assert "answered 410" in cauce("breaker", "show", **environ).stdout
    assert cauce("breaker", "close", **environ).stdout == "closed\n"
    assert cauce("breaker", "close", **environ).stdout == "it was closed already\n"


def test_check_of_a_fresh_clone_finds_nothing_wrong(cauce) -> None:
    looked = cauce("check")
    assert looked.returncode == 0, looked.stdout + looked.stderr
    assert "`cauce up` will start" in looked.stdout


def test_check_looks_at_the_redis_in_use_and_says_what_it_lacks(cauce, each_server, each_binary) -> None:
    looked = cauce("check", "--json", REDIS_URL=each_server.url)
    findings = {finding["subject"]: finding for finding in json.loads(looked.stdout)}
    assert looked.returncode == 0
    assert [findings[name]["verdict"] for name in ("maxmemory-policy", "appendonly")] == ["good", "warning"]
    # It says what server it is as the server says itself; one that is not in the docs yet is only warned of
    assert findings["Redis"]["text"].lower().startswith(named(each_binary).replace("-", " "))
    assert findings["Redis"]["verdict"] in ("good", "warning")


@pytest.mark.parametrize(
    "command",
    [["trace", "wamid…0a1b2c3d"], ["erase", "+591…678"], ["replay", "--user", "+591…678"],
     *(pytest.param(command, marks=pytest.mark.slow) for command in (
         ["trace", "m1", "--user", "+591…678"], ["dead", "list", "--person", "+591…678"],
         ["tail", "inbound", "--user", "+591…678"]))],
    ids=" ".join,
)  # fmt: skip
def test_who_is_named_as_a_log_masks_them_is_told_how_to_see_them_whole(cauce, any_server, command) -> None:
    assert_one_line(cauce(*command, REDIS_URL=any_server.url), "is masked", "--full")


@pytest.mark.parametrize(
    ("environ", "subject"),
    [
        ({"MODEL": "./nowhere"}, "MODEL"),
        ({"MODEL": "dmo"}, "MODEL"),
        ({"SYSTEM_PROMPT_FILE": "nowhere.md"}, "SYSTEM_PROMPT_FILE"),
        ({"MODEL": "demo", "MODEL_URL": "http://127.0.0.1:1/v1"}, "MODEL"),
        ({"MODEL": "qwen", "MODEL_URL": "models.example/v1"}, "configuration"),
        ({"OUTBOUND_SECRET": "short"}, "configuration"),
        ({"OUTBOUND_URL": "http://host:99999/x"}, "configuration"),
        ({"OUTBOUND_URL": "http://h/x", "OUTBOUND_HEADER": "Content-Type: x"}, "webhook"),
        ({"INGRESS_HOST": "192.0.2.1"}, "tokens"),
        ({"ENVIRONMENT": "production", "REDIS_URL": "embedded"}, "tokens"),
        ({"ENVIRONMENT": "production", "REDIS_URL": "embedded", "INGRESS_TOKENS": "short"}, "tokens"),
        pytest.param({"REDIS_URL": "redis://127.0.0.1:1/0"}, "Redis", marks=pytest.mark.slow),
        ({"DEBOUNCE": "soon"}, "configuration"),
    ],
    ids=str,
)
def test_check_finds_what_would_not_run(cauce, environ, subject) -> None:
    looked = cauce("check", "--json", **environ)
    assert looked.returncode == 2
    wrong = [finding["subject"] for finding in json.loads(looked.stdout) if finding["verdict"] == "wrong"]
    assert wrong == [subject]


def test_check_knows_a_folder_whose_weights_nobody_would_read(cauce, tmp_path) -> None:
    (tmp_path / "pickled").mkdir()
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (tmp_path / "pickled" / name).write_text("{}", encoding="utf-8")
    looked = cauce("check", "--json", MODEL=str(tmp_path / "pickled"))
    told = {finding["subject"]: finding for finding in json.loads(looked.stdout)}
    assert (looked.returncode, told["MODEL"]["verdict"]) == (2, "wrong")
    assert "no safetensors" in told["MODEL"]["text"]


def test_check_asks_the_servers_of_models(cauce) -> None:
    looked = cauce("check", "--json", MODEL="qwen", MODEL_URL="http://127.0.0.1:1/v1 http://me:secret@127.0.0.1:2/v1")
    told = [finding for finding in json.loads(looked.stdout) if finding["subject"] == "MODEL_URL"]
    assert [finding["verdict"] for finding in told] == ["warning", "warning"]
    assert "messages wait until it does" in told[0]["text"]
    assert "secret" not in looked.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    "environ",
    [
        {"MODEL_URL": "http://127.0.0.1:1/v1", "MODEL": "demo"}, {"OUTBOUND_SECRET": "short"}, {"MODEL": "./nowhere"},
        {"MODEL": "dmo"},
        {"OUTBOUND_URL": "http://h/x", "OUTBOUND_HEADER": "Content-Type: x"},
    ],
    ids=str,
)  # fmt: skip
def test_up_refuses_it_before_anything_is_started(cauce, environ) -> None:
    assert_one_line(cauce("up", **environ), next(reversed(environ)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "subject", "complaint"),
    [
        ('[[actions]]\nname = "x"\npatterns = ["("]\n', "actions", "actions.x.patterns = '(' is no regular expression"),
        ("[streams.inbond]\n", "streams.toml", "[streams.inbound] is missing"),
        ("[streams.inbond]\n", "streams.toml", "did you mean 'inbond'?"),
        (
            '[streams.inbound]\n[streams.outbound]\n[groups.out]\nreads = "outbound"\nturn_max = 1\norder = "none"\n'
            'handler = "processors.egress.handler:deliver"\n',
            "groups.out",
            "groups.out.order = 'none': the webhook handler delivers one reply at a time to a person; write 'key'",
        ),
    ],
)
def test_what_the_processes_want_of_streams_toml_is_checked_as_well(cauce, tmp_path, text, subject, complaint) -> None:
    (tmp_path / "streams.toml").write_text(text)
    findings = json.loads(cauce("check", "--json").stdout)
    assert [each["subject"] for each in findings if each["verdict"] == "wrong"] == [subject]
    assert_one_line(cauce("up"), complaint)


def test_check_warns_of_settings_that_contradict_each_other(cauce, tmp_path) -> None:
    (tmp_path / "streams.toml").write_text((ROOT / "streams.toml").read_text() + "[streams.x]\n[groups.x]\n" + """
reads = "x"
handler = "processors.archive.handler:deliveries"
order = "none"
batch = 100
""")  # fmt: skip
    looked = cauce("check")
    assert (looked.returncode, looked.stderr) == (0, "")
    assert re.search(r"warning +groups.x +reads 'x', to which no group writes, so it gets nothing; give", looked.stdout)


def test_check_warns_of_a_variable_that_may_be_a_slip(cauce) -> None:
    looked = cauce("check", "--json", DEBOUNSE="5")
    assert looked.returncode == 0
    [found] = [finding for finding in json.loads(looked.stdout) if finding["subject"] == "DEBOUNSE"]
    assert (found["verdict"], "did you mean 'DEBOUNCE'?" in found["text"]) == ("warning", True)


async def test_check_warns_of_a_user_who_may_not_run_info(cauce, any_server, store) -> None:
    await store.command("ACL", "SETUSER", "plain", "on", ">pw", "~*", "&*", "+@all", "-info")
    looked = cauce("check", "--json", REDIS_URL=any_server.url.replace("unix://", "unix://plain:pw@"))
    await store.command("ACL", "DELUSER", "plain")
    assert looked.returncode == 0
    [found] = [finding for finding in json.loads(looked.stdout) if finding["subject"] == "INFO"]
    assert found["verdict"] == "warning"
    assert "+info" in found["text"]


async def test_check_and_status_name_a_registered_group_that_nobody_consumes(cauce, any_server, store) -> None:
    await store.command("HSET", "groups", "archive", '{"reads":"inbound","handler":"archive:keep"}')
    await store.command("XADD", "inbound", "*", "key", "+1")
    looked = cauce("check", "--json", REDIS_URL=any_server.url)
    [found] = [finding for finding in json.loads(looked.stdout) if finding["subject"] == "groups.archive"]
    assert found["verdict"] == "warning"
    assert "`cauce group drop inbound archive`" in found["text"]
    assert json.loads(cauce("status", "--json", REDIS_URL=any_server.url).stdout)["deserted"].keys() == {"archive"}
    assert "what it has not settled is kept (1 entry of inbound)" in " ".join(
        cauce("status", REDIS_URL=any_server.url).stdout.split()
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [["work", "egress"], ["up"], ["check"]], ids=" ".join)
async def test_a_group_that_reads_another_stream_after_a_restart_is_refused(cauce, any_server, store, command) -> None:
    # Given a group that has read one stream, and streams.toml that has it read another
    await store.command("HSET", "groups", "egress", '{"reads":"inbound","handler":"a:b"}')
    refused = cauce(*command, REDIS_URL=any_server.url, INGRESS_PORT="0", DATA_DIR="elsewhere")
    # Then nothing starts, and one line says why and what to do; what Redis knows of it stays
    assert refused.returncode == 2
    [why] = [line for line in refused.stderr.splitlines() if "reads = 'outbound'" in line]
    assert "it has read 'inbound' until now" in why
    assert "`cauce group drop inbound egress`" in why
    assert b'"reads":"inbound"' in await store.command("HGET", "groups", "egress")
    # When it is forgotten, the new one may start
    assert cauce("group", "drop", "inbound", "egress", "--yes", REDIS_URL=any_server.url).returncode == 0
    assert "has read" not in (looked := cauce("check", REDIS_URL=any_server.url)).stdout + looked.stderr


async def test_a_group_is_listed_and_dropped_once_somebody_has_said_yes(cauce, any_server, store) -> None:
    await store.command("HSET", "groups", "archive", '{"reads":"inbound","handler":"a:b","when_full":"skip"}')
    await store.command("XADD", "inbound", "*", "key", "+1")
    here = {"REDIS_URL": any_server.url}
    listed = {each["name"]: each for each in json.loads(cauce("group", "list", "--json", **here).stdout)}
    assert listed.keys() == {"inference", "egress", "archive"}
    assert (listed["archive"]["workers"], listed["archive"]["lag"], listed["archive"]["registered"]) == (0, 1, True)
    assert "skip" in cauce("group", "list", **here).stdout
    # Neither on another stream, nor where the answer is no, nor where there is nobody to ask
    assert_one_line(cauce("group", "drop", "outbound", "archive", "--yes", **here), "reads inbound, not outbound")
    assert_one_line(cauce("group", "drop", "inbound", "archive", given="n\n", **here), "nothing was dropped")
    assert cauce("group", "drop", "inbound", "archive", **here).returncode != 0
    assert await store.command("HEXISTS", "groups", "archive")
    asked = cauce("group", "drop", "inbound", "archive", given="y\n", **here)
    assert (asked.returncode, "dropped; it had not settled 1 entry" in asked.stdout) == (0, True)
    assert not await store.command("HEXISTS", "groups", "archive")
    again = cauce("group", "drop", "inbound", "archive", "--yes", **here)
    assert_one_line(again, "there is no group 'archive' of inbound; there are: inference")
    assert_one_line(cauce("group", "drop", "inbund", "archive", "--yes", **here), "did you mean 'inbound'?")


@pytest.mark.slow
@pytest.mark.parametrize("command", [("group", "list"), ("status", "--json"), ("--help",)], ids=" ".join)
def test_a_full_disk_under_the_output_is_one_line(any_server, tmp_path, command) -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "streams.cli", *command], env={**os.environ, "REDIS_URL": any_server.url},
            cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (
        74, "cauce: the output cannot be written (No space left on device)\n",
    )  # fmt: skip


def test_a_configuration_that_is_no_text_is_one_line_with_its_name(cauce, tmp_path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "latin.toml").write_bytes("# configuración".encode("latin-1"))
    assert_one_line(cauce("--config", "folder.toml", "status"), "folder.toml: cannot be read (Is a directory)")
    assert_one_line(cauce("--config", "latin.toml", "status"), "latin.toml: is no UTF-8 (byte 14)")


def test_a_group_given_to_a_replay_as_an_option_is_told_where_it_goes(cauce) -> None:
    assert_one_line(cauce("replay", "--group", "egress"), "the group is the first argument: cauce replay egress")


async def test_an_export_takes_its_group_where_a_replay_does_and_as_an_option(cauce, any_server, store, tmp_path):
    await bury(any_server, "web-7", "Adiós", "503 from n8n", "outbound")
    for words in (("egress", "dead.jsonl"), ("--group", "egress", "dead.jsonl")):
        done = cauce("export", "--dead", *words, REDIS_URL=any_server.url)
        assert (done.returncode, done.stdout) == (0, "1 entry of 1 person in dead.jsonl\n")
        head, letter = map(json.loads, (tmp_path / "dead.jsonl").read_text(encoding="utf-8").splitlines())
        assert head["group"] == "egress"
        assert letter["stream"] == "outbound.dead"
        (tmp_path / "dead.jsonl").unlink()


async def test_a_group_with_a_live_worker_is_dropped_only_by_force(cauce, any_server, store) -> None:
    await store.command("HSET", "groups", "egress", '{"reads":"outbound","handler":"a:b"}')
    await store.command("HSET", "group:egress:consumers", "c1", "x")
    await store.command("SET", "group:egress:heartbeat:c1", "1")
    here = {"REDIS_URL": any_server.url}
    assert_one_line(cauce("group", "drop", "outbound", "egress", "--yes", **here), "has a live worker", "--force")
    dropped = cauce("group", "drop", "outbound", "egress", "--yes", "--force", **here)
    assert dropped.stdout.splitlines()[-1].startswith("it stands in streams.toml")


@pytest.mark.parametrize("command", [["ingress"], ["work", "egress"]], ids=" ".join)
@pytest.mark.slow
async def test_production_does_not_start_on_a_redis_that_evicts(cauce, any_server, store, command) -> None:
    await store.command("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        refused = cauce(
            *command, REDIS_URL=any_server.url, ENVIRONMENT="production", INGRESS_TOKENS="a-token-for-tests-0123456789",
            INGRESS_PORT="0", LOG_LEVEL="error",
        )  # fmt: skip
    finally:
        await store.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    assert refused.returncode == 2
    assert "maxmemory-policy is allkeys-lru" in refused.stdout + refused.stderr


def test_check_names_a_handler_that_cannot_be_imported(cauce, tmp_path) -> None:
    (tmp_path / "streams.toml").write_text('[groups.mine]\nreads = "inbound"\nhandler = "mine:handel"\n')
    (tmp_path / "mine.py").write_text("async def handle(turn): pass\n")
    looked = cauce("check")
    assert looked.returncode == 2
    assert "mine has no 'handel'; did you mean 'handle'?" in looked.stderr


@pytest.mark.parametrize(
    ("production", "policy", "verdict"),
    [
        (True, "allkeys-lru", "wrong"),
        (False, "allkeys-lru", "warning"),
        (True, None, "warning"),
        (True, "noeviction", "good"),
    ],
)
def test_a_policy_that_throws_messages_away_is_wrong_in_production(production, policy, verdict) -> None:
    where = Settings(environment="production" if production else "development")
    found = {finding.subject: finding.verdict for finding in check.eviction(where, Memory(limit=1, policy=policy))}
    assert found == {"maxmemory-policy": verdict}


@pytest.mark.parametrize(
    ("version", "verdict"), [("6.0.16", "wrong"), ("6.2.14", "good"), ("99.1.0", "warning"), ("", "wrong")]
)
def test_redis_is_too_old_before_6_2_and_one_that_nobody_tested_is_said_to_be(version, verdict) -> None:
    first = next(check.server(Settings(), {"redis_version": version}))
    assert first.verdict == verdict


@pytest.mark.parametrize(
    ("fields", "verdict", "told"),
    [
        ({"server_name": "valkey", "valkey_version": "8.0.1"}, "good", "Valkey 8.0.1"),
        ({"server_name": "valkey", "valkey_version": "99.0.0"}, "warning", "Valkey 99.0.0 has not been tested"),
        ({"dragonfly_version": "df-v1.40.1"}, "warning", "Dragonfly df-v1.40.1 has not been tested"),
    ],
)
def test_a_server_that_calls_itself_redis_for_old_clients_is_called_by_its_own_name(fields, verdict, told) -> None:
    first = next(check.server(Settings(), {"redis_version": "7.0.15", **fields}))
    assert first.verdict == verdict
    assert told in first.text


@pytest.fixture(scope="module")
def running() -> Iterator[Up]:
    """The shipped pipeline with an engine that repeats what was said."""
    folder = Path(tempfile.mkdtemp(prefix="cauce-"))
    shutil.copy(ROOT / "streams.toml", folder)
    up = Up(folder, MODEL="echo", INGRESS_TOKENS="a-token-for-the-tests-only-0123456789")
    up.base = re.sub(r"\x1b\[[0-9;]*m", "", up.until("Cauce is ready")).split()[-1]
    yield up
    up.stop()
    shutil.rmtree(folder)


@pytest.mark.slow
def test_chat_talks_to_the_running_pipeline(running) -> None:
    said = running.cauce("chat", "--url", running.base, given="Hola\n\n¿Qué tal?\n")
    assert said.returncode == 0, said.stderr
    first, second = said.stdout.splitlines()
    assert "Hola" in first
    assert "¿Qué tal?" in second


@pytest.mark.slow
def test_send_posts_files_where_they_belong(running) -> None:
    (running.folder / "chat.json").write_text(json.dumps({"user_id": NUMBER, "message": "Hola"}))
    message = {"from": NUMBER[1:], "id": "wamid.X", "timestamp": "1728123456", "type": "text", "text": {"body": "Hola"}}
    value = {
        "messaging_product": "whatsapp",
        "metadata": {"display_phone_number": "1", "phone_number_id": "2"},
        "messages": [message],
    }
    (running.folder / "hook.json").write_text(json.dumps(value))
    (running.folder / "odd.json").write_text('{"neither": "nor"}')
    sent = running.cauce("send", "--wait", "20", "chat.json", "hook.json", "--url", running.base)
    assert sent.returncode == 0, sent.stdout + sent.stderr
    first, second = sent.stdout.splitlines()
    assert first.startswith("chat.json → /chat: 200 ")
    assert json.loads(first.partition(": 200 ")[2])["status"] == "replied"
    assert json.loads(second.partition("hook.json → /whatsapp: 200 ")[2])["accepted"] == 1
    refused = running.cauce("send", "odd.json", "--url", running.base)
    assert refused.returncode == 1
    assert "/whatsapp: 4" in refused.stdout


@pytest.mark.slow
def test_status_and_check_find_the_running_pipeline_by_its_folder(running) -> None:
    groups = json.loads(running.cauce("status", "--json").stdout)["groups"]
    assert {name: group["workers"] for name, group in groups.items()} == {"inference": 1, "egress": 1}
    looked = json.loads(running.cauce("check", "--json").stdout)
    assert "wrong" not in {finding["verdict"] for finding in looked}
