"""Reference images as a third stream beside image and text: their places, their grids, their share of the attention."""

from copy import deepcopy

import diffusers
import models_flux
import models_image
import models_latents
import numpy as np
import pytest
import torch
import xarray as xr
from conftest import make_sd3
from naive import full_matrix, random_call
from test_families import Keep, image_metrics, layer_0, output_of

from mmdit_probe import Extra, JointAttention, Probe, Region, RegionMass, TokenLayout, load_record, save_record
from mmdit_probe.attention.layout import TEXT_AND_IMAGE
from mmdit_probe.families.flux import reference_grids, with_references
from mmdit_probe.families.qwen import references_from_shapes
from mmdit_probe.probe.dataset import recorded_layout, uniform_shares
from mmdit_probe.readouts.base import read

LAYOUTS = {
    "two references": TokenLayout(
        (3, 4), 5, "text-image", (Extra("reference", 6, "last", (2, 3)), Extra("reference", 4, "last", (4, 1)))
    ),
    "apart, with registers": TokenLayout(
        (3, 4),
        5,
        "image-text",
        (Extra("reference", 6, "last", (2, 3)), Extra("register", 2, "first"), Extra("reference", 3, "first")),
    ),
    "keys alone": TokenLayout((3, 4), 5, extras=(Extra("reference", 6, "between", (2, 3)),), scope="image-queries"),
}
each_layout = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def places(slices):
    return [place for each in slices for place in range(each.start, each.stop)]


def attention_of(layout, **arguments):
    call = random_call(2, 3, layout.tokens, 8, **arguments)
    query = call.query[:, :, : layout.queries]
    return JointAttention(type(call)(query, call.key, call.value, call.arguments), layout)


def test_references_are_listed_as_they_stand():
    layout = LAYOUTS["apart, with registers"]
    assert [reference.tokens for reference in layout.references] == [3, 6]
    assert layout.reference_slices == [slice(2, 5), slice(22, 28)]
    assert (layout.reference, layout.extra, layout.tokens) == (9, 2, 28)
    assert layout.extra_keys == [slice(0, 2)]


def test_the_regions_of_a_model_are_those_of_its_streams():
    plain = TokenLayout((3, 4), 5)
    assert plain.regions == set(TEXT_AND_IMAGE) == set(plain.listed_regions)
    assert LAYOUTS["two references"].regions == set(Region)
    assert LAYOUTS["keys alone"].regions == {Region.I2I, Region.I2T, Region.I2R}
    assert TokenLayout((3, 4), 5, extras=(Extra("reference", 6, "last"),), scope="cross").regions == {Region.I2T}


@each_layout
def test_masses_are_those_of_the_full_matrix(layout):
    attention = attention_of(layout)
    matrix = full_matrix(attention.call)
    fields = read([RegionMass()], attention)
    mass = dict(zip(layout.listed_regions, fields["region_mass"].values.unbind(-1), strict=True))
    for region in layout.listed_regions:
        if region not in layout.regions:
            assert mass[region].isnan().all()
            continue
        rows, cols = places(layout.queries_of(region.asking)), places(layout.keys_of(region.answering))
        twin = matrix[:, :, rows][..., cols].sum(-1).mean(-1)
        torch.testing.assert_close(mass[region].double(), twin, atol=1e-5, rtol=0)
    told = fields["reference_mass"].values
    for asking, rows in enumerate([layout.image_queries, layout.text_queries, *layout.reference_slices]):
        for number, cols in enumerate(layout.reference_keys):
            if asking and layout.scope != "joint":
                assert told[:, :, asking, number].isnan().all()
            else:
                twin = matrix[:, :, rows, cols].sum(-1).mean(-1)
                torch.testing.assert_close(told[:, :, asking, number].double(), twin, atol=1e-5, rtol=0)


