"""MAGNET: a LoRA trained with a mask loss on the expert layer's attention, and what it changes.

One command a file.
"""

from __future__ import annotations

import typer

from ..options import flat_options
from .caption import caption
from .compare import compare
from .compbench import compbench
from .import_official import import_official
from .train import train

app = typer.Typer(
    help=(__doc__ or "").split("\n")[0],
    no_args_is_help=True,
    rich_markup_mode="markdown",
)
for command in (train, compare, caption, compbench, import_official):
    app.command()(flat_options(command))
