"""Settings: frozen dataclasses whose fields say what they mean, checked when made and shown by the command line.

A field is declared once::

    steps: Annotated[int, Setting("Sampling steps.", GENERATION, low=1, high=1000)] = 28

Studies read ``config.steps``, the command line makes ``--steps`` of it, with this help in this panel. Fields without a
`Setting` (such as prompts, which are read from a file) have no option of their own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

INPUT, MODEL, GENERATION, METHOD, OUTPUT = "Input", "Model", "Generation", "Method", "Output"
"""The panels of ``--help``."""
LARGEST_SEED = 2**32 - 1
"""The largest that all the libraries' random streams take."""


@dataclass(frozen=True)
class Setting:
    """What a field means.

    Attributes:
        help: one or two sentences.
        panel: the panel of ``--help`` that it stands in.
        low: least value, of each number if there are several.
        high: largest value, likewise.
        above: a bound that values must exceed.
        below: a bound that values must stay under.
        flags: names of the option if they differ from the field's, such as ``("--layers", "--layer")``.
        default: the default in words, if the value does not say it.
        commas: several texts are given as one, separated by commas, not by repeating the option.
        required: the command line takes no default.
        is_place: the text may name a file or folder, which may also be relative.
    """

    help: str
    panel: str = METHOD
    low: float | None = None
    high: float | None = None
    above: float | None = None
    below: float | None = None
    flags: tuple[str, ...] = ()
    default: str | None = None
    commas: bool = False
    required: bool = False
    is_place: bool = False


@dataclass(frozen=True)
class Field:
    """A field of a settings class: its type without the annotation, its `Setting`, and its default."""

    name: str
    type: Any
    setting: Setting
    default: Any


@dataclass(frozen=True)
class Settings:
    """Base class of all settings; `ValueError` if a value is out of range or not among the choices."""

    def __post_init__(self) -> None:
        own: Any = type(self)  # mypy takes a class of dataclasses for unhashable
        for name, kind in _types_of(own).items():
            _check_choice(name, kind, getattr(self, name))
        for field in settings_of(type(self)):
            _check_numbers(field, getattr(self, field.name))


def settings_of(kind: type[Settings]) -> tuple[Field, ...]:
    """The fields of a settings class that have a `Setting`, in order."""
    known: Any = kind
    return _settings_of(known)


@cache
def _settings_of(kind: Any) -> tuple[Field, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(
        Field(field.name, get_args(hint)[0], setting, field.default)
        for field in fields(kind)
        for hint in (hints[field.name],)
        if get_origin(hint) is Annotated
        for setting in get_args(hint)[1:]
        if isinstance(setting, Setting)
    )


@cache
def _types_of(kind: Any) -> dict[str, Any]:
    """The types of a settings class's fields, by name."""
    return get_type_hints(kind)


def choices_of(kind: Any) -> tuple[Any, ...]:
    """The values of a Literal, or of the Literals in a union; none if there is none."""
    if get_origin(kind) is Literal:
        return get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return tuple(choice for part in get_args(kind) for choice in choices_of(part))
    return ()


def _check_choice(name: str, kind: Any, value: Any) -> None:
    choices = choices_of(kind)
    if choices and isinstance(value, str) and value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, got {value!r}")


def _check_numbers(field: Field, value: Any) -> None:
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int | float) and not isinstance(number, bool):
            _check_range(field, number)


def _check_range(field: Field, number: float) -> None:
    setting = field.setting
    inside = (
        (setting.low is None or number >= setting.low)
        and (setting.high is None or number <= setting.high)
        and (setting.above is None or number > setting.above)
        and (setting.below is None or number < setting.below)
    )
    if not math.isfinite(number):
        raise ValueError(f"{field.name} must be a finite number, {_expected(setting)}, got {number}")
    if not inside:
        raise ValueError(f"{field.name} must be {_expected(setting)}, got {number}")


def _expected(setting: Setting) -> str:
    low, high = setting.low, setting.high
    if low is not None:
        return f"{low} or more" if high is None else f"{low} to {high}"
    bounds = [f"above {setting.above}"] * (setting.above is not None) + [f"below {setting.below}"] * (
        setting.below is not None
    )
    return " and ".join(bounds) or "not too large"


def as_dict(config: Any) -> dict[str, Any]:
    """Settings as plain data, for ``run.json``; timesteps as the numbers that are read."""
    found = {field.name: getattr(config, field.name) for field in fields(config)}
    plain = {name: as_dict(value) if is_dataclass(value) else value for name, value in found.items()}
    for name in ("timestep", "timesteps"):
        if hasattr(config, f"chosen_{name}"):
            plain[name] = getattr(config, f"chosen_{name}")
    return plain
