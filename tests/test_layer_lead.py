"""Whether the layer with the most attention to text, or the longest values, leads by more than chance."""

import numpy as np
import pytest
import xarray as xr

from mmdit_probe.metrics.verdicts import Form
from mmdit_probe.studies.layer_lead import layer_lead


def made_up(prompts, lead, layers=(3, 5, 7)):
    values = np.random.default_rng(0).normal(0.3, 0.02, (prompts, 2, len(layers)))
    values[..., 1] += lead
    return xr.DataArray(values, dims=("prompt", "timestep", "layer"), coords={"layer": list(layers)})


def test_a_clear_lead_is_outside_chance():
    lines = layer_lead(made_up(12, 0.2), Form(1, 100))
    assert lines[0].startswith("Layer 5: its lead over the mean of the other 2 layers, ")
    assert all(line.endswith("outside chance.") for line in lines)
    assert "n = 12 prompts" in lines[1]


def test_no_lead_is_within_chance():
    (line,) = layer_lead(made_up(12, 0.0), Form(1, 100))
    assert line.endswith("within chance.")


@pytest.mark.parametrize("prompts", [1, 4])
def test_few_prompts_give_no_verdict(prompts):
    (line,) = layer_lead(made_up(prompts, 0.2), Form(1, 100))
    assert line == f"Layer 5 leads in this sample; too few prompts for an interval ({prompts}; 5 needed), no verdict."
    assert layer_lead(made_up(prompts, 0.2).isel(prompt=0), Form(1, 100))[0].startswith("Layer 5 leads in this sample")


def test_equal_layers_tie_and_one_layer_leads_nothing():
    (line,) = layer_lead(made_up(6, 0.0) * 0 + 1, Form(2))
    assert line == "Layer 3, layer 5 and layer 7 tie: none leads."
    assert layer_lead(made_up(6, 0.0).isel(layer=[0]), Form(2)) == []
    assert layer_lead(made_up(6, 0.0) * np.nan, Form(2)) == []
