"""Options from settings: a command takes settings objects, its user flat options with the fields' own help."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from mmdit_probe.configs.formats import FORMAT, FORMATS, check_formats
from mmdit_probe.configs.layers import Layers
from mmdit_probe.configs.setting import (
    GENERATION,
    INPUT,
    METHOD,
    MODEL,
    OUTPUT,
    Field,
    Setting,
    Settings,
    settings_of,
)
from mmdit_probe.configs.timesteps import Timesteps
from mmdit_probe.storage.invocation import started
from mmdit_probe.utils.distributed import share_of_part, sharing

from .parsing import decimals, layers_or_word, numbers, timesteps_or_all, words
from .repeating import command_name, recorded, repeat
from .terminal import say_loading

RESULTS = Path("results")
_PANELS = (INPUT, METHOD, GENERATION, MODEL, OUTPUT)
_PARSERS: Mapping[Any, Callable[[str], Any]] = {
    Layers: layers_or_word,
    Timesteps: timesteps_or_all,
    tuple[int, ...]: numbers,
    tuple[float, ...]: decimals,
}


_CONTEXT = inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context)


RUN_FOLDER = Setting("Output folder; an interrupted run continues there.", OUTPUT)


def from_run_setting(*flags: str) -> Setting:
    """Which run is repeated."""
    return Setting(
        "Repeat a run: its run.json, or the folder that holds it. Options given as well take the place of its own.",
        INPUT,
        flags=flags,
        default="nothing is repeated",
    )


@dataclass(frozen=True, kw_only=True)
class OutputConfig(Settings):
    """Where results go."""

    out: Annotated[Path, Setting("Output folder.", OUTPUT)] = RESULTS
    overwrite: Annotated[
        bool, Setting("Remove the files of the run that the folder holds, exactly those, and start anew.", OUTPUT)
    ] = False
    from_run: Annotated[
        Path | None,
        from_run_setting("--from-run", "--from"),
    ] = None
    as_json: Annotated[
        bool,
        Setting("Print the result as JSON on standard output, messages on standard error.", OUTPUT, flags=("--json",)),
    ] = False
    formats: Annotated[tuple[str, ...], FORMAT] = FORMATS

    def __post_init__(self) -> None:
        super().__post_init__()
        check_formats(self.formats)


@dataclass(frozen=True, kw_only=True)
class RunConfig(OutputConfig):
    """Where the results of a long run go."""

    out: Annotated[Path, RUN_FOLDER] = RESULTS


@dataclass(frozen=True)
class Overrides:
    """Marks a parameter that takes, as a dict, those fields of a settings class that the user gives.

    ``default`` says in words what a field is otherwise.
    """

    kind: type[Settings]
    default: Callable[[str], str]


def flat_options(command: Callable[..., None]) -> Callable[..., None]:
    """The command with flat options: one for each field of its parameters that are settings.

    A parameter's default, a settings object, gives its options their defaults. `ValueError` with the option's name if a
    value is wrong.
    """
    groups = {
        name: _group(parameter) for name, parameter in inspect.signature(command, eval_str=True).parameters.items()
    }
    options = [option for group in groups.values() for option in group.options]
    names = [option.name for option in options]
    if len(set(names)) < len(names):
        raise TypeError(f"{command.__name__}: two groups have the same option: {sorted(names)}")

    places, writes = {option.name for option in options if option.is_place}, "overwrite" in names

    @wraps(command)
    def flat(*, context: Any = None, **given: Any) -> None:
        if writes:
            say_loading()
        share = sharing(share_of_part(given.get("part")))
        run = started(command_name(context), recorded(given, places), given["overwrite"]) if writes else nullcontext()
        with share, run:
            command(**{name: group.take(given) for name, group in groups.items()})

    arguments = [option for option in options if option.panel is None]
    ordered = arguments + sorted(
        (option for option in options if option.panel is not None), key=lambda option: _PANELS.index(option.panel or "")
    )
    parameters = [_CONTEXT, *(option.parameter for option in ordered)]
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return flat


@dataclass(frozen=True)
class _Option:
    """One option: its parameter for typer, the panel that it stands in (None for arguments), whether it may name a folder."""

    name: str
    panel: str | None
    parameter: inspect.Parameter
    is_place: bool = False


@dataclass(frozen=True)
class _Group:
    """The options of one parameter, and how its value is made of theirs."""

    options: list[_Option]
    take: Callable[[Mapping[str, Any]], Any]


def _group(parameter: inspect.Parameter) -> _Group:
    kind = parameter.annotation
    marked = (
        [mark for mark in get_args(kind)[1:] if isinstance(mark, Overrides)] if get_origin(kind) is Annotated else []
    )
    if marked:
        own = settings_of(marked[0].kind)
        options = [_option(field, None, marked[0].default(field.name), optional=True) for field in own]
        return _Group(options, lambda given: dict(_given(own, given)))
    if isinstance(kind, type) and issubclass(kind, Settings):
        default = kind() if parameter.default is inspect.Parameter.empty else parameter.default
        return _Group(list(_options_of(default)), lambda given: _assembled(default, given))
    plain = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
    info = next((mark for mark in get_args(kind)[1:] if isinstance(mark, typer.models.OptionInfo)), None)
    panel = None if info is None else info.rich_help_panel or METHOD
    return _Group([_Option(parameter.name, panel, plain)], lambda given: given[parameter.name])


def _options_of(default: Settings) -> Iterator[_Option]:
    """The options of a settings object's fields, those of nested settings included."""
    for field in settings_of(type(default)):
        yield _option(field, getattr(default, field.name), field.setting.default)
    for name in _nested(default):
        yield from _options_of(getattr(default, name))


