"""
Options that several commands of `cauce` have, each said once, so that they read the same wherever they stand.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import typer

from streams import anew
from streams.errors import ConfigurationError
from streams.masking import is_masked

Given = TypeVar("Given", str, str | None, list[str] | None)


def whole(given: Given) -> Given:
    """What names somebody, or a message.  Raises ConfigurationError: it was copied from where it stood masked."""
    for each in [given] if isinstance(given, str) else given or ():
        if is_masked(each):
            raise ConfigurationError(f"{each!r} is masked and leads to nobody: ask with --full for the whole of it")
    return given


Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Full = Annotated[bool, typer.Option("--full", help="Show telephone numbers and ids unmasked.")]
Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="The ingress; by default where settings say.")]

Trial = Annotated[bool, typer.Option(anew.TRIAL, hidden=True, help="Say whether it would start; start nothing.")]
"""For a process that is to begin anew, and for `cauce up` before it changes anything."""

Person = Annotated[
    str | None, typer.Option("--person", metavar="ID", callback=whole, help="Only what is of this person.")
]
User = Annotated[str | None, typer.Option("--user", metavar="ID", callback=whole, help="Only what is of this person.")]
Sender = Annotated[str | None, typer.Option("--user", metavar="ID", callback=whole, help="Whose message it is.")]
Anybody = Annotated[
    str, typer.Argument(metavar="USER", callback=whole, help="The person, in any spelling that /chat takes.")
]
Anything = Annotated[
    str,
    typer.Argument(
        metavar="WAMID|ENTRY|USER",
        callback=whole,
        help="A message's id of any kind, a webhook-id, a trace id; a person.",
    ),
]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Buried since: 2h, 7d, 2025-10-05T14:00.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Buried until then, likewise.")]
From = Annotated[
    str,
    typer.Option("--from", metavar="TIME", help="2h (ago), 2025-10-05T14:00, start, now, or an entry's id, after it."),
]
Types = Annotated[list[str] | None, typer.Option("--type", metavar="TYPE", help="Only of this type, or these.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
