"""Do value norms, semantic features and masks point at the same layer? All three from one pass over scenes."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
import xarray as xr

from ..configs import AgreementConfig
from ..datasets.scenes import Scene, scenes
from ..families import Pipeline
from ..metrics import rank_correlation
from ..readouts.feature_pca import FeaturePCA
from ..readouts.maps import I2TMaps
from ..readouts.value_norms import ValueNorms
from ..segmentation.layer_metrics import MetricsByName
from .scene_grounding import add_scene
from .scene_recording import record_scene
from .word_maps import word_positions

MEASURES = ("miou", "class_r2", "position_r2", "text_to_image", "prompt_to_image")


def layer_agreement(pipe: Pipeline, config: AgreementConfig) -> pd.DataFrame:
    """Masks, features and value norms of each layer over test scenes, all with the same noise.

    The prompt is the names of a scene's classes.

    Returns:
        One row for each layer: ``sigma``; ``layer``; ``miou`` of the I2T masks in [0, 1]; ``class_r2`` and ``position_r2``,
        the adjusted R^2 of the image tokens' features (mean over query, key and value); ``text_to_image`` and
        ``prompt_to_image``, ratios of mean value norms.
    """
    records: list[xr.Dataset] = []
    totals = MetricsByName()
    for drawn in scenes("test", config.scenes):
        record = _read(pipe, drawn, config)
        _add_masks(totals, pipe, drawn, record, config)
        records.append(record.drop_vars(["i2t", "pca"], errors="ignore"))
    mean = xr.concat(records, "scene", combine_attrs="override", coords="minimal", compat="override").mean("scene")
    norms = mean["value_norm"].mean("head").isel(timestep=0)
    image = norms.sel(stream="image")
    table = pd.DataFrame(
        {
            "layer": mean["layer"].values,
            "miou": totals.table("layer")["miou"],
            **{name: mean[name].isel(timestep=0).mean("feature").values for name in MEASURES[1:3]},
            **{f"{name}_to_image": (norms.sel(stream=name) / image).values for name in ("text", "prompt")},
        }
    )
    table.insert(0, "sigma", float(record["sigma"][0]))
    return table


def _read(pipe: Pipeline, drawn: Scene, config: AgreementConfig) -> xr.Dataset:
    return record_scene(
        pipe,
        drawn,
        drawn.class_list(),
        lambda labels: [I2TMaps(), ValueNorms(), FeaturePCA(labels)],
        (config.chosen_timestep,),
        config.generation,
    ).record


def _add_masks(
    totals: MetricsByName, pipe: Pipeline, drawn: Scene, record: xr.Dataset, config: AgreementConfig
) -> None:
    spans = word_positions(pipe, drawn.class_list(), drawn.classes, config.generation)
    maps = record["i2t"].isel(timestep=0).transpose("layer", "row", "col", "token")
    grids = torch.from_numpy(np.ascontiguousarray(maps.values))
    add_scene(totals, drawn, dict(zip(maps["layer"].values.tolist(), grids, strict=True)), spans)


def rank_correlations(table: pd.DataFrame) -> pd.Series:
    """Spearman's rank correlation over layers of each measure with the masks' mIoU, in [-1, 1]."""
    return rank_correlation.rank_correlations(table, MEASURES[1:], "miou")


def summary(table: pd.DataFrame) -> list[str]:
    """Which layer each measure points at, and how far it orders layers as the masks do."""
    best, correlations = table.set_index("layer")[list(MEASURES)].idxmax(), rank_correlations(table)
    lines = [f"The best masks come from layer {best['miou']} ({table['miou'].max():.1%} mIoU)."]
    for name, what in (("class_r2", "semantic R^2"), ("text_to_image", "ratio of text to image value norms")):
        same = "the same layer" if best[name] == best["miou"] else f"another layer, {best[name]}"
        lines.append(f"The {what} points at {same}; rank correlation with mIoU over layers {correlations[name]:+.2f}.")
    return lines
