"""The program's commands and their options, to check command lines that are written somewhere."""

import inspect
import shlex
import typing

import typer

from mmdit_probe.cli.magnet import app as magnet
from mmdit_probe.cli.program import whole

COMMANDS = {
    f"{group} {command.name or command.callback.__name__.replace('_', '-')}".strip(): command
    for group, of in (("", whole()), ("magnet", magnet))
    for command in of.registered_commands
}


def flags(command):
    """The options of a command."""
    for parameter in inspect.signature(command.callback).parameters.values():
        for mark in typing.get_args(parameter.annotation)[1:]:
            if isinstance(mark, typer.models.OptionInfo):
                yield from (name for name in (mark.default, *(mark.param_decls or ())) if isinstance(name, str))


def unknown_options(name, arguments):
    """The options of a command line that its command does not have."""
    known = {flag for names in flags(COMMANDS[name]) for flag in names.split("/")}
    return {word for word in shlex.split(arguments) if word.startswith("--")} - known - {"--help"}
