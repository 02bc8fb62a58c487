"""Attention sinks: which keys they are by the layout, against the full record; table, figure and command."""

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from naive import random_call

from mmdit_probe import Extra, KeyMass, Probe, TokenLayout, load_record
from mmdit_probe.attention.joint import JointAttention
from mmdit_probe.attention.kernels import AttentionCall
from mmdit_probe.configs import GenerationConfig, SinksConfig
from mmdit_probe.figures.sinks import kind_colors, sinks_figure
from mmdit_probe.readouts.base import read
from mmdit_probe.studies.recording import record_generated
from mmdit_probe.studies.sinks import (
    kinds_table,
    measure_sinks,
    name_keys,
    run_sinks,
    sinks_table,
    strongest_keys,
    summary,
)

GENERATION = GenerationConfig(steps=2, guidance_scale=3.0, max_sequence_length=3)
CONFIG = SinksConfig(prompts=("a red circle on grass", "sand"), timesteps=(1, 2), top=3, generation=GENERATION)


@pytest.fixture(scope="module")
def record(random_folder, tmp_path_factory):
    from mmdit_probe import load_pipeline

    return run_sinks(load_pipeline(str(random_folder)), CONFIG, tmp_path_factory.mktemp("sinks"), "random")


def sunk(layout, key, kinds=("start", "word", "padding")):
    """A record of one layer and head in which every query attends to one key."""
    call = random_call(1, 1, layout.tokens, 8)
    towards = torch.zeros_like(call.key)
    towards[:, :, key] = 50
    attention = JointAttention(AttentionCall(call.query.abs(), towards, call.value), layout)
    fields = read([KeyMass("all")], attention)
    variables = {
        name: (("timestep", "layer", *field.dims[1:]), field.values[None].numpy()) for name, field in fields.items()
    }
    axes = {axis.name: list(axis.labels) for field in fields.values() for axis in field.axes}
    words = {"token_kind": ("token", list(kinds)), "token_text": ("token", ["<s>", "sand", "<pad>"])}
    coords = {**axes, **words, "timestep": [1], "layer": [0], "sigma": ("timestep", [0.5])}
    return strongest_keys(xr.Dataset(variables, coords, {"grid": list(layout.grid)}), 2)


@pytest.mark.parametrize(
    ("layout", "key", "kind", "name"),
    [
        (TokenLayout((3, 4), 3), 0, "corner", "row 0, col 0"),  # index 0 is no start token where the image comes first
        (TokenLayout((3, 4), 3), 12, "start", "token 0 '<s>'"),
        (TokenLayout((3, 4), 3, "text-image"), 0, "start", "token 0 '<s>'"),
        (TokenLayout((3, 4), 3, "text-image"), 3, "corner", "row 0, col 0"),
        (TokenLayout((3, 4), 3, "text-image"), 2, "padding", "token 2 '<pad>'"),
        (TokenLayout((3, 4), 3), 5, "image", "row 1, col 1"),
        (TokenLayout((3, 4), 3, extras=(Extra("register", 2, "first"),)), 1, "register", "register 2"),
        (TokenLayout((2, 3, 4), 3), 1, "first frame", "frame 0, row 0, col 1"),
        (TokenLayout((2, 3, 4), 3), 23, "corner", "frame 1, row 2, col 3"),
        (TokenLayout((2, 3, 4), 3), 17, "image", "frame 1, row 1, col 1"),
    ],
)
def test_the_layout_says_what_a_key_is(layout, key, kind, name):
    found = sunk(layout, key)
    assert str(found["sink_kind"].values[0, 0, 0, 0]) == kind
    assert str(found["sink_key"].values[0, 0, 0, 0]) == name
    assert float(found["sink_mass"][0, 0, 0, 0]) > 0.9
    assert found.attrs["keys"] == layout.tokens


def test_the_strongest_keys_are_those_of_the_whole_record(random_pipe):
    """The slow twin: all keys of the record, sorted one head at a time."""
    found = measure_sinks(random_pipe, "a red circle on grass", CONFIG)
    whole = record_generated(random_pipe, "a red circle on grass", [KeyMass("all")], (1, 2), GENERATION).record
    kinds, names = name_keys(whole)
    for time, layer, head in np.ndindex(2, 3, 4):
        at = whole.isel(timestep=time, layer=layer, head=head)
        keys = [*at["image_key_mass"].values.ravel(), *at["text_key_mass"].values]
        best = sorted(range(len(keys)), key=lambda key: -keys[key])[:3]
        own = found.isel(timestep=time, layer=layer, head=head)
        np.testing.assert_allclose(own["sink_mass"], [keys[key] for key in best])
        assert own["sink_kind"].values.tolist() == [kinds[key] for key in best]
        assert own["sink_key"].values.tolist() == [names[key] for key in best]


def test_the_tables_count_heads_and_prompts(record):
    table = sinks_table(record)
    assert len(table) == 2 * 2 * 3 * 4 * 3
    assert (table["times_uniform"] / table["mass"]).round(3).eq(64 + 27).all()
    assert (table["error"] == 0).all()
    kinds = kinds_table(table)
    np.testing.assert_allclose(kinds.groupby(["timestep", "layer"])["share"].sum(), 1)
    assert set(kinds["n"]) == {2}
    lines = summary(table)
    assert sum("most attended key" in line for line in lines) == table[table["rank"] == 1]["kind"].nunique()
    assert all("too few prompts for an interval" in line for line in lines[:-1])


def test_sampled_queries_say_their_error(random_pipe):
    from dataclasses import replace

    found = measure_sinks(random_pipe, "sand", replace(CONFIG, every=4))
    assert (found["sink_error"] > 0).all()
    table = sinks_table(found.expand_dims(prompt=["sand"]))
    assert "One of every 4 image queries was read: the masses have standard errors" in summary(table, 4)[-1]


def test_the_figure_has_a_dot_for_every_head(record):
    table = sinks_table(record)
    figure = sinks_figure(table, kinds_table(table), 2)
    assert len(figure.axes) == 4
    dots = sum(len(points.get_offsets()) for points in figure.axes[0].collections)
    assert dots == 2 * 3 * 4
    assert list(kind_colors(table)) == [text.get_text() for text in figure.legends[0].get_texts()][:-1]


def test_the_command_leaves_figure_tables_and_record(run, tmp_path):
    arguments = ["--prompt", "sand", "--steps", "2", "--timesteps", "1", "--max-sequence-length", "0", "--layers", "1"]
    code, out, _ = run("sinks", *arguments, "--every", "2", "--top", "2")
    assert code == 0
    folder = tmp_path / "results" / "sinks"
    assert "times uniform in the median" in out
    assert {path.name for path in folder.glob("sinks*")} == {
        *("sinks.pdf", "sinks.png", "sinks.csv", "sinks_kinds.csv", "sinks.nc")
    }
    assert len(pd.read_csv(folder / "sinks.csv")) == 4 * 2
    saved = load_record(folder / "sinks.nc")
    assert all(saved[name].attrs["long_name"] for name in (*saved.data_vars, "rank", "layer", "sigma"))
    code, _, err = run("sinks", *arguments, "--every", "0")
    assert code == 2
    assert "Invalid value for '--every': Input should be greater than or equal to 1" in err


def test_nothing_is_read_without_the_layers(random_pipe):
    with Probe(random_pipe, [KeyMass()], layers=[2]) as probe:
        random_pipe("sand", num_inference_steps=1, guidance_scale=3.0, max_sequence_length=3, output_type="latent")
    assert probe.dataset()["layer"].values.tolist() == [2]
