"""
Options that several commands of `cauce` have, each said once, so that they read the same wherever they stand.
"""

from __future__ import annotations

from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Full = Annotated[bool, typer.Option("--full", help="Show telephone numbers and ids unmasked.")]
Url = Annotated[str | None, typer.Option("--url", metavar="URL", help="The ingress; by default where settings say.")]

Person = Annotated[str | None, typer.Option("--person", metavar="ID", help="Only what is of this person.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="Buried since: 2h, 7d, 2025-10-05T14:00.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Buried until then, likewise.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
