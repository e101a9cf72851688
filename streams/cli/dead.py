"""
The commands `cauce dead …`, by the same rules as the others: what one does stands in a module of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated

import typer

from streams.cli.options import Full, Json, Person, Since, Until, Yes
from streams.commands import entry

if TYPE_CHECKING:
    from streams.commands.dead import Desk

app = typer.Typer(help="What could not be handled: the dead letters.", no_args_is_help=True)

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="As `cauce dead list` shows them.")]
OfStream = Annotated[str | None, typer.Option("--stream", metavar="STREAM", help="Only what died on it.")]
OfGroup = Annotated[str | None, typer.Option("--group", metavar="GROUP", help="Only what this group buried.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Only where the reason holds this.")]
All = Annotated[bool, typer.Option("--all", help="Whatever is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be meant, and do nothing.")]


@app.command("list", epilog=entry.examples("cauce dead list", "cauce dead list outbound --reason 503 --since 2h"))
def dead_list(
    context: typer.Context,
    stream: Annotated[str | None, typer.Argument(metavar="[STREAM]", help="Only this one's.")] = None,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="The newest so many of each stream.")] = 20,
    group: OfGroup = None,
    reason: Reason = None,
    person: Person = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
    full: Full = False,
) -> None:
    """List what was buried, with the reason."""
    from streams.commands import dead, tail

    which = dead.Which(stream=stream, group=group, reason=reason, person=person, since=since, until=until)
    form = tail.Form(as_json=as_json, full=full, zone=context.obj.settings.zone)
    _dead(context, stream, lambda desk: dead.show_list(desk, which, count=count, form=form))


@app.command("show", epilog=entry.examples("cauce dead show 1728123456789-0", "cauce dead show ID --raw > body.json"))
def dead_show(
    context: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="As `cauce dead list` shows it.")],
    stream: OfStream = None,
    raw: Annotated[bool, typer.Option("--raw", help="Its body as it came, byte for byte, and nothing else.")] = False,
    as_json: Json = False,
    full: Full = False,
) -> None:
    """Show one dead letter whole.  Exit status 1: it is not there."""
    from streams.commands import dead, tail

    form = tail.Form(as_json=as_json, full=full, zone=context.obj.settings.zone)
    _dead(context, stream, lambda desk: dead.show(desk, id, form=form, raw=raw))


@app.command(
    "drop",
    help="Forget dead letters for good.  Exit status 1: not all of them were there.",
    epilog=entry.examples("cauce dead drop 1728123456789-0", "cauce dead drop --person +59112345678 --dry-run"),
)
@app.command(
    "redrive",
    help="Put dead letters back, each once, for the group that buried them.  Mend first what the reason names.  They "
    "come after all that has been said since.  Exit status 1: not all were put back.",
    epilog=entry.examples(
        "cauce dead redrive --group inference --since 2h --dry-run", "cauce dead redrive --all --yes"
    ),
)
def dead_act(
    context: typer.Context,
    ids: Ids = None,
    stream: OfStream = None,
    group: OfGroup = None,
    reason: Reason = None,
    person: Person = None,
    since: Since = None,
    until: Until = None,
    everything: All = False,
    dry_run: DryRun = False,
    yes: Yes = False,
    as_json: Json = False,
    full: Full = False,
) -> None:
    from streams.commands import dead, tail

    which = dead.Which(
        ids=ids or [], stream=stream, group=group, reason=reason, person=person, since=since, until=until,
        everything=everything,
    )  # fmt: skip
    how = dead.How(form=tail.Form(as_json=as_json, full=full, zone=context.obj.settings.zone), dry_run=dry_run, yes=yes)
    verb = dead.VERBS[str(context.info_name)]
    _dead(context, stream, lambda desk: dead.act(desk, verb, which, how))


def _dead(context: typer.Context, stream: str | None, ask: Callable[[Desk], Awaitable[int]]) -> None:
    """Ask of the dead letters of a stream, or of all; how that went is the exit status."""
    from streams.commands import dead, tail

    topology, zone = context.obj.topology, context.obj.settings.zone
    streams = [tail.stream_of(stream, topology).removesuffix(".dead")] if stream else list(topology.streams)
    raise typer.Exit(entry.ask(context.obj, lambda stores: ask(dead.Desk(stores, topology, streams, zone))))
