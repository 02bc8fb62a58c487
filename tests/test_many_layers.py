"""Figures of models with 24 and 57 layers: nothing overlaps, and they fit a page."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from mmdit_probe.configs import ExploreConfig
from mmdit_probe.explorer.measure import chosen
from mmdit_probe.figures.contact import ACROSS, contact_sheet
from mmdit_probe.figures.drops import drop_figure
from mmdit_probe.figures.patching import move_figure

WIDEST = 13.0
"""Inches: what a screen shows at a readable size."""


def drops(names):
    rows = [
        {"layer": name, "metric": metric, "drop": 0.1, "low": 0.0, "high": 0.2}
        for metric in ("clip_t", "clip_i", "dino")
        for name in names
    ]
    return pd.DataFrame(rows)


def check_labels_apart(figure):
    figure.canvas.draw()
    for ax in figure.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


@pytest.mark.parametrize("names", [range(4), range(24), range(57), [f"9.{head}" for head in range(24)]], ids=len)
def test_labels_of_edited_layers_and_heads_are_apart(names):
    figure = drop_figure(drops(names), "edited layer")
    check_labels_apart(figure)
    assert figure.get_size_inches()[0] < WIDEST
    drawn = figure.axes[0].containers[0][0].get_xdata()
    assert len(drawn) == len(names)
    if len(names) == 4:
        assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["0", "1", "2", "3"]


@pytest.mark.parametrize("layers", [3, 24, 57])
def test_a_contact_sheet_of_every_layer_goes_on_below(layers):
    prompts = ("grass", "sand")
    images = {f"layer{n}": np.full((2, 4, 4, 3), [[[[n]]], [[[100 + n]]]], np.uint8) for n in range(layers)}
    sheet = contact_sheet(images, prompts, {name: name for name in images})
    assert sheet.get_size_inches()[0] < WIDEST
    titled = {ax.get_title(): number for number, ax in enumerate(sheet.axes) if ax.get_title()}
    assert list(titled) == list(images)
    across = min(layers, ACROSS) if layers <= ACROSS else -(-layers // -(-layers // ACROSS))
    for n, (name, place) in enumerate(titled.items()):
        for row in range(2):
            ax = sheet.axes[place + row * across]
            assert ax.images[0].get_array()[0, 0, 0] == n + 100 * row, name
    assert [ax.get_ylabel() for ax in sheet.axes[::across]] == [*prompts] * (len(sheet.axes) // across // 2)


@pytest.mark.parametrize("layers", [24, 57])
def test_a_map_of_patched_layers_fits(layers):
    rows = [
        {"metric": metric, "steps_from": step, "layer": layer, "moved": layer / layers}
        for metric in ("clip_t", "clip_i")
        for step in (0, 7)
        for layer in range(layers)
    ]
    figure = move_figure(pd.DataFrame(rows))
    check_labels_apart(figure)
    assert figure.get_size_inches()[0] < WIDEST


def test_a_pipeline_that_does_not_tell_its_size_is_taken_for_a_large_one(random_pipe, monkeypatch):
    every = chosen(random_pipe, ExploreConfig())[1]
    monkeypatch.delattr(random_pipe, "vae_scale_factor")
    assert len(chosen(random_pipe, ExploreConfig())[1]) < len(every)
