"""
The command `cauce`.

Knows the commands, their options and their help.  What a command does stands in a module of its own, imported when the
command runs: `cauce --help` answers at once, and no command but the inference worker loads a model's libraries.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from streams import anew
from streams.cli import archive, breaker, dead, group, model, new, replay
from streams.cli.options import Anybody, Anything, From, Full, Json, Sender, Trial, Types, Url, User, Yes
from streams.commands import entry
from streams.commands.entry import examples as _examples

app = typer.Typer(
    name="cauce",
    help="The durable, event-driven backbone behind WhatsApp chatbots.",
    epilog="Start with: cauce up",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,
)
app.add_typer(breaker.app, name="breaker")
app.add_typer(group.app, name="group")
app.add_typer(dead.app, name="dead")
app.add_typer(new.app, name="new")
app.add_typer(model.app, name="model")
app.add_typer(archive.app, name="archive")
app.add_typer(replay.app)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"cauce {version('cauce')}")
        raise typer.Exit


@app.callback()
def place(
    context: typer.Context,
    config: Annotated[Path, typer.Option("--config", "-c", metavar="FILE", help="What the pipeline is.")] = Path(
        "streams.toml"
    ),
    env_file: Annotated[
        Path | None,
        typer.Option("--env-file", metavar="FILE", show_default=".env", help="Settings; the environment wins over it."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    context.obj = entry.Place(config, env_file)


Group = Annotated[list[str], typer.Argument(metavar="GROUP…", help="Groups of streams.toml.")]


@app.command(epilog=_examples("cauce up", "MODEL=echo cauce up", "REDIS_URL=redis://localhost:6379/0 cauce up"))
def up(context: typer.Context, trial: Trial = False) -> None:
    """
    Start everything in watched processes.

    Redis where REDIS_URL is unset, the ingress, and a worker for each group of streams.toml.  Ctrl-C ends what is in
    work first; a second Ctrl-C stops at once.  After a change of the configuration: cauce reload.
    """
    from streams import log
    from streams.commands import check
    from streams.commands.screen import Screen
    from streams.commands.supervisor import Pipeline

    topology, settings = context.obj.topology, context.obj.settings
    entry.refuse_silent_embedding(settings)
    check.refuse_what_cannot_run(settings, topology)
    if trial:
        from streams import process

        process.would_start(list(topology.groups), topology, settings)
        return
    screen = Screen(prefixed=settings.log_format == "console")
    log.configure(settings, screen)
    entry.run(Pipeline(context.obj, topology, settings, screen).run(), fast=False)


@app.command(epilog=_examples("INGRESS_PORT=8080 cauce ingress", "cauce ingress --workers 4"))
def ingress(
    context: typer.Context,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=64, show_default="INGRESS_WORKERS", help="Processes that share the port."),
    ] = None,
    trial: Trial = False,
) -> None:
    """
    Run the ingress: HTTP in, stream entries out.

    With several workers one process watches over the others and starts again whichever dies.
    """
    from streams import log

    topology, settings = context.obj.topology, context.obj.settings
    url, count = entry.redis_url(settings), workers or settings.ingress_workers
    if trial:
        from ingress.app import would_start

        would_start(topology, settings)
    elif count > 1:
        from ingress import workers as several
        from streams.commands.screen import Screen

        screen = Screen(prefixed=settings.log_format == "console")
        log.configure(settings, screen)
        entry.run(several.run(topology, settings, context.obj, screen, url, count), fast=False)
    else:
        from ingress.__main__ import serve

        log.configure(settings)
        if listeners := entry.run(serve(topology, settings, url, context.obj.arguments)):
            anew.begin(**listeners.handed_on())


@app.command(epilog=_examples("cauce work inference", "cauce work egress archive"))
def work(context: typer.Context, groups: Group, trial: Trial = False) -> None:
    """Run a worker for one group or several, in one process."""
    from streams import log, process
    from streams.groups import refuse_moved

    topology, settings = context.obj.topology, context.obj.settings
    if trial:
        process.would_start(groups, topology, settings)
        entry.ask(context.obj, lambda stores: refuse_moved(stores, topology, groups))
        return
    log.configure(settings)
    for name in groups:
        topology.group(name)
    if entry.run(process.run(groups, topology, settings, entry.redis_url(settings), context.obj.arguments)):
        anew.begin()


@app.command(epilog=_examples("cauce reload"))
def reload(context: typer.Context) -> None:
    """
    Have the running `cauce up` read streams.toml, .env and the handlers' code again.

    Ends workers of removed groups, starts those of new ones, and starts anew whose part has changed, one after the
    other.  What would not start is refused, and all stays as it is.  Exit status 2: refused; 1: a process is not ready.
    """
    from streams.commands import reload

    raise typer.Exit(reload.run(context.obj.settings.data_dir))


@app.command(epilog=_examples("ENVIRONMENT=production cauce check"))
def check(context: typer.Context, as_json: Json = False) -> None:
    """
    Say whether this would run.

    Looks over configuration, Redis, handlers and model, and changes nothing.  Exit status 2: something is wrong.
    """
    from streams.commands import check

    raise typer.Exit(entry.run(check.run(context.obj, as_json=as_json)))


@app.command(epilog=_examples("cauce status", "watch cauce status", "cauce status --json | jq .groups"))
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show streams, groups, workers, lag, and dead letters."""
    from streams.commands import status

    topology, settings = context.obj.topology, context.obj.settings
    url = entry.redis_url(settings)
    entry.ask(context.obj, lambda stores: status.show(topology, stores, url, as_json=as_json))


