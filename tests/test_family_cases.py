"""What single families and unknown transformers do at their edges."""

import diffusers
import pytest
import torch
from models_flux import inputs as flux_inputs
from models_image import CASES as IMAGE_CASES
from models_video import CASES as VIDEO_CASES

from mmdit_probe import BlurText, Extra, I2TMaps, Probe, Region, RegionMass, TokenLayout
from mmdit_probe.families.qwen import grid_from_shapes
from mmdit_probe.families.unet import unet_level

pytestmark = [
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),  # Mochi
    pytest.mark.filterwarnings("ignore:.*Transformer2DModelOutput:FutureWarning"),
]


def cases(*names):
    return [case for case in (*IMAGE_CASES, *VIDEO_CASES) if case.name in names]


class Mystery(torch.nn.Module):
    """Joint attention that no entry describes."""

    def __init__(self):
        super().__init__()
        self.config = {"patch_size": 1}
        self.blocks = torch.nn.ModuleList(torch.nn.Module() for _ in range(2))
        for block in self.blocks:
            block.attn = torch.nn.Identity()
            block.attn.forward = lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x)

    def forward(self, latents, encoder_hidden_states):
        tokens = torch.cat([encoder_hidden_states, latents.flatten(2).transpose(1, 2)], 1)[:, None]
        for block in self.blocks:
            tokens = block.attn(tokens)
        return tokens


def test_an_unknown_joint_model_asks_for_a_layout():
    model, inputs = Mystery(), (torch.randn(2, 4, 3, 5), torch.randn(2, 7, 4))
    asks = r"come first in Mystery; give Probe\(layout=TokenLayout\(\(3, 5\), 7, 'image"
    with pytest.raises(ValueError, match=asks), Probe(model, [RegionMass()]):
        model(*inputs)
    with Probe(model, [I2TMaps()], layout=TokenLayout((3, 5), 7, "text-image")) as probe:
        model(*inputs)
    assert probe.dataset()["i2t"].shape == (1, 2, 2, 3, 5, 7)


def test_an_unknown_input_asks_for_a_layout():
    model = Mystery()
    with pytest.raises(ValueError, match="cannot read the token layout of Mystery"), Probe(model, [RegionMass()]):
        model(torch.randn(2, 15, 4), torch.randn(2, 7, 4))


@pytest.mark.parametrize(("queries", "grid"), [(5 * 7, (5, 7)), (3 * 4, (3, 4)), (2 * 2, (2, 2)), (1, (1, 1))])
def test_levels_of_a_unet(queries, grid):
    layout = TokenLayout((5, 7), 9, scope="cross")
    assert unet_level(layout, queries, 9).grid == grid
    assert unet_level(layout, queries + 1, 9) is None
    assert unet_level(layout, queries, queries) is None or queries == 9


def test_layers_of_different_grids_are_recorded_apart():
    model = diffusers.UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=16,
        attention_head_dim=2,
    )
    inputs = {"sample": torch.randn(1, 4, 6, 10), "timestep": 500, "encoder_hidden_states": torch.randn(1, 7, 16)}
    with Probe(model, [I2TMaps()]) as probe:
        model(**inputs)
    with pytest.raises(ValueError, match=r"record layers of one size at a time \(layers="):
        probe.dataset()
    with Probe(model, [I2TMaps()], layers=[1, 2, 3, 4]) as probe:
        model(**inputs)
    assert probe.dataset().attrs["grid"] == [3, 5]
    assert probe.dataset()["i2t"].sizes["layer"] == 4


@pytest.mark.parametrize("case", cases("lumina2-ragged", "mochi", "z-image-ragged"), ids=lambda case: case.name)
def test_edits_of_calls_that_are_arranged(case):
    """An edit that blurs nothing changes nothing; one that blurs changes the output, also of single samples."""
    model, inputs = case.model(), case.inputs()
    outputs = []
    for edits in ([], [BlurText(1, kernel=1)], [BlurText(1, sigma=5.0, kernel=3)]):
        with Probe(model, [], edits=edits):
            output = model(**inputs, return_dict=False)[0]
        outputs.append(torch.stack(list(output)))
    torch.testing.assert_close(outputs[0], outputs[1])
    assert ((outputs[0] - outputs[2]).abs().amax((1, 2, 3, 4) if outputs[0].ndim == 5 else (1, 2, 3)) > 1e-5).all()


def test_stop_early_waits_for_the_last_sample():
    (case,) = cases("mochi")
    model, inputs = case.model(), case.inputs()
    with Probe(model, [RegionMass()], layers=[0], stop_early=True) as probe:
        model(**inputs)
    assert probe.dataset().sizes["batch"] == 2


def test_extras_take_their_share():
    layout = TokenLayout((2, 3), 4, "text-image", (Extra("register", 2, "first"), Extra("padding", 1, "between")))
    assert (layout.tokens, layout.extra) == (13, 3)
    assert (layout.text_slice, layout.image_slice) == (slice(2, 6), slice(7, 13))
    assert layout.extra_keys == [slice(0, 2), slice(6, 7)]
    assert layout.uniform(Region.I2T) == 4 / 13


@pytest.mark.parametrize(
    ("shapes", "layered", "grid"),
    [
        ([(1, 3, 4)] * 2, False, (3, 4)),
        ([[(1, 3, 4), (1, 5, 6)]] * 2, False, (3, 4)),
        ((1, 3, 4), False, (3, 4)),
        ([[(1, 3, 4), (1, 3, 4), (1, 5, 6)]], True, (2, 3, 4)),
    ],
)
def test_shapes_of_images(shapes, layered, grid):
    assert grid_from_shapes(shapes, layered) == grid


def test_ids_that_are_no_grid_are_explained():
    model = diffusers.FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=16,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
    )
    inputs = flux_inputs(pooled_projections=torch.randn(2, 8))
    inputs["img_ids"][-1] += 1
    with pytest.raises(ValueError, match=r"span .* but there are"), Probe(model, [RegionMass()]):
        model(**inputs)
