"""The file of a run: whose it is, how long it stays, what of it is one act."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest

from streams.effects import Write
from streams.errors import ConfigurationError
from streams.lab import runs
from streams.lab.replayed import WANTED, Input, Output, Planned, Result
from streams.lab.runs import Run


def entry(key: str, ms: int, trace: str = "", mark: int = 0) -> Input:
    return Input(key, ms, 0, key, "text", b"{}", "1", trace, mark=mark)


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    run = Run(tmp_path / "replays", "x")
    assert run.path.parent.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in run.path.parent.iterdir())
    run.close()


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "replays").write_text("a file")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        Run(tmp_path / "replays", "x")
    (tmp_path / "x.db").write_text("no database, though long enough to be taken for one" * 20)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Run(tmp_path, "x")


def test_what_a_turn_wrote_and_its_result_are_there_together_or_not_at_all(tmp_path: Path) -> None:
    run = Run(tmp_path, "x")
    run.plan([Planned(0, 5, "+1", (1, 0), (2, 0), None, chosen=True)])
    [turn] = run.due((-1, -1), 10)
    with contextlib.suppress(ZeroDivisionError), run.act():
        run.write("new", "+1", 5, [Write(kind="own", value=b"1")])
        run.done(turn.number, Result(turn.number, "same", "", b"[]", 1.0))
        raise ZeroDivisionError
    run.close()
    again = Run(tmp_path, "x")
    assert again.state("new", "+1", 5) == {}
    assert again.due((-1, -1), 10) == [turn]
    assert again.verdicts() == {}
    again.close()


def test_state_ends_when_its_time_is_over_by_the_clock_of_the_log(tmp_path: Path) -> None:
    run = Run(tmp_path, "x")
    run.write("new", "+1", 1000, [Write(kind="a", value=b"1", ttl_seconds=1), Write(kind="b", value=b"2")])
    assert run.state("new", "+1", 1999) == {"a": b"1", "b": b"2"}
    assert run.state("new", "+1", 2000) == {"b": b"2"}
    run.write("new", "+1", 2000, [Write(kind="b")])
    assert run.state("new", "+1", 2000) == {}
    run.close()


def test_an_output_is_of_the_turn_that_its_id_names_or_else_its_trace(tmp_path: Path) -> None:
    run = Run(tmp_path, "x")
    run.add_inputs([entry("+3", 4, "d"), entry("+4", 3, "d")])
    run.add_inputs(
        [entry("+1", 1, "a"), entry("+1", 2, "b"), entry("+1", 8, "b"), entry("+2", 2, "c"), entry("5-0 +2", 5)]
    )
    run.add_outputs(
        [
            Output("outbound", 6, 0, "+1", "reply", b"by id", trace="a", cut=(2, 0)),
            Output("outbound", 6, 1, "+2", "reply", b"of another of the same id", cut=(2, 0)),
            Output("other", 7, 0, "?", "x", b"by trace, the last that had come", trace="b"),
            Output("other", 7, 0, "?", "x", b"of an entry that is a turn of its own", cut=(5, 0)),
            Output("other", 7, 0, "+1", "x", b"an id that is none of ours", trace="a", cut=(99, 0)),
            Output("other", 7, 0, "+4", "x", b"of one of several people of one request", trace="d", cut=(2, 9)),
            Output("other", 7, 0, "+1", "x", b"of nobody", trace="zzz"),
        ]
    )
    run.index()
    found = {each.body.decode(): (key, each.cut) for key in ("+1", "+2", "+4", "5-0 +2") for each in run.outputs(key)}
    assert found == {
        "by id": ("+1", (2, 0)),
        "of another of the same id": ("+2", (2, 0)),
        "by trace, the last that had come": ("+1", (2, 0)),
        "of an entry that is a turn of its own": ("5-0 +2", (5, 0)),
        "an id that is none of ours": ("+1", (1, 0)),
        "of one of several people of one request": ("+4", (3, 0)),
    }
    run.close()


def test_what_was_taken_twice_is_there_once_and_stays_wanted(tmp_path: Path) -> None:
    run = Run(tmp_path, "x")
    run.add_inputs([entry("+1", 1, mark=WANTED)])
    run.add_inputs([entry("+1", 1), entry("+1", 2)])
    assert [(each.ms, each.mark) for each in run.inputs("+1")] == [(1, WANTED), (2, 0)]
    run.close()


def test_everything_is_in_the_order_of_the_log_though_it_was_read_shard_by_shard(tmp_path: Path) -> None:
    run = Run(tmp_path, "x")
    for shard in (("+1", 1, 5), ("+2", 2, 3)):
        run.add_inputs([entry(shard[0], ms) for ms in shard[1:]])
        run.add_outputs([Output("outbound", ms + 1, 0, shard[0], "reply", b"{}") for ms in shard[1:]])
    assert [each.ms for each in run.everything()] == [1, 2, 3, 5, 2, 3, 4, 6]
    run.close()


def test_a_run_that_nobody_has_touched_for_a_week_goes(tmp_path: Path) -> None:
    for name, age in (("old", 8), ("young", 6)):
        Run(tmp_path, name).close()
        at = time.time() - age * 86_400
        for path in tmp_path.glob(f"{name}.db*"):
            os.utime(path, (at, at))
    assert runs.forget_old(tmp_path) == ["old"]
    assert [path.stem for path in tmp_path.glob("*.db")] == ["young"]