@app.command(epilog=_examples("cauce stats", "cauce stats --since 7d", "cauce stats --since 2h --by minute --json"))
def stats(
    context: typer.Context,
    of: Annotated[str, typer.Argument(metavar="[NAME]", help="What a group of yours counts.")] = "analytics",
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="2h, 7d, 2025-10-05, 2025-10-05T14:00.")] = "1d",
    until: Annotated[str | None, typer.Option("--until", metavar="TIME", help="Likewise; now, if left out.")] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="UNIT", show_default="as fits", help="minute, hour or day.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what was counted: messages, people, replies, how long they took, deliveries."""
    from streams.analytics import Asked
    from streams.commands import stats

    place, asked = context.obj, Asked(since=since, until=until, by=by, of=of)
    entry.ask(place, lambda stores: stats.show(stores, place.topology, place.settings, asked, as_json=as_json))


@app.command(epilog=_examples("cauce top", "cauce top --once", "cauce top --json | jq -c .groups"))
def top(
    context: typer.Context,
    once: Annotated[bool, typer.Option("--once", help="One frame, to paste into a ticket.")] = False,
    as_json: Json = False,
    url: Url = None,
) -> None:
    """
    Show the pipeline live: what comes, waits, is in work and goes out.

    A frame a second; q quits.  Where the output is no terminal it is one frame.
    """
    from streams.commands import counters, top, welcome

    topology, settings = context.obj.topology, context.obj.settings
    where = entry.redis_url(settings)
    counted = counters.Counters(settings, (url or welcome.address(settings)).rstrip("/"))
    entry.ask(
        context.obj,
        lambda stores: top.run(top.Looker(stores, topology, settings, counted, where), once=once, as_json=as_json),
    )


@app.command(
    epilog=_examples(
        "cauce tail outbound", "cauce tail inbound outbound --user +59112345678",
        "cauce tail inbound --type audio --from 2h -n 10 --json",
    )
)  # fmt: skip
def tail(
    context: typer.Context,
    streams: Annotated[list[str], typer.Argument(metavar="STREAM…", help="inbound, outbound, inbound.dead, …")],
    since: From = "now",
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many entries.")] = None,
    user: User = None,
    types: Types = None,
    as_json: Json = False,
    full: Full = False,
) -> None:
    """Follow streams, one line for each entry, until Ctrl-C."""
    from streams.commands import tail

    names = list(dict.fromkeys(tail.stream_of(name, context.obj.topology) for name in streams))
    wanted = tail.Wanted.of(user, types or (), context.obj.topology)
    colour, zone = tail.on_a_terminal(), context.obj.settings.zone
    form = tail.Form(as_json=as_json, full=full, colour=colour, streams=names, zone=zone)
    entry.ask(
        context.obj, lambda stores: tail.follow(stores, names, since=since, count=count, form=form, wanted=wanted)
    )


