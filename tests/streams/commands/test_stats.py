"""`cauce stats`: what an operator sees."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import pytest
from conftest import Server
from protocol import a_consumer, end, say

from streams import cli
from streams.connection import Store
from streams.effects import Effects, Tally

TABLE = """
[streams.inbound]
[groups.g]
reads = "inbound"
handler = "nowhere:nothing"
order = "none"
"""


@pytest.fixture
def shown(tmp_path, monkeypatch: pytest.MonkeyPatch, any_server: Server, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command over a file with one group, and hear what it says: output, errors, exit status."""
    (tmp_path / "streams.toml").write_text(TABLE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REDIS_URL", any_server.url)
    monkeypatch.setenv("TIMEZONE", "America/La_Paz")
    monkeypatch.setenv("COLUMNS", "100")

    async def run(*arguments: str) -> tuple[str, str, int]:
        def here() -> int:
            monkeypatch.setattr(sys, "argv", ["cauce", *arguments])
            with pytest.raises(SystemExit) as end:
                cli.main()
            return int(end.value.code or 0)

        status = await asyncio.to_thread(here)
        said = capsys.readouterr()
        return said.out, said.err, status

    return run


async def some_counts(store: Store) -> None:
    """Of this hour and the one before, and a message that was buried."""
    turns = await a_consumer(store, order="none", writes=[])
    now = int(time.time() * 1000)
    for hours, number in ((0, 8), (1, 1)):
        await say(store, "+1")
        [grant] = (await turns.take(1, 1, 1)).grants
        counts = {"messages_in": number, "actions.book": number, "actions.cancel": 1, "rate_limited": 1}
        tally = Tally(
            at_ms=now - hours * 3_600_000, counts=counts, distinct={"people": "+1"}, timings={"reply": 1900 * number}
        )
        await end(turns, grant, Effects(tallies=[tally]))
    await say(store, "+2")
    [grant] = (await turns.take(1, 1, 1)).grants
    await end(turns, grant, bury="400: refused")


async def test_each_name_has_its_total_and_its_bars(store: Store, shown: Any) -> None:
    await some_counts(store)
    out, err, status = await shown("stats", "g", "--since", "4h")
    assert (err, status) == ("", 0)
    told = {line.strip().partition("  ")[0]: line.split()[-2:] for line in out.splitlines()[2:]}
    assert told["people"] == ["1", "██"]
    assert told["messages in"] == ["9", "▁█"]
    assert told["book"] == ["9", "▁█"]
    assert told["p50"][0] == "s"
    assert told["g: 1 × 400"] == ["×", "400"]
    names = [line.strip().partition("  ")[0] for line in out.splitlines()[2:]]
    assert names == [
        "people", "messages in", "rate limited", "actions", "book", "cancel", "time to reply", "p50", "p95", "p99",
        "dead letters", "g", "g: 1 × 400",
    ]  # fmt: skip


async def test_machines_are_told_the_same_as_over_http(store: Store, shown: Any) -> None:
    await some_counts(store)
    out, _, status = await shown("stats", "g", "--since", "3h", "--by", "hour", "--json")
    told = json.loads(out)
    assert (status, told["by"], len(told["rows"]), told["total"]["counts"]["messages_in"]) == (0, "hour", 3, 9)
    assert told["since"].endswith("-04:00")


async def test_where_nobody_counts_it_says_how_to_switch_it_on(store: Store, shown: Any) -> None:
    out, err, status = await shown("stats")
    assert (err, status) == ("", 0)
    assert "no group counts under analytics" in out


async def test_a_group_that_counts_nothing_is_said_to_be_one(store: Store, shown: Any) -> None:
    await a_consumer(store)
    out, err, status = await shown("stats", "g")
    assert (err, status) == ("", 0)
    assert "nothing was counted in this time; what else may be: analytics" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["analitycs"], "no group counts under 'analitycs'; did you mean 'analytics'?; there are: analytics, g"),
        (["--since", "soon"], "since 'soon' is no time: write 2h, 7d"),
        (["--by", "dya"], "by 'dya' is not accepted; write minute, hour or day; did you mean 'day'?"),
        (["--since", "1h", "--until", "3h"], "since 1h lies behind until 3h, so there is nothing between them"),
        (["--since", "2100-01-01"], "since 2100-01-01 lies behind until now, so there is nothing between them"),
        (["gg"], "no group counts under 'gg'; did you mean 'g'?; there are: analytics, g"),
    ],
    ids=str,
)
async def test_what_is_misspelt_is_one_line(store: Store, shown: Any, arguments: list[str], words: str) -> None:
    out, err, status = await shown("stats", *arguments)
    assert (out, status, len(err.splitlines())) == ("", 2, 1)
    assert words in err
