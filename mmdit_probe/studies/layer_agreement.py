"""Do value norms, semantic features and masks point at the same layer? One pass over scenes answers for all three."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ..configs import AgreementConfig
from ..datasets.scenes import CLASSES, Scene, scenes
from ..metrics.segmentation import Scores, score
from ..pipelines.image_size import native_size, token_pixels
from ..readouts.feature_pca import FeaturePCA, token_labels
from ..readouts.maps import I2TMaps
from ..readouts.value_norms import ValueNorms
from ..storage.images import fitted
from .recording import record_image
from .scene_grounding import predict
from .word_maps import word_positions

MEASURES = ("miou", "class_r2", "position_r2", "text_to_image", "prompt_to_image")


def layer_agreement(pipe: Any, config: AgreementConfig) -> pd.DataFrame:
    """One row per layer, over test scenes with the names of their classes as the prompt, at one noise level and
    with the same noise.

    ``miou`` of the I2T masks in [0, 1]; ``class_r2`` and ``position_r2``, adjusted R^2 of the image tokens' features
    (mean over query, key and value); ``text_to_image`` and ``prompt_to_image``, ratios of mean value norms.
    """
    records: list[xr.Dataset] = []
    totals: dict[int, Scores] = {}
    for drawn in scenes("test", config.scenes):
        record = _read(pipe, drawn, config)
        for layer, scored in _scores(pipe, drawn, record, config):
            totals[layer] = totals[layer] + scored if layer in totals else scored
        records.append(record.drop_vars(["i2t", "pca"], errors="ignore"))
    mean = xr.concat(records, "scene", combine_attrs="override", coords="minimal", compat="override").mean("scene")
    norms = mean["value_norm"].mean("head").isel(timestep=0)
    image = norms.sel(stream="image")
    table = pd.DataFrame(
        {
            "layer": mean["layer"].values,
            "miou": [totals[int(layer)].miou for layer in mean["layer"].values],
            **{name: mean[name].isel(timestep=0).mean("feature").values for name in MEASURES[1:3]},
            **{f"{name}_to_image": (norms.sel(stream=name) / image).values for name in ("text", "prompt")},
        }
    )
    table.insert(0, "sigma", float(record["sigma"][0]))
    return table


def _read(pipe: Any, drawn: Scene, config: AgreementConfig) -> xr.Dataset:
    step = token_pixels(pipe)
    image = fitted(drawn.image, step, native_size(pipe))
    labels = token_labels(drawn.labels, (image.shape[0] // step, image.shape[1] // step))
    readouts = [I2TMaps(), ValueNorms(), FeaturePCA(labels)]
    return record_image(pipe, image, drawn.class_list(), readouts, (config.chosen_timestep,), config.generation).record


def _scores(pipe: Any, drawn: Scene, record: xr.Dataset, config: AgreementConfig) -> Iterable[tuple[int, Scores]]:
    spans = word_positions(pipe, drawn.class_list(), drawn.classes, config.generation)
    maps = record["i2t"].isel(timestep=0).transpose("layer", "row", "col", "token")
    for layer, grid in zip(maps["layer"].values, maps.values, strict=True):
        guess = predict(drawn, torch.from_numpy(np.ascontiguousarray(grid)), spans)
        yield int(layer), score(drawn.labels, guess, len(CLASSES))


def rank_correlations(table: pd.DataFrame) -> pd.Series:
    """Spearman's rank correlation over layers of each measure with the masks' mIoU, in [-1, 1]."""
    return table[list(MEASURES)].rank().corr()["miou"].drop("miou")


def summary(table: pd.DataFrame) -> list[str]:
    """Which layer each measure points at, and how far it orders layers as the masks do."""
    best, correlations = table.set_index("layer")[list(MEASURES)].idxmax(), rank_correlations(table)
    lines = [f"The best masks come from layer {best['miou']} ({table['miou'].max():.1%} mIoU)."]
    for name, what in (("class_r2", "semantic R^2"), ("text_to_image", "ratio of text to image value norms")):
        same = "the same layer" if best[name] == best["miou"] else f"another layer, {best[name]}"
        lines.append(f"The {what} points at {same}; rank correlation with mIoU over layers {correlations[name]:+.2f}.")
    return lines
