"""Differences of records: against means by hand, laws, and what does not match."""

import numpy as np
import pytest

from mmdit_probe import I2TMaps, Probe, RegionMass, load_record, save_record
from mmdit_probe.configs import AnalyzeConfig, BudgetConfig, GenerationConfig
from mmdit_probe.figures.differences import difference_figure
from mmdit_probe.studies.attention_budget import measure_budget
from mmdit_probe.studies.diff import MEASURES, compare, summary, what_differs
from mmdit_probe.studies.overview import measure_everything

NAMES = {name: measure.name for name, measure in MEASURES.items()}
GENERATION = GenerationConfig(steps=3, guidance_scale=3.0, max_sequence_length=3)


@pytest.fixture(scope="module")
def records(random_folder):
    from mmdit_probe import load_pipeline

    pipe = load_pipeline(str(random_folder))
    prompts = ("a red circle on grass", "a blue star on grass")
    return [
        measure_everything(pipe, AnalyzeConfig(prompt=p, timesteps=(1, 3), generation=GENERATION)).record
        for p in prompts
    ]


def test_the_differences_are_those_of_means_by_hand(records):
    a, b = records
    table = compare(a, b).set_index(["measure", "timestep", "layer", "part"])
    for region in range(4):
        sides = [record["region_mass"].values[1, 2, :, region].mean() for record in records]
        row = table.loc[("region_mass", 3, 2, ["I2I", "I2T", "T2I", "T2T"][region])]
        np.testing.assert_allclose([row["a"], row["b"], row["difference"]], [*sides, sides[1] - sides[0]], rtol=1e-5)
    row = table.loc[("word_map", 1, 0, "grass")]
    words = [list(record["word"].values).index("grass") for record in records]
    sides = [record["word_map"].values[0, 0, word].mean() for record, word in zip(records, words, strict=True)]
    np.testing.assert_allclose([row["a"], row["b"]], sides, rtol=1e-5)
    row = table.loc[("pca_variance", 1, 1, "key")]
    np.testing.assert_allclose(row["a"], a["pca_variance"].values[0, 1, 1].sum(), rtol=1e-5)


def test_every_shared_measure_is_compared(records):
    found = compare(*records).groupby("measure", sort=False).size().to_dict()
    assert list(found) == [
        name for name in MEASURES if name not in ("class_r2", "text_pca_variance")
    ]  # neither is known
    assert found["region_mass"] == 2 * 3 * 4
    assert found["i2t_entropy"] == 2 * 3
    assert found["word_map"] == 2 * 3  # grass alone is in both prompts


def test_a_record_does_not_differ_from_itself(records):
    table = compare(records[0], records[0])
    assert (table["difference"] == 0).all()
    assert what_differs(records[0], records[0]) == []
    assert summary(table)[0] == "attention by region: no difference anywhere."


def test_exchanging_the_records_turns_the_sign(records):
    there, back = compare(*records), compare(*records[::-1])
    np.testing.assert_allclose(there["difference"], -back["difference"])
    np.testing.assert_array_equal(there["a"], back["b"])


def test_what_the_records_say_is_compared(records, tmp_path):
    a, b = (load_record(save_record(r, tmp_path / f"{n}.nc")) for n, r in enumerate(records))
    assert what_differs(a, b.assign_attrs(seed=7)) == [
        "prompt: a red circle on grass in A, a blue star on grass in B",
        "seed: 0 in A, 7 in B",
    ]
    assert len(compare(a, b)) == len(compare(*records))


def test_layers_in_another_order_are_the_same_layers(records):
    turned = records[1].isel(layer=[2, 0, 1], timestep=[1, 0])
    plain, again = compare(*records), compare(records[0], turned)
    keys = ["measure", "timestep", "layer", "part"]
    np.testing.assert_array_equal(plain.sort_values(keys)["b"], again.sort_values(keys)["b"])


def test_records_of_a_probe_are_compared_call_by_call(random_pipe):
    sides = []
    for prompt in ("sand", "snow"):
        with Probe(random_pipe, [RegionMass()]) as probe:
            random_pipe(prompt, num_inference_steps=2, guidance_scale=3.0, max_sequence_length=0)
        sides.append(probe.dataset("conditional"))
    table = compare(*sides)
    assert set(table["call"]) == {0, 1}
    assert len(table) == 2 * 3 * 4
    assert difference_figure(table, {"region_mass": "share"}, NAMES).axes[0].get_title() == "B minus A, call 0"


def test_a_record_of_one_study_meets_one_of_all(records, random_pipe):
    budget = measure_budget(
        random_pipe, "sand", BudgetConfig(prompts=("sand",), timesteps=(1, 3), generation=GENERATION)
    )
    assert set(compare(budget, records[0])["measure"]) == {"region_mass"}


def test_what_does_not_match_is_explained(records, random_pipe):
    a, b = records
    with pytest.raises(ValueError, match="A has layers 0, 1, 2; B has 0, 2; measure both at the same layers"):
        compare(a, b.isel(layer=[0, 2]))
    with pytest.raises(ValueError, match="A has timesteps 1, 3; B has 3; measure both at the same timesteps"):
        compare(a, b.isel(timestep=[1]))
    with pytest.raises(ValueError, match=r"no measure in common: A holds .*region_mass.*, B holds pca"):
        compare(a, b[["pca"]])
    with Probe(random_pipe, [RegionMass(), I2TMaps()]) as probe:
        random_pipe("sand", num_inference_steps=1, max_sequence_length=0)
    with pytest.raises(ValueError, match="one record is by timestep, the other by call"):
        compare(a, probe.dataset())


def test_the_figure_draws_the_differences(records):
    table = compare(*records)
    figure = difference_figure(table, {name: measure.unit for name, measure in MEASURES.items()}, NAMES)
    assert len(figure.axes) == 8 * 2
    line = figure.axes[1].lines[1]
    rows = table[(table["measure"] == "region_mass") & (table["timestep"] == 3) & (table["part"] == "I2T")]
    np.testing.assert_allclose(line.get_ydata(), 100 * rows["difference"])
    assert figure.axes[0].get_ylabel() == "attention by region\nshare of attention (% points)"
    assert [text.get_text() for text in figure.axes[1].get_legend().get_texts()] == ["I2I", "I2T", "T2I", "T2T"]
