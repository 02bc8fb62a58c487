"""The attention budget by kinds of text tokens: against the full softmax, laws, table and figure."""

import numpy as np
import pytest
import torch
from naive import full_matrix, random_call

from mmdit_probe import KindMass, RegionMass, TokenLayout
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.text_tokens import Kind, TextTokens
from mmdit_probe.configs import BudgetConfig, GenerationConfig
from mmdit_probe.figures.budget import budget_figure
from mmdit_probe.readouts.base import read
from mmdit_probe.readouts.head_stats import KINDS
from mmdit_probe.studies.attention_budget import budget_table, run_budget
from mmdit_probe.studies.budget_kinds import kinds_summary, kinds_table

GENERATION = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=3)
CONFIG = BudgetConfig(prompts=("a red circle on grass", "sand"), timesteps=(1, 2), generation=GENERATION)
KINDS_OF_ROWS = [["start", "word", "word", "end", "padding"], ["start", "word", "end", "padding", "absent"]]


@pytest.fixture(scope="module")
def record(random_folder, tmp_path_factory):
    from mmdit_probe import load_pipeline

    return run_budget(load_pipeline(str(random_folder)), CONFIG, tmp_path_factory.mktemp("budget"), "random")


@pytest.mark.parametrize("order", ["image-text", "text-image"])
def test_the_masses_are_summed_from_the_full_softmax(order):
    layout = TokenLayout((3, 4), 5, order)
    kinds, everywhere = np.array(KINDS_OF_ROWS, object), np.ones((2, 5), bool)
    text = TextTokens(kinds, kinds, np.full(5, "clip"), np.ones(2, bool), everywhere, everywhere)
    call = random_call(2, 3, layout.tokens, 8)
    fields = read([KindMass()], JointAttention(call, layout, text=text))
    matrix = full_matrix(call)
    for row in range(2):
        for q, queries in enumerate((layout.image_slice, layout.text_slice)):
            for k, kind in enumerate(KINDS):
                columns = [layout.text_slice.start + i for i in range(5) if kinds[row, i] == kind]
                slow = matrix[row, :, queries][..., columns].sum(-1).mean(-1).float()
                torch.testing.assert_close(fields["kind_mass"].values[row, :, q, k], slow)
                assert fields["kind_tokens"].values[row, k] == len(columns)
    assert KindMass().stored_numbers(layout, 3) * 2 == sum(field.values.numel() for field in fields.values())


def test_unknown_kinds_and_text_that_does_not_attend_are_nan():
    layout = TokenLayout((3, 4), 5)
    fields = read([KindMass()], JointAttention(random_call(1, 2, layout.tokens, 8), layout))
    assert all(field.values.isnan().all() for field in fields.values())
    cross, everywhere = TokenLayout((3, 4), 5, scope="cross"), np.ones((1, 5), bool)
    call = random_call(1, 2, 12, 8)
    call = type(call)(call.query, call.key[:, :, :5], call.value[:, :, :5], call.arguments)
    kinds = np.array(KINDS_OF_ROWS[:1], object)
    text = TextTokens(kinds, kinds, np.full(5, "clip"), np.ones(1, bool), everywhere, everywhere)
    mass = read([KindMass()], JointAttention(call, cross, text=text))["kind_mass"].values
    torch.testing.assert_close(mass[:, :, 0].sum(-1), torch.ones(1, 2))
    assert mass[:, :, 1].isnan().all()


def test_the_kinds_add_up_to_the_text_regions(record):
    total = record["kind_mass"].sum("kind")
    for queries, region in (("image", "I2T"), ("text", "T2T")):
        whole = record["region_mass"].sel(region=region, drop=True)
        np.testing.assert_allclose(total.sel(queries=queries, drop=True), whole, rtol=1e-4)
    assert (record["kind_tokens"].sum("kind") == record.attrs["text_tokens"]).all()


def test_the_table_has_the_kinds_that_occur(record):
    table = kinds_table(record)
    assert set(table["kind"]) == {"start", "word", "end", "padding", "absent"}
    assert len(table) == 2 * 3 * 2 * 5
    at = table.set_index(["timestep", "layer", "queries", "kind"]).loc[(2, 1, "image", "word")]
    values = record["kind_mass"].sel(timestep=2, layer=1, queries="image", kind="word").mean("head").values
    assert at["mass"] == pytest.approx(values.mean())
    assert at["tokens"] == 3  # five words and one
    assert at["uniform"] == pytest.approx(3 / (64 + 27))
    assert at["ratio"] == pytest.approx(values.mean() / at["uniform"], rel=1e-5)
    [line] = kinds_summary(table)
    assert line.startswith("Of the attention that image tokens give to text: ")
    assert "2 prompts" in line


def test_unknown_kinds_leave_an_empty_table(record):
    unknown = record.assign(kind_mass=record["kind_mass"] * np.nan)
    table = kinds_table(unknown)
    assert table.empty
    assert "unknown" in kinds_summary(table)[0]
    assert len(budget_figure(budget_table(record), 2, table).axes) == 4


def test_the_figure_stacks_the_kinds(record):
    figure = budget_figure(budget_table(record), 2, kinds_table(record))
    assert len(figure.axes) == 8
    heights = [sum(bar.get_height() for bar in bars) for bars in figure.axes[4].containers]
    mass = 100 * record["region_mass"].sel(region="I2T", timestep=1).mean(("head", "prompt")).sum("layer")
    assert sum(heights) == pytest.approx(float(mass), rel=1e-4)
    tops = [ax.get_ylim()[1] for ax in figure.axes]
    highest = max(bar.get_y() + bar.get_height() for ax in figure.axes[4:] for bars in ax.containers for bar in bars)
    assert tops[:4] == [100] * 4
    assert len(set(tops[4:])) == 1
    assert highest <= tops[4] <= 1.2 * highest
    assert {text.get_text() for text in figure.legends[0].get_texts()} >= {"to text: word", "to text: padding"}


def test_a_regions_record_is_as_before(record):
    assert record["region_mass"].dims == ("prompt", "timestep", "layer", "head", "region")
    assert str(Kind.WORD) in record["kind"].values
    assert RegionMass().stored_numbers(TokenLayout((2, 2), 3), 4) == 16
