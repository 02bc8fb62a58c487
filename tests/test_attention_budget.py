"""The study on a small random pipeline: numbers, resumption, figure."""

import numpy as np
import pandas as pd
import pytest

from mmdit_probe import Probe, RegionMass
from mmdit_probe.configs import BudgetConfig, GenerationConfig
from mmdit_probe.figures.budget import budget_figure
from mmdit_probe.figures.style import save_figure
from mmdit_probe.pipelines.generation import generation_arguments
from mmdit_probe.studies import attention_budget as budget_module
from mmdit_probe.studies.attention_budget import budget_table, measure_budget, run_budget, summary

GENERATION = GenerationConfig(steps=4, guidance_scale=3.0, max_sequence_length=3)
CONFIG = BudgetConfig(prompts=("a red circle on grass", "sand"), timesteps=(2, 4), generation=GENERATION)


def test_the_timesteps_count_from_the_clean_end(random_pipe):
    measured = measure_budget(random_pipe, "sand", CONFIG)
    assert list(measured["timestep"].values) == [2, 4]
    assert list(measured["step"].values) == [2, 0]
    with Probe(random_pipe, [RegionMass()]) as probe:
        random_pipe("sand", output_type="latent", **generation_arguments(random_pipe, GENERATION))
    whole = probe.dataset("conditional")["region_mass"].isel(batch=0)
    np.testing.assert_array_equal(measured["region_mass"].sel(timestep=4), whole.isel(call=0))
    np.testing.assert_array_equal(measured["region_mass"].sel(timestep=2), whole.isel(call=2))
    np.testing.assert_allclose(measured["sigma"], whole["sigma"].isel(call=[2, 0]))


def test_the_table_is_the_records_mean_over_prompts_and_heads(random_pipe, tmp_path):
    record = run_budget(random_pipe, CONFIG, tmp_path, "random")
    table = budget_table(record)
    assert len(table) == 2 * 3 * 4
    at = table.set_index(["timestep", "layer", "region"]).loc[(2, 1, "I2T")]
    values = record["region_mass"].sel(timestep=2, layer=1, region="I2T").mean("head").values
    assert at["mass"] == pytest.approx(values.mean())
    assert at["spread"] == pytest.approx(values.std())
    assert at["uniform"] == pytest.approx(27 / (27 + 64))
    assert at["ratio"] == pytest.approx(values.mean() / at["uniform"])
    of_queries = table["region"].str[0]
    sums = table.groupby(["timestep", "layer", of_queries])["mass"].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-5)


def test_further_tokens_of_the_softmax_count_in_uniform_attention(random_pipe, tmp_path):
    record = run_budget(random_pipe, CONFIG, tmp_path, "random").assign_attrs(extra_tokens=9)
    table = budget_table(record).set_index("region")
    assert table.loc["I2T", "uniform"].iloc[0] == pytest.approx(27 / (27 + 64 + 9))
    cross = budget_table(record.assign_attrs(extra_tokens=0, scope="cross")).set_index("region")
    assert cross.loc["I2T", "uniform"].iloc[0] == 1
    assert cross.loc["I2I", "uniform"].isna().all()


def test_an_interrupted_run_continues_and_ends_the_same(random_pipe, tmp_path, monkeypatch):
    undisturbed = budget_table(run_budget(random_pipe, CONFIG, tmp_path / "a", "random"))
    measured, original = [], measure_budget

    def counted(pipe, prompt, config):
        if len(measured) == 1:
            measured.append("interrupted")
            raise KeyboardInterrupt
        measured.append(prompt)
        return original(pipe, prompt, config)

    monkeypatch.setattr(budget_module, "measure_budget", counted)
    with pytest.raises(KeyboardInterrupt):
        run_budget(random_pipe, CONFIG, tmp_path / "b", "random")
    table = budget_table(run_budget(random_pipe, CONFIG, tmp_path / "b", "random"))
    assert measured == ["a red circle on grass", "interrupted", "sand"]
    pd.testing.assert_frame_equal(table, undisturbed)


def test_a_damaged_item_is_measured_again(random_pipe, tmp_path):
    first = budget_table(run_budget(random_pipe, CONFIG, tmp_path, "random"))
    (tmp_path / "items" / "prompt-0001.nc").write_bytes(b"half")
    pd.testing.assert_frame_equal(budget_table(run_budget(random_pipe, CONFIG, tmp_path, "random")), first)


def test_a_folder_of_another_run_is_refused(random_pipe, tmp_path):
    run_budget(random_pipe, CONFIG, tmp_path, "random")
    with pytest.raises(ValueError, match=r"holds a run with other settings \(timesteps\)"):
        run_budget(
            random_pipe, BudgetConfig(prompts=CONFIG.prompts, timesteps=(1,), generation=GENERATION), tmp_path, "random"
        )


def test_a_folder_in_use_is_refused(random_pipe, tmp_path):
    from mmdit_probe.storage.runs import RunFolder

    with RunFolder(tmp_path, {}).open(), pytest.raises(ValueError, match="in use by another run"):
        run_budget(random_pipe, CONFIG, tmp_path, "random")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": ("sand",), "timesteps": (5,)}, "must be in 1 to 4"),
        ({"prompts": ("sand",), "timesteps": (0,)}, "timesteps must be 1 or more"),
        ({"prompts": (" ",), "timesteps": (1,)}, "the prompt is empty"),
    ],
)
def test_bad_settings_are_explained(random_pipe, tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        run_budget(random_pipe, BudgetConfig(**settings, generation=GENERATION), tmp_path, "random")


def test_without_guidance_the_only_half_is_read(random_pipe):
    config = BudgetConfig(
        prompts=("sand",),
        timesteps=(1,),
        generation=GenerationConfig(steps=2, guidance_scale=1.0, max_sequence_length=0),
    )
    assert measure_budget(random_pipe, "sand", config)["region_mass"].dims == (
        "timestep",
        "layer",
        "head",
        "region",
    )


def test_the_figure_draws_the_table(random_pipe, tmp_path):
    table = budget_table(run_budget(random_pipe, CONFIG, tmp_path, "random"))
    figure = budget_figure(table, CONFIG.generation.steps)
    axes = figure.axes
    assert len(axes) == 4
    line = axes[0].lines[2]  # I2T of the first timestep
    rows = table[(table["timestep"] == 2) & (table["region"] == "I2T")]
    np.testing.assert_allclose(line.get_ydata(), 100 * rows["mass"])
    sigma = rows["sigma"].iloc[0]
    assert axes[0].get_title() == f"image queries, t = 2 of {CONFIG.generation.steps} (sigma {sigma:.3f})"
    pdf, png = save_figure(figure, tmp_path / "figure")
    assert pdf.read_bytes().startswith(b"%PDF")
    assert b"/Subtype /Type3" not in pdf.read_bytes()
    assert png.stat().st_size > 10_000


def test_the_reading_names_the_layer_with_the_most_text():
    frame = pd.DataFrame(
        [
            {"timestep": 8, "layer": layer, "region": region, "mass": mass, "uniform": 0.25, "ratio": mass / 0.25}
            for layer, i2t in enumerate([0.1, 0.5, 0.2])
            for region, mass in (("I2T", i2t), ("T2I", 0.3))
        ]
    )
    lines = summary(frame)
    assert lines[0].startswith("Layer 1 gives text the most: 50.0% of an image token's attention, 2.00 times uniform")
    assert lines[1].startswith("1 of 3 layers give text more than uniform; layer 0 gives it the least")