@app.command(
    epilog=_examples(
        "cauce trace wamid.HBgLNTkxMTIzNDU2NzgVAgASGBQ…", "cauce trace 1728123456789-0",
        "cauce trace +59112345678 --since 2h", "cauce trace m1 --user web-42 --json",
    )
)  # fmt: skip
def trace(
    context: typer.Context,
    id: Anything,
    user: Sender = None,
    since: Annotated[str, typer.Option("--since", metavar="TIME", help="Of a person: 2h, 7d.")] = "24h",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Of a person: the latest so many.")] = 20,
    as_json: Json = False,
    full: Full = False,
) -> None:
    """
    Tell what happened to a message, from HTTP to delivery.

    Of a person, each of their latest messages in a line.  Exit status 1: nothing is known of it.
    """
    from streams.commands import trace

    topology, zone = context.obj.topology, context.obj.settings.zone
    asked = trace.Asked(id=id, user=user, since=since, count=count, as_json=as_json, full=full, zone=zone)
    raise typer.Exit(entry.ask(context.obj, lambda stores: trace.show(topology, stores, asked)))


@app.command(epilog=_examples("cauce chat", "echo 'Hola' | cauce chat", "cauce chat --user +59112345678"))
def chat(
    context: typer.Context,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="Who you are to the bot.")] = None,
    wait: Annotated[int, typer.Option("--wait", min=1, help="Seconds to wait for each reply.")] = 60,
    url: Url = None,
) -> None:
    """Talk to the running pipeline.  An empty line or Ctrl-D ends it."""
    from streams.commands import console

    settings = context.obj.settings
    raise typer.Exit(console.chat(console.Ingress(settings, entry.ingress_url(settings, url)), user, wait))


@app.command(epilog=_examples("cauce send webhook.json", "cauce send --wait 20 chat.json", "cauce send - < x.json"))
def send(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE…", help="JSON files; - is standard input.")],
    wait: Annotated[int | None, typer.Option("--wait", min=1, help="Wait for the reply (POST /chat).")] = None,
    url: Url = None,
) -> None:
    """
    Post payloads to the ingress.

    What has a user_id and a message goes to /chat, the rest to /whatsapp.  Exit status 1: one was refused.
    """
    from streams.commands import console

    settings = context.obj.settings
    raise typer.Exit(console.send(console.Ingress(settings, entry.ingress_url(settings, url)), files, wait))


@app.command("secrets", epilog=_examples("cauce secrets >> .env"))
def new_secrets() -> None:
    """Print fresh tokens and a webhook secret, in the form of a .env file."""
    import secrets

    from streams import signature

    typer.echo()  # a file that they are appended to may lack its final newline
    typer.echo(f"INGRESS_TOKENS={secrets.token_urlsafe(32)}")
    typer.echo(f"OPERATOR_TOKENS={secrets.token_urlsafe(32)}")
    typer.echo(f"OUTBOUND_SECRET={signature.new_secret()}")


@app.command(epilog=_examples("cauce reshard", "cauce reshard --yes"))
def reshard(context: typer.Context, yes: Yes = False) -> None:
    """
    Move everything to as many shards as streams.toml says.

    Stop the ingress, let the workers finish, stop them; then run this.  One that is cut off goes on when run again.
    """
    from streams.commands import reshard

    entry.run(reshard.run(context.obj, yes=yes))


@app.command(epilog=_examples("cauce erase +59112345678 --dry-run", "cauce erase 59112345678 --yes --json > receipt"))
def erase(
    context: typer.Context,
    user: Anybody,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what there is, and do nothing.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """
    Erase one person: messages, replies, dead letters, conversation, and what groups have written elsewhere.

    While everything runs, and while the person writes: what comes afterwards is a new conversation.  Exit status 1:
    something is left, which the receipt names; the same command goes on.
    """
    from streams import log
    from streams.commands import forget

    topology, settings = context.obj.topology, context.obj.settings
    log.configure(settings)
    how = forget.How(yes=yes, dry_run=dry_run, as_json=as_json)
    raise typer.Exit(entry.ask(context.obj, lambda stores: forget.run(stores, topology, settings, user, how)))


def main() -> None:
    """The entry point: whatever we raise on purpose is one line on standard error and exit status 2."""
    sys.exit(entry.exit_status(app))
