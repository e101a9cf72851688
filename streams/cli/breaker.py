"""The commands `cauce breaker …`, by the same rules as the others: what one does stands in a module of its own."""

from __future__ import annotations

import typer

from streams.commands import entry

app = typer.Typer(help="The breaker in front of OUTBOUND_URL.", no_args_is_help=True)


@app.command("show", epilog=entry.examples("cauce breaker show"))
def breaker_show(context: typer.Context) -> None:
    """Say whether replies are being delivered, held back, or stopped."""
    from streams.commands import status

    settings = context.obj.settings
    entry.ask(context.obj, lambda stores: status.breaker(settings, stores))


@app.command("close", epilog=entry.examples("cauce breaker close"))
def breaker_close(context: typer.Context) -> None:
    """Let deliveries go again, after the destination has been mended."""
    from streams.commands import status

    settings = context.obj.settings
    entry.ask(context.obj, lambda stores: status.close_breaker(settings, stores))
