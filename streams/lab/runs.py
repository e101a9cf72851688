"""
One run of a replay, in one SQLite file: what is replayed, the state it is replayed against, and what came of it.

A turn's writes and its result are one transaction, so a run that is cut off, however hard, goes on where it stood.
Knows how they lie there; nothing of Redis, of handlers, or of what a result means.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from streams.effects import Write
from streams.errors import ConfigurationError
from streams.lab.pastturns import Id
from streams.lab.replayed import WAITING, Ended, Input, Output, Planned, Result

FORM = 6
"""Of the tables; a run of another form is begun anew."""

KEPT_DAYS = 7
"""A run that nobody has touched for so long goes when another begins."""

_TABLES = """
create table if not exists told (name text primary key, value) without rowid;
create table if not exists inputs (
    key text, ms integer, seq integer, person text, type text, body blob, v text, trace text, hurried integer,
    origin text, mark integer, turn text, only text, primary key (key, ms, seq)) without rowid;
create table if not exists outputs (
    number integer primary key, stream text, ms integer, seq integer, key text, type text, body blob, v text,
    trace text, cut_ms integer, cut_seq integer, first text, named integer, turn_key text);
create table if not exists ended (
    shard integer, ms integer, seq integer, first_ms integer, first_seq integer, at_ms integer,
    limited integer, buried integer, primary key (ms, seq, shard)) without rowid;
create table if not exists turns (
    number integer primary key, at_ms integer, key text, first_ms integer, first_seq integer, ms integer, seq integer,
    ended_ms integer, chosen integer, buried integer, done integer default 0);
create table if not exists state (
    side text, key text, kind text, value blob, until_ms integer, primary key (key, side, kind)) without rowid;
create table if not exists results (
    turn integer primary key, verdict text, why text, outputs blob, took_ms real);
