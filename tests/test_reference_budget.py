"""What the studies' tables and figures say of reference images."""

import models_flux
import numpy as np
import pytest
import torch
from matplotlib import pyplot as plt

from mmdit_probe import I2TMaps, Probe, RegionMass, ValueNorms
from mmdit_probe.explorer import contents_of, make_page
from mmdit_probe.figures.budget import budget_figure
from mmdit_probe.figures.norms import norm_heads_figure, norms_figure
from mmdit_probe.studies.attention_budget import budget_table, summary
from mmdit_probe.studies.value_norms import heads_table, norms_table
from mmdit_probe.studies.value_norms import summary as norms_summary

EDITING = next(case for case in models_flux.CASES if case.name == "flux2-reference")
PLAIN = next(case for case in models_flux.CASES if case.name == "flux2")


def recorded(case, **attrs):
    """As a study's: two prompts, here the two batch rows, at one timestep."""
    with torch.no_grad(), Probe(case.model(), [RegionMass(), ValueNorms(), I2TMaps("all")]) as probe:
        probe.transformer(**case.inputs())
    record = probe.dataset().rename(batch="prompt", call="timestep").assign_coords(timestep=[8])
    return record.assign_attrs(attrs)


@pytest.fixture(scope="module")
def record():
    torch.manual_seed(0)
    return recorded(EDITING)


@pytest.fixture(scope="module")
def vision(record):
    """The same as if half of each reference's attention had gone to tokens of no stream."""
    half = record["reference_mass"] / 2
    mass = record["region_mass"].copy()
    answered = [region.endswith("2R") for region in mass["region"].values]
    mass[..., answered] /= 2
    changed = record.assign(region_mass=mass, reference_mass=half, other_mass=half.sum("reference"))
    return changed.assign_attrs(extra_tokens=7)


def test_every_streams_rows_add_up_to_1(vision):
    table = budget_table(vision)
    whole = table[~table["region"].str.contains(" ")]
    assert sorted(set(whole["region"])) == sorted(f"{asking}2{key}" for asking in "ITR" for key in "ITRO")
    for name in ("mass", "uniform"):
        sums = whole.groupby(["timestep", "layer", whole["region"].str[0]])[name].sum()
        np.testing.assert_allclose(sums, 1, atol=1e-5)
    np.testing.assert_allclose(table["ratio"], table["mass"] / table["uniform"])


def test_several_references_are_told_apart(record):
    table = budget_table(record).set_index(["layer", "region"])
    for asking in "ITR":
        parts = [table.loc[(0, f"{asking}2R {number}")] for number in (1, 2)]
        assert sum(part["mass"] for part in parts) == pytest.approx(table.loc[(0, f"{asking}2R"), "mass"], abs=1e-6)
        assert sum(part["uniform"] for part in parts) == pytest.approx(table.loc[(0, f"{asking}2R"), "uniform"])
    told = record["reference_mass"].sel(asking="image", reference="2").mean(("prompt", "head")).isel(timestep=0)
    assert table.loc[(1, "I2R 2"), "mass"] == pytest.approx(float(told.sel(layer=1)))


def test_a_table_without_references_has_its_four_regions():
    torch.manual_seed(0)
    table = budget_table(recorded(PLAIN))
    assert sorted(set(table["region"])) == ["I2I", "I2T", "T2I", "T2T"]
    assert not [line for line in summary(table) if "reference" in line]


def test_the_summary_names_the_layer_and_each_reference(record):
    (line,) = [line for line in summary(budget_table(record)) if "reference images" in line]
    mean = budget_table(record).groupby(["region", "layer"])["mass"].mean()
    assert line.startswith(f"Layer {mean['I2R'].idxmax()} gives reference images the most: {mean['I2R'].max():.1%} of")
    assert f"{mean['I2R 1'].mean():.1%} to reference 1, {mean['I2R 2'].mean():.1%} to reference 2" in line


def test_the_budgets_figure_has_the_references_queries_and_keys(vision):
    table = budget_table(vision)
    figure = budget_figure(table, 28)
    assert [ax.get_title().split(",")[0] for ax in figure.axes] == [
        "image queries",
        "text queries",
        "reference queries",
    ]
    drawn = {line.get_label(): line.get_ydata() for ax in figure.axes for line in ax.lines if ": " in line.get_label()}
    assert set(drawn) == {
        f"{name[0].upper()}2{key}: {name} to {to}"
        for name in ("image", "text", "reference")
        for key, to in (("I", "image"), ("T", "text"), ("R", "references"), ("O", "other tokens"))
    }
    rows = table[table["region"] == "T2R"].sort_values("layer")
    np.testing.assert_allclose(drawn["T2R: text to references"], 100 * rows["mass"])
    plt.close(figure)


def test_value_norms_have_a_stream_for_each_reference(record):
    labels = ["image", "text", "prompt", "reference 1", "reference 2"]
    assert record["value_norm"]["stream"].values.tolist() == labels
    table = norms_table(record)
    mean = record["value_norm"].mean(("prompt", "head")).isel(timestep=0)
    for name in labels[3:]:
        np.testing.assert_allclose(table[name], mean.sel(stream=name), rtol=1e-5)
        np.testing.assert_allclose(
            table[f"{name}_to_image"], mean.sel(stream=name) / mean.sel(stream="image"), rtol=1e-5
        )
    assert sum("reference" in line for line in norms_summary(table)) == 2
    figures = norms_figure(table, 28), norm_heads_figure(heads_table(record), 28)
    assert [line.get_label() for line in figures[0].axes[0].lines][-1] == "reference 2's tokens"
    assert len(figures[1].axes) == 5  # image, text, two references, the color bar; no words are known here
    for figure in figures:
        plt.close(figure)


def test_value_norms_of_references_are_their_tokens_mean():
    from naive import random_call

    from mmdit_probe import Extra, JointAttention, TokenLayout

    layout = TokenLayout((2, 3), 4, extras=(Extra("reference", 6, "last"), Extra("padding", 2, "between")))
    call = random_call(2, 3, layout.tokens, 8)
    found = ValueNorms().measure(JointAttention(call, layout))["value_norm"]
    np.testing.assert_allclose(found.values[..., 3], call.value[:, :, -6:].norm(dim=-1).mean(-1), rtol=1e-6)
    assert ValueNorms().stored_numbers(layout, 3) == found.values[0].numel()


def test_the_explorers_page_does_not_count_references_as_image(record):
    one = record.isel(prompt=0)
    page = make_page(contents_of(one), None).text
    assert '"others":"reference images"' in page
    assert '"references":[6,3]' in page
    assert '"others":""' in make_page(contents_of(recorded(PLAIN).isel(prompt=0)), None).text
