"""
What a replay came to: for a terminal, as JSON, as a page; and the exit status that makes it a test.

Everything is read from the run as it is written, so a million turns need no more memory than ten.  Numbers are masked
unless asked for; what was said is shown, for that is what is compared.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import sys
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from streams.commands import page
from streams.errors import ConfigurationError
from streams.groups import counted
from streams.lab import compare
from streams.lab.changes import History
from streams.lab.compare import VERDICTS, Said
from streams.lab.replay import AHEAD_OF_A_TURN
from streams.lab.replayed import Appended, Planned, Result, Verdict
from streams.lab.runs import Run
from streams.masking import Mask

_appended = msgspec.json.Decoder(list[Appended])
NOTHING = 3
"""Exit status where there was nothing to replay: a test that tests nothing has not passed."""

_STYLES = {"same": "dim", "changed": "yellow", "mended": "green", "failed": "red", "new": "cyan", "missing": "magenta"}
_PIECES = {"same": "", "gone": "red strike", "come": "green"}


class Form(msgspec.Struct, kw_only=True):
    """How it is reported."""

    as_json: bool = False
    html: Path | None = None
    full: bool = False
    tolerate: int = 0
    """Turns that may come out otherwise."""
    rows: int = 20
    """Of the table on a terminal."""
    mask: Mask = msgspec.field(default_factory=Mask)


class Facts(msgspec.Struct, kw_only=True, frozen=True):
    """What was replayed."""

    run: str
    group: str
    first: str
    last: str
    changes: Sequence[str]
    history: History
    cut: int
    """People of whom something may have been said before what is kept of the log."""
    missing: Sequence[str]
    """Kinds of state that began empty."""
    dead: bool = False
    """Of what was buried."""
    waiting: int = 0
    """Messages that were not answered yet, and are left out."""
    limited: int = 0
    """Turns that hit the rate limit then, and are left out."""
    redriven: int = 0
    """Turns that were buried and came back: left out, for they are there as what they came back as."""


class Row(msgspec.Struct, kw_only=True):
    """One turn."""

    turn: str
    person: str
    at: str
    verdict: Verdict
    why: str
    said: list[str]
    """What the person wrote."""
    then: list[dict[str, Any]]
    now: list[dict[str, Any]]
    words: list[tuple[str, str]]
    """The first reply then and now, in pieces that are the same, gone, or come; only where it has changed."""
    ms_then: int | None
    """From when its turn began; None where nothing was said."""
    ms_now: float


class Summary(msgspec.Struct, kw_only=True):
    """All turns."""

    turns: int = 0
    people: int = 0
    verdicts: dict[str, int] = {}
    actions: dict[str, int] = {}
    """`book → none`: how often."""
    ms_then: dict[str, float] = {}
    ms_now: dict[str, float] = {}
    digest: str = ""
    """Of all that was said now: two runs with the same one came to the same, byte for byte."""
    notes: list[str] = []

    @property
    def otherwise(self) -> int:
        """Of what is no improvement, how many."""
        return self.turns - self.verdicts.get("same", 0) - self.verdicts.get("mended", 0)


def show(run: Run, facts: Facts, form: Form) -> int:
    """
    Returns:
        the exit status: 1 where more came out otherwise than is tolerated, NOTHING where nothing was replayed.

    Raises:
        ConfigurationError: the page cannot be written.
    """
    summary = summed(run, facts)
    if form.html is not None:
        _write(form.html, page.lines(facts, summary, rows(run, form)))
    if form.as_json:
        sys.stdout.writelines(_json(facts, summary, rows(run, form)))
    if not summary.turns:
        sys.stderr.write(f"nothing was replayed: {'; '.join(summary.notes)}\n")
        return NOTHING
    if not form.as_json:
        _table(facts, summary, rows(run, form), form)
    return int(summary.otherwise > form.tolerate)


def rows(run: Run, form: Form) -> Iterator[Row]:
    for turn, result, then, now in _compared(run):
        yield _row(run, turn, result, then, now, form)


def _compared(run: Run) -> Iterator[tuple[Planned, Result, list[Said], list[Said]]]:
    for turn, result in run.results():
        old = [each for each in run.outputs(turn.key, turn.last) if each.type not in AHEAD_OF_A_TURN]
        now = [compare.said_now(each) for each in _appended.decode(result.outputs)]
        yield turn, result, [compare.said_then(each) for each in old], now


def _row(run: Run, turn: Planned, result: Result, then: list[Said], now: list[Said], form: Form) -> Row:
    def hidden(text: str) -> str:
        return text if form.full else form.mask.text(text)

    changed = result.verdict == "changed" and then and now
    inputs = list(run.inputs(turn.key, turn.first, turn.last))
    person = inputs[0].person
    return Row(
        turn=f"{turn.last[0]}-{turn.last[1]}",
        person=person if form.full else form.mask.person(person),
        at=datetime.fromtimestamp(turn.at_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        verdict=result.verdict,
        why=hidden(result.why),
        said=[hidden(compare.words_of(each.body)) for each in inputs],
        then=[_plain(each, form) for each in then],
        now=[_plain(each, form) for each in now],
        words=[(piece.kind, piece.text) for piece in compare.words(hidden(then[0].text), hidden(now[0].text))]
        if changed
        else [],
        ms_then=turn.ended_ms - turn.at_ms if turn.ended_ms is not None else None,
        ms_now=round(result.took_ms, 1),
    )


def _plain(said: Said, form: Form) -> dict[str, Any]:
    plain = said._asdict()
    return plain if form.full else {name: form.mask.field(name, value) for name, value in plain.items()}


def summed(run: Run, facts: Facts) -> Summary:
    counts = run.counts()
    actions, digest = Counter[str](), hashlib.sha256()
    then_ms, now_ms = array("d"), array("d")
    for turn, result, then, now in _compared(run):
        before, after = _action(then), _action(now)
        if before != after:
            actions[f"{before} → {after}"] += 1
        if turn.ended_ms is not None:
            then_ms.append(turn.ended_ms - turn.at_ms)
        now_ms.append(result.took_ms)
        digest.update(f"{turn.key}\0{turn.last}\0{result.why}\0".encode() + result.outputs)
    verdicts = run.verdicts()
    return Summary(
        turns=counts["chosen"],
        people=counts["people"],
        verdicts={name: verdicts[name] for name in VERDICTS if name in verdicts},
        actions=dict(actions.most_common()),
        ms_then=_middle(then_ms),
        ms_now=_middle(now_ms),
        digest=digest.hexdigest(),
        notes=list(_notes(facts, counts["chosen"])),
    )


def _action(said: Sequence[Said]) -> str:
    return next((each.action for each in said if each.action), "none")


def _middle(ms: array[float]) -> dict[str, float]:
    if len(ms) < 2:
        return {"p50": ms[0], "p95": ms[0]} if ms else {}
    cuts = statistics.quantiles(ms, n=20, method="inclusive")
    return {"p50": round(cuts[9], 1), "p95": round(cuts[18], 1)}


def _notes(facts: Facts, turns: int) -> Iterator[str]:
    if not (turns or facts.waiting or facts.limited or facts.redriven):
        what = f"group {facts.group} has buried nothing" if facts.dead else "there is nothing"
        yield f"{what} in this range; try another --from, or `cauce tail` to see what there is"
    if facts.waiting:
        yield f"{counted(facts.waiting, 'message', 'messages')} not answered yet, left out"
    if facts.limited:
        turns_then = counted(facts.limited, "turn", "turns")
        yield f"{turns_then} with messages over the rate limit, which a replay does not know, left out"
    if facts.redriven:
        came_back = counted(facts.redriven, "turn", "turns")
        yield f"{came_back} buried and redriven since, left out: compared as what came back"
    if facts.cut and turns:
        yield (
            f"of {facts.cut:,} people something may have been said before what is kept of the log: their conversations "
            "may have begun shorter than they were"
        )
    if facts.missing and turns:
        yield (
            f"state of the kinds {', '.join(facts.missing)} began empty, for the handler has no `retell`; "
            "--history rerun has it handle what came before the range as well"
        )


def _write(path: Path, lines: Iterator[str]) -> None:
    try:
        with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
            file.writelines(lines)
    except OSError as error:
        raise ConfigurationError(f"--html {str(path)!r}: cannot be written ({error.strerror or error})") from error


def _json(facts: Facts, summary: Summary, rows: Iterator[Row]) -> Iterator[str]:
    """One object, a turn a line."""
    head = msgspec.structs.asdict(facts) | {"summary": msgspec.structs.asdict(summary)}
    yield json.dumps(head, ensure_ascii=False)[:-1] + ', "rows": ['
    between = "\n"
    for row in rows:
        yield between + json.dumps(msgspec.structs.asdict(row), ensure_ascii=False)
        between = ",\n"
    yield "\n]}\n"


def _table(facts: Facts, summary: Summary, rows: Iterator[Row], form: Form) -> None:
    console = Console(highlight=False)
    table = Table(box=None, show_header=True, header_style="bold")
    for name in ("person", "they wrote", "then", "now", ""):
        table.add_column(name, no_wrap=name in ("person", ""))
    for row in islice((row for row in rows if row.verdict != "same"), form.rows):
        table.add_row(row.person, _cell(row.said), *_both(row), _verdict(row))
    if table.row_count:
        console.print(table)
    if more := summary.turns - summary.verdicts.get("same", 0) - table.row_count:
        console.print(f"… and {more:,} more: --rows, --html FILE or --json show them", style="dim")
    for line in sentences(facts, summary):
        console.print(line, soft_wrap=True)


def _both(row: Row) -> tuple[Text, Text]:
    if not row.words:
        return _cell(map(_one, row.then)), _cell([row.why] if row.why else map(_one, row.now))
    then, now = _cell([]), _cell([])
    for number, (kind, text) in enumerate(row.words):
        shown = _line(text)
        if number == 0 and kind == "same" and len(shown) > _BEFORE:
            shown = "…" + shown[-_BEFORE:]  # what has changed is not to be cut off
        if kind != "come":
            then.append(shown, _PIECES[kind])
        if kind != "gone":
            now.append(shown, _PIECES[kind])
    for said, cell in ((row.then, then), (row.now, now)):
        cell.append(_line(_one(said[0])[len(said[0]["text"]) :]), "dim")
        cell.append("".join(f"\n{_line(_one(each))}" for each in said[1:]), "dim")
    return then, now


_BEFORE = 10
"""Characters that are shown of what stands before the first change."""


def _cell(texts: Iterable[str]) -> Text:
    """A line for each, cut where the terminal has no room for it."""
    return Text("\n".join(map(_line, texts)), no_wrap=True, overflow="ellipsis")


def _line(text: str) -> str:
    return compare.printable(text).replace("\n", " ")


def told(said: Sequence[dict[str, Any]]) -> str:
    """Outputs in words: each one's text, with its action."""
    return "\n".join(map(_one, said))


def _one(said: dict[str, Any]) -> str:
    action = f"  [{said['action']} {json.dumps(said['slots'], ensure_ascii=False)}]" if said["action"] else ""
    return f"{said['text']}{action}"


def _verdict(row: Row) -> Text:
    return Text(row.verdict, _STYLES[row.verdict])


def sentences(facts: Facts, summary: Summary) -> Iterator[str]:
    """The summary, in words."""
    what = f" with {' '.join(facts.changes)}" if facts.changes else ""
    turns, people = counted(summary.turns, "turn", "turns"), counted(summary.people, "person", "people")
    yield f"{turns} of {people} replayed through {facts.group}{what} (run {facts.run})"
    yield ", ".join(f"{count:,} {name}" for name, count in summary.verdicts.items())
    if summary.actions:
        yield "actions: " + ", ".join(f"{change} {count:,}×" for change, count in summary.actions.items())
    if summary.ms_now:
        yield "time to a reply, half of them and 95 % within: " + ", ".join(
            f"{name} {ms['p50']:,.0f} and {ms['p95']:,.0f} ms"
            for name, ms in (("then", summary.ms_then), ("now", summary.ms_now))
            if ms
        )
    yield from summary.notes
