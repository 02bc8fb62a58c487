"""The command line: parse, call, print where the files are. One command a file."""

from __future__ import annotations

import logging
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from .analyze import analyze
from .attention_budget import attention_budget
from .diff import diff
from .errors import user_message
from .evaluate import evaluate
from .explore import explore
from .find_expert import find_expert
from .guide import guide
from .magnet import app as magnet
from .maps import maps
from .models import models
from .neglect import neglect
from .options import flat_options
from .pca import pca
from .perturb import perturb
from .segment import group, segment
from .session import release
from .sinks import sinks
from .terminal import flush, pipe_closed, prepare, say
from .value_norms import value_norms

INTERRUPTED = 130
HELP_NAMES = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", context_settings=HELP_NAMES
)
for command in (
    attention_budget,
    value_norms,
    sinks,
    neglect,
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
    app.command()(flat_options(command))
app.add_typer(magnet, name="magnet")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"mmdit-probe {version('mmdit-probe')}")
        raise typer.Exit


@app.callback()
def _program(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """See and change what the joint attention of multi-modal diffusion transformers does."""


TALKATIVE = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
"""Where torchao is installed these tell, whenever diffusers is loaded, of kernels for other GPUs."""


def main() -> None:
    """Run; whatever the user can mend is one line on standard error and exit code 2, an interrupt 130."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.ERROR)
    prepare()
    try:
        code = app(standalone_mode=False, prog_name="mmdit-probe")
    except SystemExit as stopped:
        code = 0 if pipe_closed() else stopped.code
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        say(f"error: {message}", err=True)
        code = 2
    finally:
        release()
    if code == INTERRUPTED:
        say("stopped; finished work is kept", err=True)
    flush()
    sys.exit(code if isinstance(code, int) else 0)
