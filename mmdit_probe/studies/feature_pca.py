"""What the features of each layer vary with: principal components, position and class (Seg4Diff, Fig. 3, 29)."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import PCAConfig
from ..datasets.scenes import scene
from ..families import Pipeline
from ..pipelines.layers import chosen_layers
from ..readouts.feature_pca import FeaturePCA
from .recording import Recording, record_generated, record_image
from .scene_recording import record_scene


def measure_pca(pipe: Pipeline, config: PCAConfig, image: np.ndarray | None = None) -> Recording:
    """The fields of `FeaturePCA` with the dims (timestep, layer, feature, ...).

    With ``config.scenes`` these test scenes are read, each with its label map, and joined along ``scene``; the image
    is the first one's. Otherwise ``image`` (height, width, 3) uint8 is read, or one is generated.
    """
    if config.scenes:
        parts = [_record_scene(pipe, config, number) for number in config.scenes]
        records = [part.record for part in parts]
        joined = xr.concat(records, "scene", combine_attrs="override", coords="minimal", compat="override")
        return Recording(joined.assign_coords(scene=list(config.scenes)), parts[0].image)
    where = (config.chosen_timesteps, config.generation, chosen_layers(pipe, config.layers))
    readouts = [_readout(config)]
    if image is None:
        return record_generated(pipe, config.prompt or "", readouts, *where, decode=True)
    return record_image(pipe, image, config.prompt or "", readouts, *where)


def _readout(config: PCAConfig, labels: np.ndarray | None = None) -> FeaturePCA:
    return FeaturePCA(labels, config.stream, config.include_padding)


def _record_scene(pipe: Pipeline, config: PCAConfig, number: int) -> Recording:
    drawn = scene("test", number)
    prompt = drawn.sentence() if config.prompt is None else config.prompt
    where = (config.chosen_timesteps, config.generation, chosen_layers(pipe, config.layers))
    return record_scene(pipe, drawn, prompt, lambda labels: [_readout(config, labels)], *where)


PREFIX = {"image": "", "text": "text_"}
"""What the names of each stream's variables begin with."""


def pca_table(record: xr.Dataset) -> pd.DataFrame:
    """One row per timestep, layer, stream (image, text) and feature (query, key, value), means over scenes.

    ``variance_1`` to ``variance_3`` are shares of the variance in [0, 1]; ``position_r2`` and ``class_r2`` adjusted R^2,
    NaN for text.
    """
    frames = [_stream_table(record, stream) for stream in PREFIX if f"{PREFIX[stream]}pca_variance" in record]
    frame = pd.concat(frames, ignore_index=True)
    frame["feature"] = pd.Categorical(frame["feature"], ["query", "key", "value"])
    ordered = frame.sort_values(["timestep", "layer", "stream", "feature"], ignore_index=True)
    return ordered.astype({"feature": str})


def _stream_table(record: xr.Dataset, stream: str) -> pd.DataFrame:
    shares = record[f"{PREFIX[stream]}pca_variance"]
    ratios = {f"variance_{n + 1}": shares.isel(component=n) for n in range(record.sizes["component"])}
    r2 = {name: record[name] for name in ("position_r2", "class_r2") if stream == "image"}
    chosen = xr.Dataset({**ratios, **r2})
    mean = chosen.mean("scene") if "scene" in chosen.dims else chosen
    frame = mean.to_dataframe().reset_index().assign(stream=stream)
    frame = frame.drop(columns=["step", "scheduler_timestep"], errors="ignore")
    columns = ["timestep", "sigma", "layer", "stream", "feature", *ratios, "position_r2", "class_r2"]
    return frame.reindex(columns=columns)


def first_scene(record: xr.Dataset) -> xr.Dataset:
    """The record of the image that is shown."""
    return record.isel(scene=0) if "scene" in record.dims else record


def colors(record: xr.Dataset) -> xr.DataArray:
    """The three components as RGB in [0, 1], (timestep, layer, feature, row, col, component).

    Each component is scaled to its own range over the grid; the middle frame of a video.
    """
    maps = first_scene(record)["pca"]
    maps = maps.isel(frame=maps.sizes["frame"] // 2) if "frame" in maps.dims else maps
    return _as_colors(maps, ("row", "col"))


def text_colors(record: xr.Dataset) -> xr.DataArray:
    """The same of the text tokens, (timestep, layer, feature, token, component), without those left out."""
    values = first_scene(record)["text_pca"]
    taken = values.notnull().any([dim for dim in values.dims if dim != "token"])
    return _as_colors(values.isel(token=np.flatnonzero(taken)), ("token",))


def _as_colors(values: xr.DataArray, axes: tuple[str, ...]) -> xr.DataArray:
    """Each component scaled to [0, 1] by its own range over ``axes``; NaN where nothing is known."""
    low, high = values.min(axes), values.max(axes)  # of the numbers: `utils.scaling.min_max` of tensors knows no NaN
    scaled = (values - low) / (high - low).where(high > low, 1)
    return scaled.transpose("timestep", "layer", "feature", *axes, "component")


def summary(table: pd.DataFrame) -> list[str]:
    """Lines that say what the features vary with, by the mean over query, key and value."""
    readings = {"image": _read_image_aloud, "text": _read_text_aloud}
    return [line for stream, rows in table.groupby("stream") for line in readings[str(stream)](rows)]


def _read_text_aloud(table: pd.DataFrame) -> list[str]:
    share = table.groupby("layer")[["variance_1", "variance_2", "variance_3"]].mean().sum(axis=1)
    return [
        f"Three components hold most of the text tokens' variance in layer {share.idxmax()} ({share.max():.0%}) and least "
        f"in layer {share.idxmin()} ({share.min():.0%}), averaged over query, key and value."
    ]


def _read_image_aloud(table: pd.DataFrame) -> list[str]:
    """Which layers are positional and which semantic."""
    mean = table.groupby("layer")[["position_r2", "class_r2"]].mean()
    lines = []
    place, kind = mean["position_r2"].dropna(), mean["class_r2"].dropna()
    if not place.empty:
        lines.append(
            f"Position explains most in layer {place.idxmax()} (R^2 {place.max():.2f}) and least in layer "
            f"{place.idxmin()} ({place.min():.2f}), averaged over query, key and value."
        )
    if kind.empty:
        return [*lines, "No label map is known for this image, so there is no R^2 from the class; try --scene 0."]
    by_feature = table.groupby(["feature", "layer"])["class_r2"].mean()
    feature, layer = by_feature.idxmax()
    return [
        *lines,
        f"The class explains most in layer {kind.idxmax()} (R^2 {kind.max():.2f}; median over layers {kind.median():.2f}); "
        f"of all features most in the {feature} of layer {layer} ({by_feature.max():.2f}).",
    ]
