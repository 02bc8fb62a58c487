"""Every family: the output is left alone, the numbers are the model's, and positions mean what they are said to mean."""

from copy import deepcopy

import models_cross
import models_cross_video
import models_flux
import models_image
import models_joint
import models_latents
import models_unets
import models_video
import models_wan
import numpy as np
import pytest
import torch
from naive import full_matrix

from mmdit_probe import I2TMaps, Probe, Readout, RegionMass, T2IMaps, ValueNorms
from mmdit_probe.attention.folded import UnfoldedCall
from mmdit_probe.attention.layout import Region
from mmdit_probe.attention.reordered import PresentedCall
from mmdit_probe.families import FAMILIES, family_of, named_inputs
from mmdit_probe.probe.dataset import recorded_layout

CASES = [
    *models_flux.CASES,
    *models_image.CASES,
    *models_latents.CASES,
    *models_video.CASES,
    *models_joint.CASES,
    *models_cross.CASES,
    *models_cross_video.CASES,
    *models_wan.CASES,
    *models_unets.CASES,
]
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*FluxPosEmbed:FutureWarning"),  # Chroma's own import
    pytest.mark.filterwarnings("ignore:In CPU autocast:UserWarning"),  # Mochi
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),  # Wan Animate 2
    pytest.mark.filterwarnings("ignore:Initializing zero-element tensors:UserWarning"),  # NucleusMoE without experts
]
each_family = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


class Keep(Readout):
    """Keeps the calls themselves."""

    def __init__(self):
        self.seen = []

    def measure(self, attention):
        self.seen.append(attention)
        return {}


def output_of(model, inputs):
    output = model(**deepcopy(inputs), return_dict=False)[0]
    return torch.stack(list(output)) if isinstance(output, list) else output


def layer_0(case, inputs):
    model = case.model()
    case.still(model)
    with Probe(model, [keep := Keep()], layers=[0]):
        output_of(model, inputs)
    assert keep.seen
    return keep.seen[0]


def image_metrics(attention):
    """Scores of the image queries on all keys, (batch, heads, image, keys); masked ones are 0."""
    return attention.scores(attention.layout.image_queries, slice(0, attention.layout.keys)).nan_to_num(neginf=0)


def matrix_of(attention):
    """The naive matrix of what the kernel was given, its rows and columns moved to the layout's order."""
    call = attention.call
    if not isinstance(call, PresentedCall):
        return full_matrix(call).float()
    plain = full_matrix(call.original).float()
    if isinstance(call, UnfoldedCall):  # frame by frame
        frames = plain.unflatten(0, (-1, call.frames)).unbind(1)
        return torch.cat(frames, 2)
    moved = torch.zeros(*plain.shape[:2], attention.layout.queries, attention.layout.keys)
    for row, (queries, keys) in enumerate(zip(call.order, call.key_order, strict=True)):
        for query, q in enumerate(queries):
            for key, k in enumerate(keys):
                moved[row, :, query, key] = plain[row, :, q, k] if q >= 0 and k >= 0 else 0
    return moved


def test_every_family_has_a_case():
    made = {family_of(case.model()).name for case in CASES}
    assert made == {family.name for family in FAMILIES}


NO_CASE = {("qwen-image", "frames"), ("longcat-image", "references")}
"""What an entry says of layers of an image, and of an editing pipeline, that no case here shows."""


def test_every_family_says_what_its_cases_show():
    shown = set()
    for case in CASES:
        family = family_of(model := case.model())
        layout = family.layout(model, named_inputs(model, (), case.inputs()))
        shown |= {(family.name, "frames")} if len(layout.grid) == 3 else set()
        shown |= {(family.name, "references") for extra in layout.extras if extra.name == "reference"}
    said = {(family.name, what) for family in FAMILIES for what in ("frames", "references") if getattr(family, what)}
    assert said == shown | NO_CASE


