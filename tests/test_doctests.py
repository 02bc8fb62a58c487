"""The examples in docstrings run, and the most used classes have one."""

import doctest
import importlib
from pathlib import Path

import pytest

import mmdit_probe
from mmdit_probe import attention, edits, probe, readouts

WITH_EXAMPLE = [
    attention.Extra,
    attention.JointAttention,
    attention.TokenLayout,
    probe.PerturbedGuidance,
    probe.Probe,
    readouts.FeaturePCA,
    readouts.HeadGroupMaps,
    readouts.HeadStats,
    readouts.I2TMaps,
    readouts.Readout,
    readouts.RegionMass,
    readouts.T2IMaps,
    readouts.ValueNorms,
    readouts.WordMaps,
    edits.BlurText,
    edits.Edit,
    edits.Knockout,
    edits.Scale,
]


def modules():
    """The package's modules that have an example."""
    root = Path(mmdit_probe.__path__[0])
    files = [file for file in root.rglob("*.py") if ">>> " in file.read_text(encoding="utf-8")]
    return sorted(".".join(file.relative_to(root.parent).with_suffix("").parts) for file in files)


@pytest.mark.parametrize("name", modules())
def test_the_examples_of_a_module_run(name):
    found = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("documented", WITH_EXAMPLE, ids=lambda documented: documented.__name__)
def test_what_is_used_most_has_an_example(documented):
    assert ">>> " in documented.__doc__
