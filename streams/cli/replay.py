"""
The commands `cauce replay`, `cauce export` and `cauce import`, by the same rules as the others: what one does
stands in a module of its own.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, get_args

import typer
from msgspec.structs import replace

from streams.cli.options import Full, Json, Yes, whole
from streams.commands import entry
from streams.errors import ConfigurationError
from streams.lab.changes import Changes, History

app = typer.Typer()

Group = Annotated[str | None, typer.Argument(metavar="[GROUP]", help="By default the first that writes: inference.")]
Since = Annotated[
    str | None,
    typer.Option("--from", metavar="TIME", help="2h (ago), 2025-10-05T14:00, an entry's id, start.  By default 24h."),
]
Until = Annotated[str | None, typer.Option("--to", metavar="TIME", help="Likewise; by default now.")]
Users = Annotated[
    list[str] | None, typer.Option("--user", metavar="ID", callback=whole, help="Only of this person; repeatable.")
]
DeadOnly = Annotated[bool, typer.Option("--dead", help="What the group buried, of whatever time.")]
FromFile = Annotated[
    Path | None, typer.Option("--file", metavar="FILE", help="What `cauce export` wrote; no Redis is asked.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Try a key of streams.toml: inference.temperature=0; repeatable."),
]
Model = Annotated[str | None, typer.Option("--model", metavar="NAME", help="Try another MODEL.")]
Prompt = Annotated[str | None, typer.Option("--prompt", metavar="FILE", help="Try another system prompt.")]
Tried = Annotated[str | None, typer.Option("--handler", metavar="MODULE:FUNCTION", help="Try another handler.")]
Before = Annotated[
    str,
    typer.Option(
        "--history",
        metavar="KIND",
        help="What a turn finds said before it in the range: replayed (what the replay said), original (what was said "
        "then), or rerun (the handler also handles what came before the range).",
    ),
]
Speed = Annotated[str | None, typer.Option("--speed", metavar="FACTOR", help="1x: as it was, 10x; unset: at once.")]
Into = Annotated[
    str | None,
    typer.Option("--into", metavar="STREAM", help="Append the range to this stream, marked, and replay nothing."),
]
Resume = Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Go on with this run, or show it again.")]
Anew = Annotated[
    bool, typer.Option("--anew", help="Begin from the start, though it was cut off (with --into: or through).")
]
Tolerate = Annotated[int, typer.Option("--tolerate", min=0, metavar="N", help="So many may come out otherwise.")]
Rows = Annotated[int, typer.Option("--rows", min=0, metavar="N", help="Rows of the table.")]


def _first_argument(group: str | None) -> None:
    if group is not None:
        raise ConfigurationError(f"the group is the first argument: cauce replay {group}")


Misplaced = Annotated[str | None, typer.Option("--group", hidden=True, callback=_first_argument, expose_value=False)]
Html = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write the whole as one page.")]


@app.command(
    epilog=entry.examples(
        "cauce replay --from 2h",
        "cauce replay --prompt new.md --html report.html",
        "cauce replay --set inference.temperature=0 --tolerate 5",
        "cauce replay --dead",
        "cauce replay --file yesterday.jsonl --json",
        "cauce replay inference --from 7d --into trial --yes",
    )
)
def replay(
    context: typer.Context,
    group: Group = None,
    since: Since = None,
    until: Until = None,
    user: Users = None,
    dead: DeadOnly = False,
    file: FromFile = None,
    sets: Set = None,
    model: Model = None,
    prompt: Prompt = None,
    handler: Tried = None,
    history: Before = "replayed",
    speed: Speed = None,
    into: Into = None,
    resume: Resume = None,
    anew: Anew = False,
    tolerate: Tolerate = 0,
    rows: Rows = 20,
    html: Html = None,
    as_json: Json = False,
    full: Full = False,
    yes: Yes = False,
    misplaced: Misplaced = None,
) -> None:
    """
    Answer again what was said, in a sandbox, and compare.

    Nothing is sent and nothing in Redis is written.  Exit status 1: more than --tolerate changed; 3: nothing to replay.
    """
    from streams import log
    from streams.commands import lab, report, steps, transfer

    log.configure(replace(context.obj.settings, log_level="warning"), steps.Out())
    form = report.Form(as_json=as_json, html=html, full=full, tolerate=tolerate, rows=rows)
    asked = lab.Asked(
        group=group, since=since, until=until, people=tuple(user or ()), dead=dead, file=str(file) if file else None,
        changes=Changes(sets=sets or (), model=model, prompt=prompt, handler=handler),
        history=_history(history), speed=_speed(speed),
    )  # fmt: skip
    lab.check(asked, into=into, resume=resume)
    if into:
        raise typer.Exit(entry.run(transfer.into(context.obj, asked, into, yes=yes, anew=anew)))
    asked = lab.of_run(context.obj, resume) if resume else asked
    raise typer.Exit(entry.run(lab.replay(context.obj, asked, form, resume=resume, anew=anew)))


def _history(text: str) -> History:
    kinds: tuple[History, ...] = get_args(History)
    for kind in kinds:
        if text == kind:
            return kind
    raise ConfigurationError(f"--history {text!r} is none; write {', '.join(kinds)}")


def _speed(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6}(?:\.\d+)?)x?", text)
    if match is None or not float(match[1]):
        raise ConfigurationError(f"--speed {text!r} is no speed; write 1x (as it was), 10x, 0.5x")
    return float(match[1])


Out = Annotated[
    list[str],
    typer.Argument(metavar="[GROUP] FILE", help="The file to be written; before it a group, as for `cauce replay`."),
]
In = Annotated[Path, typer.Argument(metavar="FILE", help="What `cauce export` wrote.")]
As = Annotated[
    str | None,
    typer.Option("--as", metavar="NAME", help="Under another name than its first line gives it, to append it again."),
]
Of = Annotated[str | None, typer.Option("--group", metavar="GROUP", help="The same as GROUP before the file.")]
Invented = Annotated[
    bool,
    typer.Option("--pseudonyms", help="Invented numbers, ids and names; who is who is kept, and nothing leads back."),
]


@app.command(
    epilog=entry.examples(
        "cauce export --from 24h --pseudonyms yesterday.jsonl", "cauce export inference --dead dead.jsonl"
    )
)
def export(
    context: typer.Context,
    words: Out,
    group: Of = None,
    since: Since = None,
    until: Until = None,
    user: Users = None,
    dead: DeadOnly = False,
    pseudonyms: Invented = False,
) -> None:
    """
    Write what was said to a file, for a replay elsewhere.

    What a group read in a range and what it answered, with what the same people had said before it.
    """
    from streams.commands import lab, transfer

    group, file = _group_and_file(words, group)
    asked = lab.Asked(group=group, since=since, until=until, people=tuple(user or ()), dead=dead)
    raise typer.Exit(entry.run(transfer.export(context.obj, asked, file, pseudonyms=pseudonyms)))


def _group_and_file(words: list[str], group: str | None) -> tuple[str | None, Path]:
    *named, file = words
    if len([*named, *filter(None, [group])]) > 1:
        raise ConfigurationError("one group and one file: cauce export inference yesterday.jsonl")
    return (named[0] if named else group), Path(file)


@app.command("import", epilog=entry.examples("cauce import yesterday.jsonl"))
def bring(context: typer.Context, file: In, name: As = None, yes: Yes = False) -> None:
    """
    Append what a file holds to the streams, marked as replayed.

    No group answers it unless its table says `replay = true`.  The same file again appends nothing twice.
    """
    from streams.commands import transfer

    raise typer.Exit(entry.run(transfer.bring(context.obj, file, name=name, yes=yes)))
