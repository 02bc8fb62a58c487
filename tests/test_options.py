"""Options are made of settings: each field once, one wording for one option, checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections import defaultdict
from typing import Annotated

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

import mmdit_probe.configs as configs
from mmdit_probe.cli.magnet import app as magnet
from mmdit_probe.cli.options import Overrides, flat_options
from mmdit_probe.cli.parsing import numbers
from mmdit_probe.cli.program import whole
from mmdit_probe.configs import GenerationConfig, MapsConfig, Setting, Settings, as_dict, scaled_timesteps
from mmdit_probe.configs.setting import GENERATION, INPUT, METHOD, MODEL, OUTPUT, settings_of
from mmdit_probe.configs.timesteps import chosen_timesteps

COMMANDS = {
    command.name or command.callback.__name__.replace("_", "-"): command.callback
    for group in (whole(), magnet)
    for command in group.registered_commands
}
OWN_WORDING = {
    "--amount": "how much of an edit; find-heads knows one edit alone",
    "--out": "a folder, a file, or a folder that a long run continues in",
    "--prompt": "one prompt, or any number of them",
    "--model": "caption's is an image-to-text model",
    "--steps": "magnet train's are training steps",
    "--crop": "segmentation says which is the paper's",
    "--timesteps": "one, or several",
    "--method": "each command's own methods",
    "--words": "maps also reads several prompts",
    "--read": "magnet train says what its loss reads, the others which maps",
}


def options_of(callback):
    for parameter in inspect.signature(callback).parameters.values():
        for mark in typing.get_args(parameter.annotation)[1:]:
            if isinstance(mark, typer.models.OptionInfo):
                yield parameter, mark


def test_one_option_has_one_wording_everywhere():
    wordings = defaultdict(set)
    for callback in COMMANDS.values():
        for parameter, option in options_of(callback):
            flag = (
                option.default if isinstance(option.default, str) else f"--{parameter.name}"
            )  # typer's first argument
            wordings[flag.split("/")[0]].add(option.help)
    assert {flag for flag, found in wordings.items() if len(found) > 1} <= set(OWN_WORDING)


def test_every_option_stands_in_a_panel_and_has_help():
    for name, callback in COMMANDS.items():
        for parameter, option in options_of(callback):
            assert option.rich_help_panel in (INPUT, METHOD, GENERATION, MODEL, OUTPUT), (name, parameter.name)
            assert option.help, (name, parameter.name)


@pytest.mark.parametrize("name", [name for name in configs.__all__ if name.endswith("Config")])
def test_what_is_in_a_config_is_in_a_command_or_said_not_to_be(name):
    """Fields without a setting are those that a command works out for itself."""
    kind = getattr(configs, name)
    own = {field.name for field in settings_of(kind)}
    nested = {f.name for f in dataclasses.fields(kind) if isinstance(f.default, Settings)}
    worked_out = {"prompt", "prompts", "layer", "dataset", "task", "method", "refine", "threshold", "small"}
    assert {f.name for f in dataclasses.fields(kind)} - own - nested <= worked_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Soup(Settings):
    """Settings of a test."""

    carrots: Annotated[int, Setting("How many carrots.", low=0, high=9)] = 3
    herbs: Annotated[tuple[str, ...], Setting("Herbs, separated by commas.", commas=True)] = ("dill",)
    hot: Annotated[bool, Setting("Served hot.")] = True
    generation: GenerationConfig = GenerationConfig()


def taken(monkeypatch, capsys, command, *arguments):
    from typer.testing import CliRunner

    program = typer.Typer()
    program.command()(flat_options(command))
    return CliRunner().invoke(program, arguments)


def test_a_command_gets_objects_with_the_options_values(monkeypatch, capsys):
    seen = []

    def cook(soup: Soup) -> None:
        seen.append(soup)

    assert taken(monkeypatch, capsys, cook).exit_code == 0
    arguments = ["--carrots", "5", "--herbs", "basil, wild garlic", "--no-hot", "--steps", "4"]
    assert taken(monkeypatch, capsys, cook, *arguments).exit_code == 0
    generation = GenerationConfig(steps=4)
    assert seen == [Soup(), Soup(carrots=5, herbs=("basil", "wild garlic"), hot=False, generation=generation)]


def test_a_parameters_default_gives_the_options_theirs(monkeypatch, capsys):
    seen = []

    def cook(soup: Soup = Soup(carrots=7)) -> None:
        seen.append(soup.carrots)

    taken(monkeypatch, capsys, cook)
    assert seen == [7]


def test_overrides_hold_what_was_given_alone(monkeypatch, capsys):
    seen = []

    def cook(changes: Annotated[dict, Overrides(Soup, lambda name: "the recipe's")]) -> None:
        seen.append(changes)

    taken(monkeypatch, capsys, cook, "--carrots", "2", "--no-hot")
    taken(monkeypatch, capsys, cook)
    assert seen == [{"carrots": 2, "hot": False}, {}]


def test_two_groups_with_one_option_are_a_mistake():
    def cook(soup: Soup, other: Soup) -> None: ...

    with pytest.raises(TypeError, match="two groups have the same option"):
        flat_options(cook)


def test_settings_refuse_what_is_out_of_range():
    with pytest.raises(ValueError, match="carrots must be 0 to 9, got 10"):
        Soup(carrots=10)
    with pytest.raises(ValueError, match="steps must be 1 to 1000, got 0"):
        GenerationConfig(steps=0)
    with pytest.raises(
        ValueError, match=re.escape("direction must be one of i2t, t2i, output, concept, contribution, got 'i2i'")
    ):
        MapsConfig(direction="i2i")


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_numbers_read_what_they_write(values):
    assert numbers(",".join(map(str, values))) == tuple(dict.fromkeys(values))


@pytest.mark.parametrize(
    ("text", "found"), [("3-7,10", (3, 4, 5, 6, 7, 10)), ("-1", (-1,)), ("2-2", (2,)), ("1, 1", (1,))]
)
def test_ranges(text, found):
    assert numbers(text) == found


@pytest.mark.parametrize("text", ["7-3", "a", "", "1-", "1--2", "0-9999999"])
def test_what_is_no_range_is_refused(text):
    with pytest.raises(ValueError, match="number"):
        numbers(text)


@given(st.integers(1, 1000))
def test_default_timesteps_exist_in_every_run(steps):
    found = scaled_timesteps((8, 28), steps)
    assert found[-1] == steps
    assert all(1 <= timestep <= steps for timestep in found)
    assert chosen_timesteps("all", (8,), steps) == tuple(range(steps, 0, -1))


def test_a_run_is_known_by_the_timesteps_that_it_reads():
    few = MapsConfig(generation=GenerationConfig(steps=4))
    assert as_dict(few)["timesteps"] == (1,)
    assert as_dict(MapsConfig())["timesteps"] == as_dict(MapsConfig(timesteps=(8,)))["timesteps"]


WRONG = [
    (["maps", "--prompt", "sand", "--words", "sand", "--timesteps", "0"], "--timesteps must be 1 or more, got 0"),
    (["maps", "--prompt", "sand", "--words", "sand", "--timesteps", "29"], "--timesteps: must be in 1 to 28"),
    (["maps", "--prompt", " ", "--words", "sand"], "the prompt is empty"),
    (
        ["maps", "--prompt", "sand", "--words", "sand", "--layers", "3-99"],
        "--layers: this model has layers 0 to 11, got 12",
    ),
    (["perturb", "--prompt", "sand", "--layer", "12"], "--layers: this model has layers 0 to 11, got 12"),
    (["perturb", "--prompts", "missing.txt"], "missing.txt can't be read"),
    (["analyze", "--prompt", "sand", "--image", "missing.png"], "no file missing.png"),
    (["segment", "missing.png", "--classes", "dog"], "missing.png"),
    (["evaluate", "scenes", "--layers", "50"], "--layers: this model has layers 0 to 11, got 50"),
]


@pytest.mark.parametrize(
    ("arguments", "message"), WRONG, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_arguments_are_checked_before_anything_is_loaded(run, monkeypatch, arguments, message):
    from mmdit_probe.pipelines import loading

    monkeypatch.setattr(loading, "load_pipeline", lambda *_, **__: pytest.fail("loaded"))
    code, _, err = run(*arguments, model=False)
    assert code == 2
    assert message in err.strip().splitlines()[-1]


def test_the_version_is_told_and_h_is_help(run):
    code, out, _ = run("--version", model=False)
    assert code == 0
    assert re.fullmatch(r"mmdit-probe \d+\.\d+\.\d+\n", out)
    assert run("maps", "-h", model=False)[1] == run("maps", "--help", model=False)[1]