def _nested(default: Settings) -> list[str]:
    return [field.name for field in fields(default) if isinstance(getattr(default, field.name), Settings)]


def _option(field: Field, default: Any, words_for_default: str | None, optional: bool = False) -> _Option:
    setting = field.setting
    extra: dict[str, Any] = {"help": setting.help, "rich_help_panel": setting.panel}
    kind = _plain(field.type)
    if kind is int:  # of other numbers the settings say what is wrong, also of those that are not finite
        extra |= {"min": setting.low, "max": setting.high}
    if _is_parsed(field):
        kind, shown = list[str], _shown(default)
        extra["metavar"] = "TEXT" if _plain(field.type) == tuple[str, ...] else "NUMBERS"
        raw = None
    else:
        shown, raw = None, default
    if words_for_default is not None:
        extra["show_default"] = words_for_default
    elif shown is not None:
        extra["show_default"] = shown
    flags = setting.flags or (f"--{field.name.replace('_', '-')}",)
    if kind is bool and (default or optional):
        flags = (f"{flags[0]}/--no-{flags[0].removeprefix('--')}",)
    if raw is None and not setting.required:
        kind = kind | None
    if field.name == "from_run":
        extra |= {"is_eager": True, "callback": repeat}
    annotation = Annotated[kind, typer.Option(*flags, **extra)]  # type: ignore[valid-type]
    empty = inspect.Parameter.empty if setting.required and not optional else raw
    parameter = inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=empty, annotation=annotation)
    return _Option(field.name, setting.panel, parameter, setting.is_place)


def _plain(kind: Any) -> Any:
    """The type without None."""
    if get_origin(kind) in (Union, UnionType):
        parts = tuple(part for part in get_args(kind) if part is not NoneType)
        return Union[parts]  # noqa: UP007 - built at run time
    return kind


def _is_parsed(field: Field) -> bool:
    """Whether the value is read from text by a parser of ours."""
    kind = _plain(field.type)
    return kind in _PARSERS or kind == tuple[str, ...]


def _shown(default: Any) -> str | None:
    if isinstance(default, tuple):
        return ",".join(f"{value:g}" if isinstance(value, float) else str(value) for value in default) or None
    return default


def _given(own: tuple[Field, ...], values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields that the user gave, parsed."""
    for field in own:
        value = values[field.name]
        if value is None or value == []:
            continue
        yield field.name, _parsed(field, value) if _is_parsed(field) else value


def _parsed(field: Field, texts: list[str]) -> Any:
    kind = _plain(field.type)
    if kind == tuple[str, ...]:
        return words(texts) if field.setting.commas else tuple(texts)
    try:
        return _PARSERS[kind](",".join(texts))
    except ValueError as error:
        raise ValueError(f"{_flag(field)}: {error}") from None


def _flag(field: Field) -> str:
    return field.setting.flags[0] if field.setting.flags else f"--{field.name.replace('_', '-')}"


def _assembled(default: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings that the options' values say; fields without an option keep the default's."""
    own = settings_of(type(default))
    found = {field.name: getattr(default, field.name) for field in fields(default)}
    found |= {name: _assembled(getattr(default, name), values) for name in _nested(default)}
    found |= dict(_given(own, values))
    try:
        return type(default)(**found)
    except ValueError as error:
        raise ValueError(_by_flag(str(error), own)) from None


@contextmanager
def naming_options(*kinds: type[Settings]) -> Iterator[None]:
    """Errors that begin with the name of a field of these settings begin with its option's name instead."""
    try:
        yield
    except ValueError as error:
        own = tuple(field for kind in kinds for field in settings_of(kind))
        raise ValueError(_by_flag(str(error), own)) from None


def _by_flag(message: str, own: tuple[Field, ...]) -> str:
    for field in own:
        for ending in (" must", ":", " is"):
            if message.startswith(field.name + ending):
                return _flag(field) + message.removeprefix(field.name)
    return message
