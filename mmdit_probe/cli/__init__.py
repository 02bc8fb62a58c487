"""The command line: parse, call, print where the files are. One command a file."""

from __future__ import annotations

import sys

import typer

from .analyze import analyze
from .attention_budget import attention_budget
from .diff import diff
from .evaluate import evaluate
from .explore import explore
from .find_expert import find_expert
from .guide import guide
from .maps import maps
from .models import models
from .pca import pca
from .perturb import perturb
from .segment import group, segment
from .value_norms import value_norms

app = typer.Typer(
    help="See and change what the joint attention of multi-modal diffusion transformers does.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    attention_budget,
    value_norms,
    maps,
    pca,
    analyze,
    explore,
    diff,
    perturb,
    guide,
    find_expert,
    segment,
    group,
    evaluate,
    models,
):
    app.command()(command)


def main() -> None:
    """Run; user errors are one line on standard error and exit code 2."""
    try:
        app()
    except ValueError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(2)
    except KeyboardInterrupt:
        typer.echo("stopped; finished work is kept", err=True)
        sys.exit(130)
