"""The command line: parse, call, print where the files are. One command a file."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from .analyze import analyze
from .attention_budget import attention_budget
from .bind import bind
from .collector import collector_paused
from .correspondence import correspondence
from .diff import diff
from .errors import user_message
from .evaluate import evaluate
from .examples import add_examples, tasks
from .explore import explore
from .find_expert import find_expert
from .find_heads import find_heads
from .guide import guide
from .leakage import leakage
from .magnet import app as magnet
from .maps import maps
from .models import models
from .neglect import neglect
from .options import flat_options
from .patch import patch
from .pca import pca
from .perturb import perturb
from .report import report
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
LOOK, CAUSE, MASKS, TRAIN, COMPARE = "Look", "Cause", "Masks", "Train", "Compare"
"""The panels of ``mmdit-probe --help``."""
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    LOOK: (attention_budget, value_norms, sinks, neglect, maps, correspondence, pca, report, analyze, explore),
    CAUSE: (perturb, guide, patch, bind, find_expert, find_heads),
    MASKS: (segment, group, evaluate, leakage),
    COMPARE: (diff, models),
}
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(flat_options(command))
app.add_typer(magnet, name="magnet", rich_help_panel=TRAIN)
add_examples(app)
add_examples(magnet, "magnet")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

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
    if len(sys.argv) == 1:
        say(tasks())
        flush()
        sys.exit(0)
    try:
        with collector_paused():
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
