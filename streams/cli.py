"""
The command `cauce`.

Knows the commands, their options and their help.  What a command does stands in a module of its own, imported when the
command runs: `cauce --help` answers at once, and no command but the inference worker loads a model's libraries.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from streams import cli_model, entry
from streams.entry import examples as _examples

if TYPE_CHECKING:
    from streams.dead import Desk


app = typer.Typer(
    name="cauce",
    help="The durable, event-driven backbone behind WhatsApp chatbots.",
    epilog="Start with: cauce up",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    rich_markup_mode=None,
)
breaker_app = typer.Typer(help="The breaker in front of OUTBOUND_URL.", no_args_is_help=True)
dead_app = typer.Typer(help="What could not be handled: the dead letters.", no_args_is_help=True)
group_app = typer.Typer(help="The groups that Redis knows.", no_args_is_help=True)
app.add_typer(breaker_app, name="breaker")
app.add_typer(group_app, name="group")
app.add_typer(dead_app, name="dead")
app.add_typer(cli_model.app, name="model")


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
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Full = Annotated[bool, typer.Option("--full", help="Show telephone numbers and ids unmasked.")]
Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="The ingress; by default where settings say.")]

Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID…]", help="As `cauce dead list` shows them.")]
OfStream = Annotated[str | None, typer.Option("--stream", metavar="STREAM", help="Only what died on it.")]
OfGroup = Annotated[str | None, typer.Option("--group", metavar="GROUP", help="Only what this group buried.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Only where the reason holds this.")]
Person = Annotated[str | None, typer.Option("--person", metavar="ID", help="Only what is of this person.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Buried since: 2h, 7d, 2025-10-05T14:00.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Buried until then, likewise.")]
All = Annotated[bool, typer.Option("--all", help="Whatever is there.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="List what would be meant, and do nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


@app.command(epilog=_examples("cauce up", "MODEL=echo cauce up", "REDIS_URL=redis://localhost:6379/0 cauce up"))
def up(context: typer.Context) -> None:
    """
    Start everything in watched processes.

    Redis where REDIS_URL is unset, the ingress, and a worker for each group of streams.toml.  Ctrl-C ends what is in
    work first; a second Ctrl-C stops at once.
    """
    from streams import check, log
    from streams.screen import Screen
    from streams.supervisor import Pipeline

    topology, settings = context.obj.topology, context.obj.settings
    entry.refuse_silent_embedding(settings)
    check.refuse_what_cannot_run(settings, topology)
    screen = Screen(prefixed=settings.log_format == "console")
    log.configure(settings, screen)
    entry.run(Pipeline(topology, settings, context.obj.arguments, screen).run(), fast=False)


@app.command(epilog=_examples("INGRESS_PORT=8080 cauce ingress", "cauce ingress --workers 4"))
def ingress(
    context: typer.Context,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=64, show_default="INGRESS_WORKERS", help="Processes that share the port."),
    ] = None,
) -> None:
    """
    Run the ingress: HTTP in, stream entries out.

    With several workers one process watches over the others and starts again whichever dies.
    """
    from streams import log

    topology, settings = context.obj.topology, context.obj.settings
    url, count = entry.redis_url(settings), workers or settings.ingress_workers
    if count > 1:
        from ingress import workers as several
        from streams.screen import Screen

        screen = Screen(prefixed=settings.log_format == "console")
        log.configure(settings, screen)
        entry.run(several.run(topology, settings, context.obj.arguments, screen, url, count), fast=False)
    else:
        from ingress.__main__ import serve

        log.configure(settings)
        entry.run(serve(topology, settings, url))


@app.command(epilog=_examples("cauce work inference", "cauce work egress archive"))
def work(context: typer.Context, groups: Group) -> None:
    """Run a worker for one group or several, in one process."""
    from streams import log, process

    topology, settings = context.obj.topology, context.obj.settings
    log.configure(settings)
    for name in groups:
        topology.group(name)
    entry.run(process.run(groups, topology, settings, entry.redis_url(settings)))


@app.command(epilog=_examples("ENVIRONMENT=production cauce check"))
def check(context: typer.Context, as_json: Json = False) -> None:
    """
    Say whether this would run.

    Looks over configuration, Redis, handlers and model, and changes nothing.  Exit status 2: something is wrong.
    """
    from streams import check

    raise typer.Exit(entry.run(check.run(context.obj, as_json=as_json)))


@app.command(epilog=_examples("cauce status", "watch cauce status", "cauce status --json | jq .groups"))
def status(context: typer.Context, as_json: Json = False) -> None:
    """Show streams, groups, workers, lag, and dead letters."""
    from streams import status

    topology, settings = context.obj.topology, context.obj.settings
    url = entry.redis_url(settings)
    entry.ask(context.obj, lambda stores: status.show(topology, stores, url, as_json=as_json))


@app.command(epilog=_examples("cauce tail outbound", "cauce tail inbound --from start -n 10 --json"))
def tail(
    context: typer.Context,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="inbound, outbound, statuses, inbound.dead, …")],
    since: Annotated[str, typer.Option("--from", metavar="ID", help="An entry's id, `start`, or `$` for now.")] = "$",
    count: Annotated[int | None, typer.Option("--count", "-n", min=1, help="End after so many entries.")] = None,
    as_json: Json = False,
    full: Full = False,
) -> None:
    """Follow a stream, one line for each entry, until Ctrl-C."""
    from streams import tail

    name = tail.stream_of(stream, context.obj.topology)
    shown = tail.Form(as_json=as_json, full=full)
    entry.ask(context.obj, lambda stores: tail.follow(stores, name, since=since, count=count, form=shown))


@app.command(epilog=_examples("cauce chat", "echo 'Hola' | cauce chat", "cauce chat --user +59112345678"))
def chat(
    context: typer.Context,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="Who you are to the bot.")] = None,
    wait: Annotated[int, typer.Option("--wait", min=1, help="Seconds to wait for each reply.")] = 60,
    url: Url = None,
) -> None:
    """Talk to the running pipeline.  An empty line or Ctrl-D ends it."""
    from streams import console

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
    from streams import console

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
    from streams import reshard

    entry.run(reshard.run(context.obj, yes=yes))


@breaker_app.command("show", epilog=_examples("cauce breaker show"))
def breaker_show(context: typer.Context) -> None:
    """Say whether replies are being delivered, held back, or stopped."""
    from streams import status

    settings = context.obj.settings
    entry.ask(context.obj, lambda stores: status.breaker(settings, stores))


@breaker_app.command("close", epilog=_examples("cauce breaker close"))
def breaker_close(context: typer.Context) -> None:
    """Let deliveries go again, after the destination has been mended."""
    from streams import status

    settings = context.obj.settings
    entry.ask(context.obj, lambda stores: status.close_breaker(settings, stores))


@group_app.command("list", epilog=_examples("cauce group list", "cauce group list --json | jq '.[].backlog'"))
def group_list(context: typer.Context, as_json: Json = False) -> None:
    """List the groups of each stream: who consumes them, and how far behind they are."""
    from streams import roster

    topology = context.obj.topology
    entry.ask(context.obj, lambda stores: roster.show(stores, topology, as_json=as_json))


@group_app.command("drop", epilog=_examples("cauce group drop outbound bookings", "cauce group drop inbound x --yes"))
def group_drop(
    context: typer.Context,
    stream: Annotated[str, typer.Argument(metavar="STREAM", help="The stream that it reads.")],
    group: Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")],
    yes: Yes = False,
    force: Annotated[bool, typer.Option("--force", help="Although a worker of it is alive.")] = False,
) -> None:
    """
    Forget a group: what it has not settled is lost to it, and nothing is kept for it any more.

    Stop its workers and take it out of streams.toml first.  Cut off in the middle, the same command ends it.
    """
    from streams import roster

    topology = context.obj.topology
    entry.ask(context.obj, lambda stores: roster.drop(stores, topology, stream, group, yes=yes, forced=force))


@dead_app.command("list", epilog=_examples("cauce dead list", "cauce dead list outbound --reason 503 --since 2h"))
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
    from streams import dead, tail

    which = dead.Which(stream=stream, group=group, reason=reason, person=person, since=since, until=until)
    form = tail.Form(as_json=as_json, full=full)
    _dead(context, stream, lambda desk: dead.show_list(desk, which, count=count, form=form))


@dead_app.command("show", epilog=_examples("cauce dead show 1728123456789-0", "cauce dead show ID --raw > body.json"))
def dead_show(
    context: typer.Context,
    id: Annotated[str, typer.Argument(metavar="ID", help="As `cauce dead list` shows it.")],
    stream: OfStream = None,
    raw: Annotated[bool, typer.Option("--raw", help="Its body as it came, byte for byte, and nothing else.")] = False,
    as_json: Json = False,
    full: Full = False,
) -> None:
    """Show one dead letter whole.  Exit status 1: it is not there."""
    from streams import dead, tail

    form = tail.Form(as_json=as_json, full=full)
    _dead(context, stream, lambda desk: dead.show(desk, id, form=form, raw=raw))


@dead_app.command(
    "drop",
    help="Forget dead letters for good.  Exit status 1: not all of them were there.",
    epilog=_examples("cauce dead drop 1728123456789-0", "cauce dead drop --person +59112345678 --dry-run"),
)
@dead_app.command(
    "redrive",
    help="Put dead letters back, each once, for the group that buried them.  Mend first what the reason names.  They "
    "come after all that has been said since.  Exit status 1: not all were put back.",
    epilog=_examples("cauce dead redrive --group inference --since 2h --dry-run", "cauce dead redrive --all --yes"),
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
    from streams import dead, tail

    which = dead.Which(
        ids=ids or [], stream=stream, group=group, reason=reason, person=person, since=since, until=until,
        everything=everything,
    )  # fmt: skip
    how = dead.How(form=tail.Form(as_json=as_json, full=full), dry_run=dry_run, yes=yes)
    verb = dead.VERBS[str(context.info_name)]
    _dead(context, stream, lambda desk: dead.act(desk, verb, which, how))


def _dead(context: typer.Context, stream: str | None, ask: Callable[[Desk], Awaitable[int]]) -> None:
    """Ask of the dead letters of a stream, or of all; how that went is the exit status."""
    from streams import dead, tail

    topology = context.obj.topology
    streams = [tail.stream_of(stream, topology).removesuffix(".dead")] if stream else list(topology.streams)
    raise typer.Exit(entry.ask(context.obj, lambda stores: ask(dead.Desk(stores, topology, streams))))


def main() -> None:
    """The entry point: whatever we raise on purpose is one line on standard error and exit status 2."""
    try:
        app()
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # Whoever read our output (`| head`) has seen enough.
        sys.stderr.close()
        sys.exit(141)
    except BaseException as error:
        expected = entry.expected(error)
        if expected is None:
            raise
        sys.stderr.write(f"cauce: {expected}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
