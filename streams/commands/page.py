"""
A replay's report as one page that needs nothing else: no script from elsewhere, no font, no picture.

Pure: lines of HTML.  Whatever somebody wrote is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from streams.lab.compare import VERDICTS

if TYPE_CHECKING:
    from streams.commands.report import Facts, Row, Summary

MOST = 5000
"""Rows of a page; a browser bears no more."""

_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Replay</title><style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; width: 100%; } th { text-align: left; }
td, th { border-bottom: 1px solid #ddd; padding: .5rem; vertical-align: top; white-space: pre-wrap; }
del { background: #fdd; } ins { background: #dfd; text-decoration: none; }
small, .same { color: #777; } .failed { color: #b00; } .changed { color: #960; } .new { color: #077; }
.missing { color: #808; } .mended { color: #070; } label { margin-right: 1rem; }
HIDE
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } td, th { border-color: #444; }
del { background: #522; } ins { background: #252; } }
</style></head><body>
"""
_HIDE = "".join(f"body:has(#{name}:not(:checked)) tr.{name} {{ display: none; }}\n" for name in VERDICTS)


def lines(facts: Facts, summary: Summary, rows: Iterator[Row]) -> Iterator[str]:
    from streams.commands.report import sentences

    yield _HEAD.replace("HIDE", _HIDE)
    yield f"<h1>Replay of {escape(facts.group)}</h1>\n"
    for sentence in sentences(facts, summary):
        yield f"<p>{escape(sentence)}</p>\n"
    for name, meaning in VERDICTS.items():
        count = summary.verdicts.get(name, 0)
        on = " checked" if name != "same" or count == summary.turns else ""
        yield f'<label title="{meaning}"><input type="checkbox" id="{name}"{on}> {name} {count:,}</label>\n'
    yield "<table><tr><th>person</th><th>they wrote</th><th>then</th><th>now</th><th></th></tr>\n"
    yield from map(_row, islice(rows, MOST))
    yield "</table>\n"
    if summary.turns > MOST:
        yield f"<p>The first {MOST:,} of {summary.turns:,} turns; <code>--json</code> has all.</p>\n"
    yield "</body></html>\n"


def _row(row: Row) -> str:
    from streams.commands.report import told

    if row.words:
        then = "".join(
            escape(text) if kind == "same" else f"<del>{escape(text)}</del>"
            for kind, text in row.words
            if kind != "come"
        )
        now = "".join(
            escape(text) if kind == "same" else f"<ins>{escape(text)}</ins>"
            for kind, text in row.words
            if kind != "gone"
        )
        then += f"<small>{escape(told(row.then)[len(row.then[0]['text']) :])}</small>"
        now += f"<small>{escape(told(row.now)[len(row.now[0]['text']) :])}</small>"
    else:
        then, now = escape(told(row.then)), escape(row.why or told(row.now))
    ms = f"{row.ms_now:,.0f} ms" + (f", then {row.ms_then:,} ms" if row.ms_then is not None else "")
    return (
        f'<tr class="{row.verdict}"><td>{escape(row.person)}<br><small>{row.at}<br>{row.turn}</small></td>'
        f"<td>{escape(chr(10).join(row.said))}</td><td>{then}</td><td>{now}</td>"
        f'<td class="{row.verdict}">{row.verdict}<br><small>{ms}</small></td></tr>\n'
    )
