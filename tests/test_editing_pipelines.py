"""Small editing pipelines with reference images, from their own call: grids, words, budgets, edits, studies."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from small_pipelines import small_pipeline

from mmdit_probe import I2RMaps, I2TMaps, Knockout, Probe, RegionMass

WIDE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8))
SQUARE = WIDE.resize((64, 64))
ARGUMENTS = {"num_inference_steps": 1, "height": 32, "width": 64, "output_type": "latent"}


def kontext():
    plain = small_pipeline("flux")
    names = ("scheduler", "vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "transformer")
    pipe = diffusers.FluxKontextPipeline(**{name: plain.components[name] for name in names})

    def run():
        size = {"max_area": 32 * 64, "_auto_resize": False, "max_sequence_length": 8}
        noise = torch.Generator().manual_seed(0)
        return pipe(image=WIDE, prompt="a red heart", generator=noise, **size, **ARGUMENTS).images

    return pipe, run


def flux2():
    pipe = small_pipeline("flux2")

    def run():
        noise = torch.Generator().manual_seed(0)
        given = {"image": [WIDE, SQUARE], "prompt": "a red heart", "max_sequence_length": 32}
        return pipe(**given, generator=noise, **ARGUMENTS).images

    return pipe, run


@pytest.mark.parametrize(("make", "grids"), [(kontext, ["16 x 24"]), (flux2, ["16 x 24", "16 x 16"])])
def test_each_reference_has_the_grid_of_its_image(make, grids):
    pipe, run = make()
    plain = run()
    with Probe(pipe, [RegionMass(), I2RMaps(), I2TMaps()]) as probe:
        probed = run()
    assert torch.equal(plain, probed)
    record = probe.dataset()
    assert record.attrs["grid"] == [8, 16]  # 32 x 64 px, two px a latent, two latents a token
    assert record.attrs["reference_grids"] == "; ".join(grids)
    assert record.attrs["extra_tokens"] == 0
    mass = record["region_mass"]
    for asking in "ITR":
        whole = sum(mass.sel(region=f"{asking}2{key}", drop=True) for key in "ITR")
        np.testing.assert_allclose(whole, 1, atol=1e-5)
    for number, grid in enumerate(grids, 1):
        maps = record[f"i2r_{number}"]
        assert " x ".join(map(str, maps.shape[-2:])) == grid
        told = record["reference_mass"].sel(asking="image", reference=str(number)).mean("head")
        np.testing.assert_allclose(maps.sum(maps.dims[-2:]), told, atol=1e-5)


def test_an_image_without_its_reference_is_another():
    pipe, run = kontext()
    plain, layers = run(), range(2)
    with Probe(pipe, [RegionMass()], edits=[Knockout(layers, edge, batch="all") for edge in ("I2R", "T2R")]):
        cut = run()
    assert not torch.equal(plain, cut)
    assert torch.equal(run(), plain)
