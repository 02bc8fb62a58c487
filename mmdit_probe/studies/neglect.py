"""What the prompt lost: words that add little to the image, and whether that tells which of them are missing in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import AnalyzeConfig, NeglectConfig
from ..datasets.scenes import GROUNDS, THINGS
from ..families import Pipeline
from ..metrics.detection import area_under_curve
from ..metrics.scene_reader import SceneReader
from ..metrics.verdicts import Form, counted, in_words
from ..pipelines.layers import chosen_layers
from ..readouts.contributions import Contributions
from ..readouts.word_maps import WordMaps
from ..storage.records import FORMAT, versions
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .overview import words_of
from .recording import check_sampling, prompt_units, record_generated

MEASURES = ("contribution", "i2t")
SCENE_SIZE = (64, 64, 3)
SMALLEST = 1e-6
"""Ratios below count as this in geometric means."""


def measure_neglect(
    pipe: Pipeline, prompt: str, config: NeglectConfig, reader: SceneReader | None = None
) -> xr.Dataset:
    """One prompt: what each word adds to the image and how much it is attended to, (timestep, layer, word).

    ``contribution`` is the mean over the image of `Contributions`, in the model's own units, ``i2t`` the mean probability with
    which image queries attend to one of the word's tokens. ``missing`` (word) is 1 if ``reader`` does not find the word in the
    generated image, 0 if it does, NaN if it does not know the word or there is no reader. `ValueError` if the prompt has fewer
    than two words to compare.
    """
    words = words_of(pipe, AnalyzeConfig(prompt=prompt, words=config.words, generation=config.generation))
    if len(words) < 2:
        raise ValueError(
            f"neglect: {prompt!r} has {counted(len(words), 'content word')}; words are compared, give two or more"
        )
    readouts = [Contributions(list(words.values())), WordMaps(list(words.values()))]
    layers = chosen_layers(pipe, config.layers)
    recording = record_generated(
        pipe, prompt, readouts, config.chosen_timesteps, config.generation, layers, decode=reader is not None
    )
    record = recording.record
    grid = [dim for dim in ("frame", "row", "col") if dim in record["word_map"].dims]
    said = {"contribution": "mean length of what the word adds to the layer's output, in the model's own units",
            "i2t": "mean probability with which image queries attend to a token of the word"}  # fmt: skip
    values = {"contribution": record["contribution"].mean(grid), "i2t": record["word_map"].mean(grid)}
    found = xr.Dataset(
        {
            name: value.transpose("timestep", "layer", "word").assign_attrs(long_name=said[name], units="1")
            for name, value in values.items()
        }
    )
    missing = [is_missing(word, recording.image, reader) for word in words]
    about = {"long_name": "whether the word is missing in the image, by the scene reader; NaN if unknown", "units": "1"}
    found = found.assign(missing=("word", missing, about)).assign_coords(word=list(words))
    return found.assign_attrs({**record.attrs, "format": FORMAT, **versions()})


def is_missing(word: str, image: np.ndarray, reader: SceneReader | None) -> float:
    """1 if the reader does not find a ground or shape in the image, 0 if it does; NaN for other words and images."""
    if reader is None or image.shape != SCENE_SIZE or word.lower() not in (*GROUNDS, *THINGS):
        return float("nan")
    return float((word.lower(),) not in reader.read([image])[0])


def run_neglect(
    pipe: Pipeline,
    config: NeglectConfig,
    out: Path,
    model: str,
    reader: SceneReader | None = None,
    progress: Progress | None = None,
) -> list[xr.Dataset]:
    """All prompts, each written to ``out`` as it is done; a run that was interrupted continues."""
    check_sampling("neglect", config)
    folder = RunFolder.for_study(out, "neglect", model, config)
    units = prompt_units(lambda prompt: measure_neglect(pipe, prompt, config, reader), config.prompts)
    with folder.open() as run:
        return list(run.finished(units, progress))


def layers_table(records: Sequence[xr.Dataset]) -> pd.DataFrame:
    """One row per prompt, word, timestep and layer: ``contribution`` and ``i2t``, and each against the other words.

    ``..._against`` is the value divided by the mean of the prompt's other words in the same layer: 1 is average.
    """
    frames = []
    for record in records:
        parts = {name: record[name] for name in MEASURES}
        others = {name: (part.sum("word") - part) / (part.sizes["word"] - 1) for name, part in parts.items()}
        against = {f"{name}_against": parts[name] / others[name].where(others[name] > 0) for name in MEASURES}
        frame = xr.Dataset({**parts, **against}).to_dataframe().reset_index()
        frames.append(frame.assign(prompt=str(record.attrs["prompt"])))
    columns = ["prompt", "word", "timestep", "sigma", "layer", *(f"{n}{s}" for n in MEASURES for s in ("", "_against"))]
    return pd.concat(frames, ignore_index=True)[columns]


def words_table(records: Sequence[xr.Dataset], table: pd.DataFrame, threshold: float) -> pd.DataFrame:
    """One row per prompt and word: the geometric means over layers and timesteps, whether it is ``neglected``, and ``missing``.

    A word is neglected if its contribution is under ``threshold`` times that of the prompt's other words.
    """
    names = [f"{name}_against" for name in MEASURES]
    logs = table.assign(**{name: np.log(table[name].clip(lower=SMALLEST)) for name in names})
    means = logs.groupby(["prompt", "word"], sort=False)[names].mean()
    frame = np.exp(means).reset_index()
    missing = [
        (str(record.attrs["prompt"]), str(word), float(lost))
        for record in records
        for word, lost in zip(record["word"].values, record["missing"].values, strict=True)
    ]
    known = pd.DataFrame(missing, columns=["prompt", "word", "missing"])
    frame["neglected"] = frame["contribution_against"] < threshold
    return frame.merge(known, on=["prompt", "word"], how="left")


def summary(words: pd.DataFrame, threshold: float) -> list[str]:
    """Which words are neglected, and whether the two measures tell which words the image lacks."""
    lost = words[words["neglected"]]
    shown = ", ".join(f"{row['word']!r} in {row['prompt']!r}" for _, row in lost.head(5).iterrows())
    lines = [
        f"{len(lost)} of {counted(len(words), 'word')} add less than {threshold:g} times what the prompt's other words add"
        f"{f': {shown}' if len(lost) else ''}{', ...' if len(lost) > 5 else ''} (geometric means over layers and timesteps)."
    ]
    known = words[words["missing"].notna()]
    if known.empty:
        return [
            *lines,
            "Whether they are missing in the image is not known: the scene reader knows the embedded models' scenes alone.",
        ]
    missing = known["missing"].to_numpy() > 0
    lines.append(f"The scene reader misses {missing.sum()} of {counted(len(known), 'word')} in the images.")
    for name in MEASURES:
        area = area_under_curve(-known[f"{name}_against"].to_numpy(), missing, known["prompt"].to_numpy())
        what = "contribution" if name == "contribution" else "share of the image's attention"
        if np.isnan(area.mean):
            lines.append(f"Whether a small {what} tells missing words can't be said: all words are of one kind.")
        else:
            lines.append(
                f"A small {what} against the other words tells missing words with an area under the curve of "
                f"{area.mean:.2f} {in_words(area, Form(2), 'prompt')}; 0.5 is chance."
            )
    return lines
