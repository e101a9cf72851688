"""
The commands `cauce model …`, by the same rules as the others: what one does stands in a module of its own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.commands import entry
from streams.errors import ConfigurationError

app = typer.Typer(help="The model that answers.", no_args_is_help=True)

Weights = Annotated[str, typer.Option("--weights", metavar="KIND", help="int8, float16 or float32.")]


@app.callback()
def model() -> None:
    """One command alone would otherwise be the whole group."""


@app.command(
    epilog=entry.examples(
        "cauce model export Qwen/Qwen2.5-0.5B-Instruct", "cauce model export ./my-model --to ./fast --weights float16"
    )
)
def export(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="As in MODEL: a name on the hub, or a folder.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", show_default="one under DATA_DIR/models", help="Where to.")
    ] = None,
    weights: Weights = "int8",
) -> None:
    """
    Prepare a model for OpenVINO, which answers about twice as fast on a CPU.

    MODEL then names the folder.  Needs cauce[inference,openvino]; running what it makes needs cauce[openvino] alone.
    """
    try:
        from processors.inference import export
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"cauce model export needs the package {error.name!r}: pip install 'cauce[inference,openvino]'"
        ) from error
    export.export(context.obj.settings, name, to, weights, typer.echo)
