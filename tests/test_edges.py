"""Edits of any edge between image, text and reference images, against the full matrix."""

import numpy as np
import pytest
import torch
from models_flux import CASES as FLUX_CASES
from naive import full_matrix, random_call
from scipy.ndimage import correlate1d
from test_families import output_of

from mmdit_probe import (
    BlurGrid,
    BlurText,
    Edit,
    Extra,
    JointAttention,
    Knockout,
    Probe,
    Region,
    RegionMass,
    Scale,
    TokenLayout,
    Uniform,
)
from mmdit_probe.attention.layout import TEXT_AND_IMAGE
from mmdit_probe.edits.blur import blur_matrix

REFERENCES = (Extra("reference", 6, "last", (2, 3)), Extra("reference", 4, "last", (4, 1)))
LAYOUTS = {
    "two references": TokenLayout((3, 4), 5, "text-image", REFERENCES),
    "between, with registers": TokenLayout(
        (3, 4), 5, "image-text", (Extra("reference", 6, "between", (2, 3)), Extra("register", 2, "first"))
    ),
    "registers alone": TokenLayout((3, 4), 5, extras=(Extra("register", 2, "first"),)),
    "keys alone": TokenLayout((3, 4), 5, extras=(Extra("reference", 6, "between", (2, 3)),), scope="image-queries"),
}
PAIRS = [(name, region) for name, layout in LAYOUTS.items() for region in Region if region in layout.regions]
each_edge = pytest.mark.parametrize(("name", "edge"), PAIRS)


def case_of(name, **more):
    """Attention, its full matrix, and what the edited matrix gives."""
    layout = LAYOUTS[name]
    call = random_call(2, 2, layout.tokens, 8, **more)
    call = type(call)(call.query[:, :, : layout.queries], call.key, call.value, call.arguments)
    return JointAttention(call, layout), full_matrix(call)


def places(slices):
    return np.concatenate([np.arange(each.start, each.stop) for each in slices])


def part_of(layout, edge):
    """Index of the edge in the full matrix."""
    return np.ix_(places(layout.queries_of(edge.asking)), places(layout.keys_of(edge.answering)))


def with_part(matrix, index, new):
    edited = matrix.clone()
    edited[(..., *index)] = torch.as_tensor(new, dtype=matrix.dtype)
    return edited


