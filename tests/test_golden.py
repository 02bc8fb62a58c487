"""The I2T maps of the released Seg4Diff code, on random weights and inputs, to 1e-5."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SD3Transformer2DModel

from mmdit_probe import I2TMaps, Probe

GOLDEN = Path(__file__).parent / "golden" / "sd3_i2t_official.npz"


@pytest.fixture(scope="module")
def golden():
    return np.load(GOLDEN)


@pytest.fixture(scope="module")
def probed(golden):
    model = SD3Transformer2DModel(**json.loads(str(golden["config"]))).eval()
    weights = {name[3:]: torch.from_numpy(golden[name]) for name in golden.files if name.startswith("w::")}
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert missing == ["pos_embed.pos_embed"]
    assert not unexpected
    inputs = {
        "hidden_states": golden["x"],
        "encoder_hidden_states": golden["e"],
        "pooled_projections": golden["pool"],
        "timestep": golden["t"],
    }
    with torch.no_grad(), Probe(model, [I2TMaps(heads="all")]) as probe:
        out = model(**{name: torch.from_numpy(value) for name, value in inputs.items()}).sample
    return out, probe.dataset()["i2t"].isel(call=0, batch=0)


def test_output(golden, probed):
    out, _ = probed
    np.testing.assert_allclose(out[0, :, ::16, ::16].numpy(), golden["out_slice"], atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(out.mean().item(), golden["out_mean"], atol=1e-5)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_i2t_maps(golden, probed, layer):
    maps = (
        probed[1].sel(layer=layer, token=slice(0, 77)).stack(query=("row", "col")).transpose("head", "query", "token")
    )
    assert maps.shape == (2, 4096, 77)
    np.testing.assert_allclose(maps.mean("head").values[::31], golden[f"i2t_mean_l{layer}"], atol=1e-5)
    np.testing.assert_allclose(maps.values[0, ::97], golden[f"i2t_head0_l{layer}"], atol=1e-5)
