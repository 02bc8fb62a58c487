"""Value norms: against norms taken by hand, laws, table and figures."""

import numpy as np
import pandas as pd
import pytest
import torch
from naive import random_call

from mmdit_probe import TokenLayout, ValueNorms
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.configs import GenerationConfig, ValueNormsConfig
from mmdit_probe.figures.norms import norm_heads_figure, norms_figure
from mmdit_probe.studies.value_norms import heads_table, measure_norms, norms_table, run_norms, summary

GENERATION = GenerationConfig(steps=3, guidance_scale=3.0, max_sequence_length=3)
CONFIG = ValueNormsConfig(prompts=("a red circle on grass", "sand"), timesteps=(1, 3), generation=GENERATION)


@pytest.fixture(scope="module")
def record(random_folder, tmp_path_factory):
    from mmdit_probe import load_pipeline

    return run_norms(load_pipeline(str(random_folder)), CONFIG, tmp_path_factory.mktemp("norms"), "random")


def test_the_norms_are_those_of_the_value_projections(random_pipe):
    """The slow twin: the value projections' own outputs, caught by hooks, their norms taken token by token."""
    caught = {}
    block = random_pipe.transformer.transformer_blocks[1].attn
    hooks = [
        module.register_forward_hook(lambda m, a, out, name=name: caught.setdefault(name, out.detach()))
        for name, module in (("image", block.to_v), ("text", block.add_v_proj))
    ]
    record = measure_norms(
        random_pipe, "a red circle", ValueNormsConfig(prompts=("",), timesteps=(3,), generation=GENERATION)
    )
    for hook in hooks:
        hook.remove()
    heads = block.heads
    for stream in ("image", "text"):
        tokens = caught[stream][1].unflatten(-1, (heads, -1)).numpy()  # row 1 carries the prompt
        slow = [np.mean([np.sqrt((token[h] ** 2).sum()) for token in tokens]) for h in range(heads)]
        found = record["value_norm"].isel(timestep=0).sel(layer=1, stream=stream)
        np.testing.assert_allclose(found, slow, rtol=1e-5)
    words = caught["text"][1, 1:4].unflatten(-1, (heads, -1)).norm(dim=-1).mean(0)
    np.testing.assert_allclose(record["value_norm"].isel(timestep=0).sel(layer=1, stream="prompt"), words, rtol=1e-5)


def test_values_twice_as_long_have_twice_the_norm():
    layout = TokenLayout((3, 4), 5)
    call = random_call(2, 3, layout.tokens, 8)
    once = ValueNorms().measure(JointAttention(call, layout))["value_norm"].values
    call.value[:] *= -2
    torch.testing.assert_close(
        ValueNorms().measure(JointAttention(call, layout))["value_norm"].values, 2 * once, equal_nan=True
    )


def test_the_table_holds_means_and_ratios(record):
    table = norms_table(record)
    assert len(table) == 2 * 3
    at = table.set_index(["timestep", "layer"]).loc[(1, 2)]
    values = record["value_norm"].sel(timestep=1, layer=2).mean("head")
    assert at["text"] == pytest.approx(float(values.sel(stream="text").mean()))
    assert at["image_spread"] == pytest.approx(float(values.sel(stream="image").std()))
    assert at["text_to_image"] == pytest.approx(at["text"] / at["image"])
    assert at["prompt_to_image"] == pytest.approx(at["prompt"] / at["image"])
    heads = heads_table(record)
    assert len(heads) == 2 * 3 * 4 * 3
    by_layer = heads.groupby(["timestep", "layer", "stream"])["norm"].mean()
    assert by_layer[(1, 2, "text")] == pytest.approx(at["text"], rel=1e-5)


def test_a_finished_run_is_read_not_measured(random_pipe, tmp_path, monkeypatch):
    first = norms_table(run_norms(random_pipe, CONFIG, tmp_path, "random"))
    monkeypatch.setattr("mmdit_probe.studies.value_norms.measure_norms", lambda *_: pytest.fail("measured again"))
    pd.testing.assert_frame_equal(norms_table(run_norms(random_pipe, CONFIG, tmp_path, "random")), first)


def test_an_empty_prompt_is_refused(random_pipe, tmp_path):
    with pytest.raises(ValueError, match="the prompt is empty"):
        run_norms(
            random_pipe, ValueNormsConfig(prompts=(" ",), timesteps=(1,), generation=GENERATION), tmp_path, "random"
        )


def test_the_figures_draw_the_tables(record):
    table, heads = norms_table(record), heads_table(record)
    axes = norms_figure(table).axes
    assert [ax.get_title() for ax in axes] == ["t = 1 (sigma 0.009)", "t = 3 (sigma 1.000)"]
    np.testing.assert_allclose(axes[1].lines[1].get_ydata(), table[table["timestep"] == 3]["text"])
    sheet = norm_heads_figure(heads).axes[1]
    expected = heads[(heads["timestep"] == 1) & (heads["stream"] == "text")].pivot(
        index="head", columns="layer", values="norm"
    )
    np.testing.assert_array_equal(sheet.images[0].get_array(), expected)


def test_the_reading_names_the_layer_that_stands_out():
    frame = pd.DataFrame(
        {"timestep": 8, "layer": [0, 1, 2], "image": 1.0, "text": 1.0, "prompt": 1.0}
        | {"text_to_image": [0.5, 3.0, 1.0], "prompt_to_image": [0.2, 1.0, 2.0]}
    )
    lines = summary(frame)
    assert lines[0].startswith("Layer 1 has the longest text values against image values: 3.00 times (median")
    assert "layer 2 has the largest ratio, 2.00" in lines[1]
    assert "no ratio for the prompt" in summary(frame.assign(prompt_to_image=np.nan))[1]