def assert_same(edit, attention, matrix):
    values = attention.value.double().repeat_interleave(attention.heads // attention.value.shape[1], 1)
    ours = edit.apply(attention, attention.output)
    torch.testing.assert_close(ours.double(), matrix @ values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("renormalize", [True, False])
@each_edge
def test_knockout_equals_zeros_in_the_full_matrix(name, edge, renormalize):
    attention, matrix = case_of(name)
    edited = with_part(matrix, part_of(attention.layout, edge), 0)
    if renormalize:
        edited = edited / edited.sum(-1, keepdim=True)
    assert_same(Knockout(0, edge, renormalize=renormalize), attention, edited)


@each_edge
def test_uniform_equals_the_mean_in_the_full_matrix(name, edge):
    attention, matrix = case_of(name)
    index = part_of(attention.layout, edge)
    part = matrix[(..., *index)]
    assert_same(Uniform(0, edge=edge), attention, with_part(matrix, index, part.mean(-1, keepdim=True).expand_as(part)))


@each_edge
def test_scale_equals_scaling_the_scores(name, edge):
    attention, matrix = case_of(name)
    index, scores = part_of(attention.layout, edge), (matrix.log() + attention.lse[..., None].double())
    edited = with_part(scores, index, 1.5 * scores[(..., *index)]).softmax(-1)
    assert_same(Scale(0, 1.5, edge=edge), attention, edited)


@pytest.mark.parametrize("edge", ["I2T", "T2T", "R2T"])
def test_blur_along_the_text_equals_blurring_the_full_matrix(edge):
    attention, matrix = case_of("two references")
    index = part_of(attention.layout, Region(edge))
    blurred = matrix[(..., *index)] @ torch.from_numpy(blur_matrix(5, 9.0, 5, "reflect"))
    assert_same(BlurText(0, edge=edge), attention, with_part(matrix, index, blurred))


@pytest.mark.parametrize("edge", ["I2I", "I2T", "I2R", "R2I", "R2T", "R2R"])
def test_blur_over_the_queries_grid_equals_blurring_the_full_matrix(edge):
    attention, matrix = case_of("between, with registers")
    index = part_of(attention.layout, Region(edge))
    grid = (3, 4) if edge[0] == "I" else (2, 3)
    maps = matrix[(..., *index)].unflatten(2, grid).numpy()
    taps = np.exp(-0.5 * np.arange(-3, 4) ** 2)
    for axis in (2, 3):
        maps = correlate1d(maps, taps / taps.sum(), axis=axis, mode="reflect")
    assert_same(BlurGrid(0, 1.0, edge=edge), attention, with_part(matrix, index, torch.from_numpy(maps).flatten(2, 3)))


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("edge", ["I2R", "R2T", "R2R"])
def test_one_reference_of_several_can_be_chosen(edge, number):
    attention, matrix = case_of("two references")
    layout, own = attention.layout, places([attention.layout.reference_slices[number - 1]])
    rows = own if edge[0] == "R" else places([layout.image_queries])
    cols = own if edge[2] == "R" else places([layout.text_keys])
    edited = with_part(matrix, np.ix_(rows, cols), 0)
    edited = edited / edited.sum(-1, keepdim=True)
    assert_same(Knockout(0, edge, references=[number]), attention, edited)


def test_masks_and_grouped_heads_are_kept():
    layout = LAYOUTS["two references"]
    mask = torch.rand(2, 1, layout.tokens, layout.tokens, generator=torch.Generator().manual_seed(0)) > 0.2
    attention, matrix = case_of("two references", attn_mask=mask, kv_heads=1, enable_gqa=True)
    edited = with_part(matrix, part_of(layout, Region.I2R), 0)
    assert_same(Knockout(0, "I2R"), attention, edited / edited.sum(-1, keepdim=True))


@each_edge
def test_only_the_edges_queries_change(name, edge):
    attention, _ = case_of(name)
    plain = attention.output
    edited = Knockout(0, edge, heads=[1]).apply(attention, plain)
    others = np.setdiff1d(np.arange(attention.layout.queries), places(attention.layout.queries_of(edge.asking)))
    assert torch.equal(edited[:, 0], plain[:, 0])
    assert torch.equal(edited[:, :, others], plain[:, :, others])
    assert not torch.equal(edited[:, 1], plain[:, 1])


@each_edge
def test_settings_that_change_nothing_change_no_bit(name, edge):
    attention, _ = case_of(name)
    for edit in (Knockout(0, edge, heads=[]), Knockout(0, edge, steps=[])):
        assert torch.equal(edit.apply(attention, attention.output), attention.output)


def test_an_edge_that_is_masked_can_be_removed_without_changing_a_bit():
    layout = LAYOUTS["two references"]
    mask = torch.ones(1, 1, 1, layout.keys, dtype=torch.bool)
    for keys in layout.reference_keys:
        mask[..., keys] = False
    attention, _ = case_of("two references", attn_mask=mask)
    assert torch.equal(Knockout(0, "I2R").apply(attention, attention.output), attention.output)


def test_an_edit_of_ones_own_works_on_any_edge():
    class Double(Edit):
        def change(self, block):
            return block.with_image(block.image_output + block.image_probs @ block.values)

    attention, matrix = case_of("two references")
    index = part_of(attention.layout, Region.T2R)
    assert_same(Double(0, edge="T2R"), attention, with_part(matrix, index, 2 * matrix[(..., *index)]))


@pytest.mark.parametrize("name", ["flux-kontext", "flux2-reference"])
def test_a_model_runs_with_an_edge_cut_and_the_edited_layer_is_as_before(name):
    (case,) = [case for case in FLUX_CASES if case.name == name]
    model, inputs = case.model(), case.inputs()
    plain = output_of(model, inputs)
    for edge in Region:
        with Probe(model, [RegionMass()], edits=[Knockout(0, edge)]) as probe:
            edited = output_of(model, inputs)
        assert edited.isfinite().all()
        assert not torch.equal(edited, plain)
        assert str(edge) in probe.dataset().attrs["edits"] or edge == "I2T"
    assert torch.equal(output_of(model, inputs), plain)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Knockout(0, "X2Y"), "Knockout: edge must be one of I2I, .*, R2R, got 'X2Y'"),
        (lambda: Uniform(0, edge="I2R", words=["sand"]), "words and kinds choose text keys; edge I2R has none"),
        (lambda: Knockout(0, "I2T", references=[1]), "references choose reference images; edge I2T has none"),
        (lambda: BlurText(0, edge="I2R"), "BlurText: edge must be I2T, T2T or R2T"),
        (lambda: BlurGrid(0, edge="T2I"), "BlurGrid: text queries have no grid, got edge T2I"),
    ],
)
def test_edges_that_make_no_sense_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("layout", "edit", "message"),
    [
        (
            TokenLayout((3, 4), 5),
            Knockout(0, "I2R"),
            "edge I2R can.t be edited in this model; choose from I2I, I2T, T2I, T2T$",
        ),
        (
            LAYOUTS["two references"],
            Knockout(0, "I2R", references=[0, 3]),
            r"\[0, 3\] do not exist; .* references 1 to 2",
        ),
        (LAYOUTS["two references"], Knockout(0, "I2R", references=[]), "must name at least one"),
        (LAYOUTS["two references"], BlurGrid(0, edge="R2I"), "several references have no common grid"),
        (
            TokenLayout((3, 4), 5, extras=(Extra("reference", 6, "last"), Extra("reference", 4, "first"))),
            Knockout(0, "I2R"),
            "do not stand side by side",
        ),
    ],
)
def test_edges_that_a_model_does_not_have_are_refused(layout, edit, message):
    call = random_call(1, 2, layout.tokens, 8)
    with pytest.raises(ValueError, match=message):
        edit.apply(JointAttention(call, layout), call.attended.output)


def test_models_without_references_keep_their_four_regions():
    assert TokenLayout((3, 4), 5).regions == set(TEXT_AND_IMAGE)
