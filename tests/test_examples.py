"""Examples and tasks: every command and option that they name exists, and they are shown where they should be."""

import re

import pytest
from command_lines import COMMANDS, unknown_options

from mmdit_probe.cli.examples import EXAMPLES, TASKS, tasks
from mmdit_probe.configs.formats import formats_of

SHOWN = [(name, arguments) for name, found in EXAMPLES.items() for arguments in found]
SHOWN += [(command, arguments) for _, command, arguments in TASKS]


def test_each_command_has_an_example():
    assert set(EXAMPLES) == set(COMMANDS)


@pytest.mark.parametrize(("name", "arguments"), SHOWN)
def test_an_example_names_what_exists(name, arguments):
    assert not unknown_options(name, arguments)


def test_examples_stand_at_the_end_of_the_help(run):
    code, out, _ = run("maps", "--help", model=False)
    assert code == 0
    assert out.index("Examples:") > out.index("--overwrite")
    assert "mmdit-probe maps --prompt" in re.sub(r"\s+", " ", out)


def test_the_program_alone_shows_what_can_be_done(monkeypatch, capsys):
    from mmdit_probe.cli import main

    monkeypatch.setattr("sys.argv", ["mmdit-probe"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert capsys.readouterr().out == tasks() + "\n"


def test_one_format_is_one_file(run, tmp_path):
    given = ["--prompt", "sand", "--steps", "1", "--max-sequence-length", "0", "--timesteps", "1"]
    code, _, err = run("value-norms", *given, "--format", "svg")
    assert code == 0, err
    assert {file.suffix for file in (tmp_path / "results/value-norms").glob("value_norms*")} >= {".svg", ".csv"}
    assert not list((tmp_path / "results").rglob("*.pdf"))
    code, _, err = run("value-norms", *given, "--format", "png,gif", "--out", "other")
    assert code == 2
    assert "--format must be some of pdf, png, svg, got gif" in err
    assert not (tmp_path / "other").exists()


def test_formats_are_each_written_once():
    assert formats_of(["png,svg", "png"]) == ("png", "svg")
    assert formats_of([]) == ("pdf", "png")
