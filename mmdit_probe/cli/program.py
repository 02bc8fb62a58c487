"""The program's commands, of which only those that a call needs are imported: `mmdit-probe --help` answers at once."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Sequence
from importlib import import_module
from importlib.resources import files
from typing import Annotated

import typer

LOOK, CAUSE, MASKS, TRAIN, COMPARE = "Look", "Cause", "Masks", "Train", "Compare"
"""The panels of ``mmdit-probe --help``."""
COMMANDS: dict[str, tuple[str, ...]] = {
    LOOK: (
        *("attention-budget", "value-norms", "sinks", "neglect", "maps", "correspondence"),
        *("pca", "report", "analyze", "explore", "serve"),
    ),
    CAUSE: ("perturb", "guide", "patch", "bind", "find-expert", "find-heads"),
    MASKS: ("segment", "group", "evaluate", "leakage"),
    COMPARE: ("diff", "models"),
    TRAIN: ("magnet",),
}
"""By panel, the commands; each is a function in a file of its own, but for those in `_ELSEWHERE` and `_GROUPS`."""
_ELSEWHERE = {"group": "segment"}
_GROUPS = ("magnet",)
"""Commands of commands: a package whose ``app`` holds them, and whose docstring is their help."""
_TALKATIVE = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")
"""Where torchao is installed these tell, whenever diffusers is loaded, of kernels for other GPUs."""
_HELP = {"help_option_names": ["-h", "--help"]}


def program(arguments: Sequence[str]) -> typer.Typer:
    """The program with what its arguments ask for: one command, the summaries of all for ``--help``, or all of them."""
    if not any(name.endswith("_COMPLETE") and name.startswith("_") for name in os.environ):
        if arguments and arguments[0] in _panels():
            return _holding(arguments[0])
        if any(argument in ("-h", "--help") for argument in arguments):
            return _summarized()
    return whole()


def whole() -> typer.Typer:
    """The program with all commands."""
    return _holding(*_panels())


def _panels() -> dict[str, str]:
    """The panel of each command."""
    return {name: panel for panel, names in COMMANDS.items() for name in names}


def _empty() -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode="markdown", context_settings=_HELP
    )
    app.callback()(_program)
    return app


def _holding(*names: str) -> typer.Typer:
    """The program with some commands, each with its options and examples."""
    from .examples import add_examples
    from .options import flat_options

    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.ERROR)
    app, panels = _empty(), _panels()
    for name in names:
        module = import_module(f".{_file(name)}", __package__)
        if name in _GROUPS:
            app.add_typer(module.app, name=name, rich_help_panel=panels[name])
            add_examples(module.app, name)
        else:
            command = getattr(module, name.replace("-", "_"))
            app.command(rich_help_panel=panels[name])(flat_options(command))
    add_examples(app)
    return app


def _summarized() -> typer.Typer:
    """The program with commands that have nothing but their summaries."""
    app = _empty()
    for name, panel in _panels().items():
        app.command(name, help=summary(name), rich_help_panel=panel)(_nothing)
    return app


def _nothing() -> None:
    """Stands for a command whose summary alone is shown."""


def summary(name: str) -> str:
    """The first paragraph of a command's docstring, read from its file without importing it."""
    package = files(__package__)
    file = package / name / "__init__.py" if name in _GROUPS else package / f"{_file(name)}.py"
    text = file.read_text(encoding="utf-8")
    start = 0 if name in _GROUPS else text.index(f"\ndef {name.replace('-', '_')}(")
    _, docstring, _ = text[start:].split('"""', 2)
    return inspect.cleandoc(docstring).split("\n\n")[0].replace("\n", " ")


def _file(name: str) -> str:
    return _ELSEWHERE.get(name, name.replace("-", "_"))


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"mmdit-probe {version('mmdit-probe')}")
        raise typer.Exit


def _program(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """See and change what the joint attention of multi-modal diffusion transformers does."""