@each_layout
def test_every_streams_budget_adds_up_to_1(layout):
    fields = read([RegionMass()], attention_of(layout))
    mass = dict(zip(layout.listed_regions, fields["region_mass"].values.unbind(-1), strict=True))
    told, others = fields["reference_mass"].values, fields["other_mass"].values
    sizes = torch.tensor([float(reference.tokens) for reference in layout.references])
    others = {"I": others[..., 0], "T": others[..., 1], "R": others[..., 2:] @ (sizes / sizes.sum())}
    for asking in "ITR" if layout.scope == "joint" else "I":
        total = sum(mass[Region(f"{asking}2{answering}")] for answering in "ITR") + others[asking]
        torch.testing.assert_close(total, torch.ones(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(told[:, :, 0].sum(-1), mass[Region.I2R], atol=1e-6, rtol=0)


@each_layout
def test_attending_to_all_alike_gives_the_uniform_shares(layout):
    attention = attention_of(layout)
    attention.query.zero_()
    mass = read([RegionMass()], attention)["region_mass"].values[0, 0]
    np.testing.assert_allclose(mass, [layout.uniform(region) for region in layout.listed_regions], atol=1e-5)


def test_masked_references_take_nothing():
    layout = LAYOUTS["two references"]
    mask = torch.ones(1, 1, 1, layout.keys, dtype=torch.bool)
    mask[..., layout.reference_slices[1]] = False
    told = read([RegionMass()], attention_of(layout, attn_mask=mask))["reference_mass"].values
    assert not told[..., 1].any()
    assert (told[..., 0] > 0).all()


CASES = {
    case.name: case
    for case in (*models_flux.CASES, *models_image.CASES, *models_latents.CASES)
    if case.name in ("flux-kontext", "flux2-reference", "qwen-edit", "joyimage")
}
each_family = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


@each_family
def test_a_references_token_is_where_the_layout_says(case):
    """The second token of the second row of the last reference, or the second row of a single column."""
    inputs = case.inputs()
    layout = layer_0(case, inputs).layout
    (rows, cols), other = layout.references[-1].grid, deepcopy(inputs)
    token = cols + min(1, cols - 1)
    if case.name == "joyimage":
        other["hidden_states"][:, 1, :, 0, 2:4, 2:4] += (
            1  # the target is the last item, and comes first in the attention
        )
    else:
        before = layout.image + sum(reference.tokens for reference in layout.references[:-1])
        other["hidden_states"][:, before + token] += 1 + torch.randn(4)
    attention, changed = layer_0(case, inputs), layer_0(case, other)
    difference = (image_metrics(attention) - image_metrics(changed)).abs().amax((0, 1, 2))
    assert difference.nonzero().flatten().tolist() == [layout.reference_slices[-1].start + token]
    assert rows > 1


@each_family
def test_a_record_says_which_references_there_are(case, tmp_path):
    model = case.model()
    with Probe(model, [RegionMass()]) as probe:
        output_of(model, case.inputs())
    record = probe.dataset()
    assert record.sizes["region"] == 9
    assert record["reference"].values.tolist() == ["1", "2"][: len(case.references)]
    read_again = load_record(save_record(record, tmp_path / "record.nc"))
    xr.testing.assert_identical(read_again, record)
    found = recorded_layout(read_again)
    assert [reference.grid for reference in found.references] == list(case.references)
    assert sum(uniform_shares(read_again)[region] for region in ("R2I", "R2T", "R2R")) == pytest.approx(1)
    told = record["reference_mass"].sel(asking="image").sum("reference")
    np.testing.assert_allclose(told, record["region_mass"].sel(region="I2R"), atol=1e-6)


def test_a_record_without_references_has_none_of_this(inputs):
    with Probe(model := make_sd3(), [RegionMass()]) as probe:
        model(**inputs)
    record = probe.dataset()
    assert list(record.data_vars) == ["region_mass"]
    assert record["region"].values.tolist() == ["I2I", "I2T", "T2I", "T2T"]
    assert not [name for name in (*record.attrs, *record.coords) if "reference" in str(name)]


def grid_ids(first, rows, cols):
    return models_flux.position_ids(rows, cols, first=first)


def test_ids_tell_references_apart():
    target = grid_ids(0, 3, 4)
    assert reference_grids(target) == []
    assert reference_grids(torch.cat([target, grid_ids(10, 2, 3), grid_ids(20, 5, 1)])) == [(2, 3), (5, 1)]
    moved = grid_ids(1, 2, 3) + torch.tensor([0, 7, 9])  # LongCat's start behind the text
    assert reference_grids(torch.cat([target, moved])) == [(2, 3)]


@pytest.mark.parametrize(
    "behind",
    [
        grid_ids(1, 2, 3)[[0, 2, 1, 3, 4, 5]],
        grid_ids(1, 2, 3)[:5],
        torch.cat([grid_ids(1, 2, 3), grid_ids(2, 2, 2), grid_ids(1, 2, 3)]),
    ],
    ids=["in disorder", "incomplete", "interleaved"],
)
def test_ids_that_form_no_grid_leave_one_stream_without_a_grid(behind):
    ids = torch.cat([grid_ids(0, 3, 4), behind])
    assert reference_grids(ids) == [None]
    layout = with_references((3, 4), 5, len(ids), reference_grids(ids))
    assert [(extra.tokens, extra.grid) for extra in layout.references] == [(len(behind), None)]


def test_a_reference_without_a_grid_is_said_in_the_record():
    model = diffusers.FluxTransformer2DModel(**{**models_flux.SMALL, "pooled_projection_dim": 8})
    inputs = models_flux.pooled(references=((2, 3),))
    inputs["img_ids"][-1, 1:] += 5
    with torch.no_grad(), Probe(model, [RegionMass()]) as probe:
        model(**inputs)
    record = probe.dataset()
    assert record.attrs["reference_grids"] == "6 tokens without a known grid"
    assert recorded_layout(record).references == (Extra("reference", 6, "last"),)


@pytest.mark.parametrize(
    ("shapes", "layered", "grids"),
    [
        ((1, 3, 4), False, []),
        ([[(1, 3, 4)]], False, []),
        ([[(1, 3, 4), (1, 5, 6), (1, 2, 2)]] * 2, False, [(5, 6), (2, 2)]),
        ([[(1, 3, 4), (1, 3, 4), (1, 5, 6)]], True, [(5, 6)]),
    ],
)
def test_shapes_of_references(shapes, layered, grids):
    assert references_from_shapes(shapes, layered) == grids


@pytest.mark.parametrize("grid", [(2, 2), (6,), (6, -1), (1, 1, 2, 3)])
def test_a_grid_that_does_not_hold_the_tokens_is_refused(grid):
    with pytest.raises(ValueError, match="the grid of 6 reference tokens must be"):
        TokenLayout((3, 4), 5, extras=(Extra("reference", 6, "last", grid),))


def test_readouts_say_how_much_they_store():
    for layout in (*LAYOUTS.values(), TokenLayout((3, 4), 5)):
        attention = attention_of(layout)
        stored = sum(field.values[0].numel() for field in read([RegionMass(), Keep()], attention).values())
        assert stored == RegionMass().stored_numbers(layout, attention.heads)
