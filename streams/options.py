"""
Options that several commands of `cauce` have, each said once, so that they read the same wherever they stand.
"""

from __future__ import annotations

from typing import Annotated

import typer

from streams import anew

Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Full = Annotated[bool, typer.Option("--full", help="Show telephone numbers and ids unmasked.")]
Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="The ingress; by default where settings say.")]

Trial = Annotated[bool, typer.Option(anew.TRIAL, hidden=True, help="Say whether it would start; start nothing.")]
"""For a process that is to begin anew, and for `cauce up` before it changes anything."""

Person = Annotated[str | None, typer.Option("--person", metavar="ID", help="Only what is of this person.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Buried since: 2h, 7d, 2025-10-05T14:00.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Buried until then, likewise.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