"""
_INDEXES = """
create index if not exists cuts on outputs (turn_key, cut_ms, cut_seq, number);
create index if not exists due on turns (at_ms, number) where done = 0;
"""


# The turn of an output: by its body's id, where it is for the turn's own key, or each entry is a turn of its own …
_RESOLVING = (
    "update outputs set turn_key = (select key from inputs where key = outputs.key and ms = cut_ms and seq = cut_seq) "
    "where cut_ms is not null",
    "update outputs set turn_key = (select key from inputs where key = cut_ms || '-' || cut_seq || ' ' || outputs.key) "
    "where turn_key is null and cut_ms is not null",
    "update outputs set turn_key = (select min(key) from inputs where key > cut_ms || '-' || cut_seq || ' ' "
    "and key < cut_ms || '-' || cut_seq || '!' and outputs.trace in (trace, '')) "
    "where turn_key is null and cut_ms is not null",
)
# … else by the trace, which it has from the last entry of its turn: of its own key, for one request brings several.
_BY_TRACE = (
    "create index if not exists traces on inputs (trace, ms, seq)",
    *(
        "update outputs set (turn_key, cut_ms, cut_seq) = (select key, ms, seq from inputs where trace = outputs.trace "  # noqa: S608 - ours
        f"{own} and (ms, seq) <= (outputs.ms, outputs.seq) order by ms desc, seq desc limit 1) "
        "where turn_key is null and trace != ''"
        for own in ("and key = outputs.key", "")
    ),
)
# Put back from the dead letters, it is there beside the one that it was, or an earlier copy of that.
_COPIES = (
    "create index if not exists firsts on outputs "
    "(stream, key, (case first when '' then ms || '-' || seq else first end))",
    "delete from outputs where first != '' and exists "
    "(select 1 from outputs as other where other.stream = outputs.stream and other.key = outputs.key "
    "and (case other.first when '' then other.ms || '-' || other.seq else other.first end) "
    "= outputs.first and (other.first = '' or other.number < outputs.number))",
)
# A file of a release before this does not tell what was put back: then it is the same reply of a turn, to the byte.
_REPEATED = (
    "delete from outputs where named and exists "
    "(select 1 from outputs as other where other.turn_key = outputs.turn_key "
    "and other.cut_ms = outputs.cut_ms and other.cut_seq = outputs.cut_seq and other.number < outputs.number "
    "and other.stream = outputs.stream and other.key = outputs.key and other.type = outputs.type "
    "and other.body = outputs.body)"
)
_SAID = "first = '', case first when '' then 0 else ms end, case first when '' then 0 else seq end, number"
"""The order within a turn: retention takes the oldest, so what is left but as a copy came before the others."""


class Run:
    """
    A run's file, held by this process.

    Raises:
        ConfigurationError: another process has it, it cannot be written, or it is none of ours.
    """

    def __init__(self, folder: Path, name: str, *, anew: bool = False) -> None:
        self.name = name
        self.path = folder / f"{name}.db"
        try:
            for each in (folder.parent, folder):
                each.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            raise ConfigurationError(f"{folder} cannot be written ({error.strerror}); set DATA_DIR") from error
        try:
            self._db = self._opened()
            if anew or self.told("form") != FORM:
                self.begin_anew()
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise ConfigurationError(f"{self.path}: another `cauce replay` is at this run") from error
            raise ConfigurationError(f"{self.path}: cannot be used ({error}); remove it") from error

    def _opened(self) -> sqlite3.Connection:
        # On one thread, though a test may close it on another.
        db = sqlite3.connect(self.path, isolation_level=None, timeout=0.5, check_same_thread=False)
        db.executescript("pragma locking_mode = exclusive; pragma journal_mode = wal; pragma synchronous = normal")
        db.executescript(f"begin exclusive; {_TABLES} commit")
        return db

    def begin_anew(self) -> None:
        with self.act():
            for table in ("told", "inputs", "outputs", "ended", "turns", "state", "results"):
                self._db.execute(f"delete from {table}")  # noqa: S608 - ours
            self.tell("form", FORM)

    def close(self) -> None:
        self._db.close()

    def remove(self) -> None:
        """Close it for good."""
        self.close()
        self.path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def act(self) -> Iterator[None]:
        """All or nothing."""
        self._db.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._db.execute("rollback")
            raise
        self._db.execute("commit")

    def tell(self, name: str, value: Any) -> None:
        """Something about the run as a whole."""
        self._db.execute("insert or replace into told values (?, ?)", (name, msgspec.json.encode(value).decode()))

    def told(self, name: str) -> Any:
        found = self._db.execute("select value from told where name = ?", (name,)).fetchone()
        return msgspec.json.decode(found[0]) if found else None

    # The log

    def add_inputs(self, inputs: Iterable[Input]) -> None:
        """What is there already stays as it is, but for its mark."""
        self._db.executemany(
            "insert into inputs values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) on conflict do update set mark = "
            "max(mark, excluded.mark)",
            inputs,
        )

    def add_outputs(self, outputs: Iterable[Output]) -> None:
        self._db.executemany(
            "insert into outputs (stream, ms, seq, key, type, body, v, trace, cut_ms, cut_seq, first, "
            "named) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            ((*output[:8], *(output.cut or (None, None)), output.first, output.cut is not None) for output in outputs),
        )

    def add_ended(self, shard: int, turns: Iterable[Ended]) -> None:
        self._db.executemany(
            "insert or ignore into ended values (?, ?, ?, ?, ?, ?, ?, ?)",
            ((shard, *turn.last, *turn.first, turn.at_ms, turn.limited, turn.buried) for turn in turns),
        )

    def ended(self, key: str, shard: int) -> Iterator[Ended]:
        """Of a key, in the stream's order."""
        rows = self._db.execute(
            "select first_ms, first_seq, ms, seq, at_ms, limited, buried from inputs join ended using (ms, seq) "
            "where key = ? and shard = ? order by ms, seq",
            (key, shard),
        )
        yield from (Ended((row[0], row[1]), (row[2], row[3]), row[4], bool(row[5]), bool(row[6])) for row in rows)

    def label(self, key: str, turn: Ended, label: str) -> None:
        """Say of the entries of a turn in which they were."""
        self._db.execute(
            "update inputs set turn = ? where key = ? and (ms, seq) >= (?, ?) and (ms, seq) <= (?, ?)",
            (label, key, *turn.first, *turn.last),
        )

    def labels(self, key: str) -> Iterator[tuple[Id, str]]:
        """Of a key, which entries say in which turn they were, and what they say."""
        rows = self._db.execute(
            "select ms, seq, turn from inputs where key = ? and turn is not null order by ms, seq", (key,)
        )
        yield from (((row[0], row[1]), row[2]) for row in rows)

    def forget_copies(self) -> None:
        """Once all is there: an output that was put back is the one that it was put back from, and counts once."""
        if self._db.execute("select 1 from outputs where first != '' limit 1").fetchone():
            for statement in _COPIES:
                self._db.execute(statement)

    def index(self) -> None:
        """Once all is there: find of each output the turn it belongs to, and forget those of none."""
        with self.act():
            for statement in _RESOLVING:
                self._db.execute(statement)
            left = self._db.execute("select 1 from outputs where turn_key is null and trace != '' limit 1").fetchone()
            for statement in _BY_TRACE if left else ():
                self._db.execute(statement)
            self._db.execute("delete from outputs where turn_key is null")
            for statement in _INDEXES.split(";"):
                self._db.execute(statement)
            self._db.execute(_REPEATED)

    def keys(self) -> Iterator[str]:
        """Whoever has said something."""
        yield from (row[0] for row in self._db.execute("select distinct key from inputs order by key"))

    def knows(self, key: str) -> bool:
        return self._db.execute("select 1 from inputs where key = ? limit 1", (key,)).fetchone() is not None

    def inputs(self, key: str, first: Id = (0, 0), last: Id = (1 << 62, 0)) -> Iterator[Input]:
        rows = self._db.execute(
            "select * from inputs where key = ? and (ms, seq) >= (?, ?) and (ms, seq) <= (?, ?) order by ms, seq",
            (key, *first, *last),
        )
        yield from map(Input._make, rows)

    def outputs(self, key: str, cut: Id | None = None) -> Iterator[Output]:
        """Of one turn, or of all of a key in their turns' order."""
        only, given = ("", ()) if cut is None else ("and cut_ms = ? and cut_seq = ?", cut)
        rows = self._db.execute(
            "select stream, ms, seq, key, type, body, v, trace, cut_ms, cut_seq from outputs "  # noqa: S608
            f"where turn_key = ? {only} order by cut_ms, cut_seq, {_SAID}",
            (key, *given),
        )
        yield from (Output._make((*row[:8], (row[8], row[9]), "")) for row in rows)

    def put_back(self) -> Iterator[tuple[Id, str, str]]:
        """What came back from the dead letters: its id, whose it is, and the id under which it first came."""
        rows = self._db.execute("select ms, seq, person, origin from inputs where only != '' and origin is not null")
        yield from (((row[0], row[1]), row[2], row[3]) for row in rows)

    def waiting(self) -> int:
        """Entries that nobody had answered yet."""
        return int(self._db.execute("select count(*) from inputs where mark = ?", (WAITING,)).fetchone()[0])

    def length(self) -> int:
        """Entries that were read."""
        return int(self._db.execute("select count(*) from inputs").fetchone()[0])

    def everything(self) -> Iterator[Input | Output]:
        """What was read, then what was answered, each in the order of the log."""
        yield from map(Input._make, self._db.execute("select * from inputs order by ms, seq, key"))
        rows = self._db.execute(
            "select stream, ms, seq, key, type, body, v, trace, cut_ms, cut_seq from outputs order by ms, seq, number"
        )
        yield from (Output._make((*row[:8], None if row[8] is None else (row[8], row[9]), "")) for row in rows)

    # The plan

    def plan(self, turns: Iterable[Planned]) -> None:
        """Numbers are given here."""
        self._db.executemany(
            "insert into turns (at_ms, key, first_ms, first_seq, ms, seq, ended_ms, chosen, buried) values "
            "(?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                (turn.at_ms, turn.key, *turn.first, *turn.last, turn.ended_ms, turn.chosen, turn.buried)
                for turn in turns
            ),
        )

    def due(self, after: tuple[int, int], count: int) -> list[Planned]:
        """The next turns that are not done yet, by when they began."""
        return [
            _planned(row)
            for row in self._db.execute(
                "select * from turns where done = 0 and (at_ms, number) > (?, ?) order by at_ms, number limit ?",
                (*after, count),
            )
        ]

    def counts(self) -> dict[str, int]:
        """How many turns are planned and chosen, and how many of these are done."""
        row = self._db.execute(
            "select count(*), coalesce(sum(chosen), 0), coalesce(sum(done), 0), coalesce(sum(chosen and done), 0), "
            "count(distinct case when chosen then key end), min(case when chosen then at_ms end) from turns"
        ).fetchone()
        return dict(zip(("turns", "chosen", "done", "replayed", "people", "first_ms"), row, strict=True))

    # A turn's act

    def state(self, side: str, key: str, now_ms: int) -> dict[str, bytes]:
        """What stands of a key at this time."""
        rows = self._db.execute(
            "select kind, value from state where key = ? and side = ? and (until_ms = 0 or until_ms > ?)",
            (key, side, now_ms),
        )
        return {kind: bytes(value) for kind, value in rows}

    def write(self, side: str, key: str, now_ms: int, writes: Iterable[Write]) -> None:
        for write in writes:
            if write.value is None:
                self._db.execute(
                    "delete from state where key = ? and side = ? and kind = ?", (key, side, write.kind)
                )  # fmt: skip
            else:
                until = now_ms + int(write.ttl_seconds * 1000) if write.ttl_seconds > 0 else 0
                self._db.execute(
                    "insert or replace into state values (?, ?, ?, ?, ?)", (side, key, write.kind, write.value, until)
                )

    def done(self, turn: int, result: Result | None = None) -> None:
        self._db.execute("update turns set done = 1 where number = ?", (turn,))
        if result is not None:
            self._db.execute("insert into results values (?, ?, ?, ?, ?)", result)

    # The outcome

    def results(self) -> Iterator[tuple[Planned, Result]]:
        """In the order of the log."""
        rows = self._db.execute(
            "select turns.*, results.* from turns join results on turn = number order by ms, seq, number"
        )
        for row in rows:
            yield _planned(row[:11]), Result._make(row[11:])

    def verdicts(self) -> dict[str, int]:
        return dict(self._db.execute("select verdict, count(*) from results group by verdict"))


def _planned(row: tuple[Any, ...]) -> Planned:
    number, at_ms, key, first_ms, first_seq, ms, seq, ended_ms, chosen, buried, _ = row
    return Planned(number, at_ms, key, (first_ms, first_seq), (ms, seq), ended_ms, bool(chosen), bool(buried))


def forget_old(folder: Path, now: float | None = None) -> list[str]:
    """Delete the runs that nobody has touched for KEPT_DAYS; their names."""
    gone = []
    since = (time.time() if now is None else now) - KEPT_DAYS * 86_400
    for path in folder.glob("*.db"):
        files = [path, *folder.glob(f"{path.name}-*")]
        with contextlib.suppress(OSError):
            if max(file.stat().st_mtime for file in files) < since:
                for file in files:
                    file.unlink()
                gone.append(path.stem)
    return gone