@each_family
def test_output_is_bit_for_bit_the_unprobed_one(case):
    model, inputs = case.model(), case.inputs()
    plain = output_of(model, inputs)
    with Probe(model, [RegionMass(), I2TMaps(), T2IMaps(), ValueNorms()]):
        probed = output_of(model, inputs)
    assert plain.isfinite().all()
    assert torch.equal(plain, probed)


@each_family
def test_numbers_are_those_of_the_full_softmax(case):
    model, inputs = case.model(), case.inputs()
    with Probe(model, [RegionMass(), I2TMaps(), keep := Keep()], layers=case.recorded) as probe:
        output_of(model, inputs)
    record = probe.dataset().isel(call=0)
    assert {attention.layer for attention in keep.seen} == set(case.recorded or range(case.layers))
    for layer in probe.layers:
        seen = [attention for attention in keep.seen if attention.layer == layer]
        matrix, layout = torch.cat([matrix_of(a) for a in seen]), seen[0].layout  # some are called once a sample
        at = record.sel(layer=layer)
        references = _places(layout.reference_slices)
        rows = {"I": _places([layout.image_queries]), "T": _places([layout.text_queries]), "R": references}
        cols = {"I": _places([layout.image_keys]), "T": _places([layout.text_keys]), "R": references}
        assert tuple(at["region"].values) == (tuple(Region) if case.references else tuple(Region)[:4])
        for region in layout.listed_regions:
            mass = at["region_mass"].sel(region=region).values
            if region in layout.regions:
                twin = matrix[:, :, rows[region[0]]][..., cols[region[-1]]].sum(-1).mean(-1)
                np.testing.assert_allclose(mass, twin, atol=2e-5)
            else:
                assert np.isnan(mass).all()
        maps = matrix[:, :, layout.image_queries, layout.text_keys].mean(1).unflatten(1, layout.grid)
        np.testing.assert_allclose(at["i2t"].values, maps, atol=2e-5)


def _places(slices):
    return [place for each in slices for place in range(each.start, each.stop)]


@each_family
def test_layers_and_grid(case):
    model, inputs = case.model(), case.inputs()
    with Probe(model, [I2TMaps()], layers=case.recorded) as probe:
        output_of(model, inputs)
    record = probe.dataset()
    assert case.layers == len(probe.modules)
    assert record.sizes["layer"] == len(case.recorded or range(case.layers))
    assert record["i2t"].notnull().all()
    assert tuple(record.attrs["grid"]) == case.grid
    assert record["i2t"].dims[-len(case.grid) - 1 : -1] == ("frame", "row", "col")[-len(case.grid) :]
    assert record.sizes["token"] == case.text
    assert record.sizes["batch"] == case.batch
    assert record.attrs["extra_tokens"] == case.extra
    found = [reference.grid or reference.tokens for reference in recorded_layout(record).references]
    assert tuple(found) == case.references
    np.testing.assert_allclose(record["sigma"], [case.sigma])


@each_family
def test_a_word_is_where_the_layout_says(case):
    inputs = case.inputs()
    other = deepcopy(inputs)
    case.words(other)
    attention, changed = layer_0(case, inputs), layer_0(case, other)
    difference = (image_metrics(attention) - image_metrics(changed)).abs().amax((0, 1, 2))
    text = attention.layout.text_keys
    outside = torch.ones(len(difference), dtype=torch.bool)
    outside[text] = False
    assert not difference[outside].any()
    assert difference[text].argmax() == case.word
    assert difference[text].nonzero().flatten().tolist() == [case.word]


@each_family
def test_a_patch_is_where_the_layout_says(case):
    inputs = case.inputs()
    other = deepcopy(inputs)
    case.pixels(other)
    attention, changed = layer_0(case, inputs), layer_0(case, other)
    text = attention.layout.text_keys
    scores = [image_metrics(a)[..., text] for a in (attention, changed)]
    difference = (scores[0] - scores[1]).abs().amax((0, 1, 3)).unflatten(0, attention.layout.grid)
    assert np.unravel_index(int(difference.argmax()), attention.layout.grid) == case.patch
    assert case.mixed or difference.nonzero().tolist() == [list(case.patch)]
