"""Runs that are killed or interrupted: finished work is kept, and the numbers are those of an undisturbed run."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import make_inputs, make_sd3
from faults import COMMANDS

from mmdit_probe import BlurText, I2TMaps, Probe, RegionMass
from mmdit_probe.attention.intercept import active_probes

KILLS = int(os.environ.get("KILLS", "5"))


def torture(random_folder, work, *arguments):
    command = [sys.executable, Path(__file__).with_name("faults.py"), *arguments]
    done = subprocess.run(
        [*command, "--model", random_folder, "--work", work], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def check(rows, kills):
    for killed, interrupted in zip(rows[::2], rows[1::2], strict=True):
        assert killed["kills"] == kills
        assert interrupted["code"] == 130
        assert interrupted["items"] >= 2
        assert interrupted["said"] == "stopped; finished work is kept"


def test_a_kill_loses_nothing_that_was_finished(random_folder, tmp_path):
    check(torture(random_folder, tmp_path, "evaluate", "--kills", "1"), 1)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_many_kills_at_random_moments(random_folder, tmp_path, command):
    rows = torture(random_folder, tmp_path, command, "--kills", str(KILLS))
    check(rows, KILLS)
    assert rows[0]["hits"] > KILLS / 2


@pytest.mark.parametrize("moment", ["readout", "edit", "layer"])
def test_an_interrupt_leaves_the_model_as_it_was(moment, monkeypatch):
    """Ctrl-C raises KeyboardInterrupt wherever Python happens to be."""
    model, inputs = make_sd3(), make_inputs()
    plain = model(**inputs).sample
    hooks = [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]

    def stop(*arguments, **named):
        raise KeyboardInterrupt

    if moment == "layer":
        monkeypatch.setattr(model.transformer_blocks[1].attn.to_q, "forward", stop)
    else:
        kind, method = {"readout": (I2TMaps, "reduction"), "edit": (BlurText, "apply")}[moment]
        monkeypatch.setattr(kind, method, stop)
    with pytest.raises(KeyboardInterrupt), Probe(model, [RegionMass(), I2TMaps()], edits=[BlurText(1, 1.0, 3)]):
        model(**inputs)
    monkeypatch.undo()
    assert active_probes() == 0
    assert hooks == [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()]
    assert (model(**inputs).sample == plain).all()
