"""Heat maps of words over a generated or a given image (Seg4Diff, Fig. 9, 16, 25-27)."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import GenerationConfig, MapsConfig
from ..configs.reading import Read
from ..families import Pipeline, text_parts_of
from ..pipelines.generation import generation_arguments
from ..pipelines.layers import chosen_layers
from ..pipelines.prompts import find_words, repeated_words
from ..utils.text import is_content_word, storable
from .recording import Recording, record_generated, record_image
from .word_readings import as_word_maps, check_reading, is_share, word_readout


def word_positions(pipe: Pipeline, prompt: str, words: Sequence[str], generation: GenerationConfig) -> list[list[int]]:
    """The text positions of each word's tokens, all occurrences (``word#2``: the second), in every text encoder loaded.

    `ValueError` shows the prompt's tokens if a word is not among them or was cut off.
    """
    length = generation_arguments(pipe, generation).get("max_sequence_length", 0)
    return find_words(text_parts_of(pipe, length), prompt, words)


def occurrence_lines(pipe: Pipeline, prompt: str, words: Sequence[str], generation: GenerationConfig) -> list[str]:
    """A line for each word that stands in the prompt more than once: which of its occurrences are read."""
    length = generation_arguments(pipe, generation).get("max_sequence_length", 0)
    found = repeated_words(text_parts_of(pipe, length), prompt, words)
    return [
        f"{word!r} stands in the prompt {count} times: its map is the mean over all of them; "
        f"{word}#1{' to' if count > 2 else ' and'} {word}#{count} read one each."
        for word, count in found.items()
    ]


def content_words(pipe: Pipeline, prompt: str, generation: GenerationConfig) -> dict[str, list[int]]:
    """Every content word of the prompt that is read, and its text positions; words cut off by a tokenizer are left out."""
    positions: dict[str, list[int]] = {}
    for word in dict.fromkeys(part.strip(".,;:!?\"'()") for part in prompt.split()):
        if is_content_word(word) and (found := _found(pipe, prompt, word, generation)):
            positions[word] = found
    return positions


def _found(pipe: Pipeline, prompt: str, word: str, generation: GenerationConfig) -> list[int]:
    """A word's text positions; none if it does not stand in the prompt, or was cut off."""
    try:
        return word_positions(pipe, prompt, [word], generation)[0]
    except ValueError:
        return []


def words_of_prompts(pipe: Pipeline, prompts: Sequence[str], config: MapsConfig) -> list[tuple[str, ...]]:
    """The words to map in each prompt: those of the config that stand in it, or every content word if it names none.

    Concepts need not stand in a prompt and are all read. `ValueError` if a word stands in no prompt, or a prompt has none.
    """
    if not config.words:
        found = [tuple(content_words(pipe, prompt, config.generation)) for prompt in prompts]
    elif config.direction == "concept":
        found = [config.words for _ in prompts]
    elif len(prompts) == 1:
        word_positions(pipe, prompts[0], config.words, config.generation)
        found = [config.words]
    else:
        found = [tuple(w for w in config.words if _found(pipe, prompt, w, config.generation)) for prompt in prompts]
    missing = [word for word in config.words if not any(word in own for own in found)]
    if missing:
        raise ValueError(f"words: {missing[0]!r} is not among the tokens of any of the {len(prompts)} prompts")
    for prompt, own in zip(prompts, found, strict=True):
        if not own:
            which = "no content word" if not config.words else "none of the words"
            raise ValueError(
                f"words: the prompt {prompt!r} has {which} that can be mapped; leave it out, or name others"
            )
    return found


def measure_maps(pipe: Pipeline, config: MapsConfig, image: np.ndarray | None = None) -> Recording:
    """One image: ``word_map`` (timestep, layer, [head,] word, row, col), for i2t and t2i probabilities in [0, 1].

    ``image`` (height, width, 3) uint8 RGB is read at each timestep's noise level; None generates one.
    """
    check_reading(config)
    concepts = config.direction == "concept"  # need not stand in the prompt
    spans = [] if concepts else word_positions(pipe, config.prompt, config.words, config.generation)
    readouts = [word_readout(config, spans)]
    where = (config.chosen_timesteps, config.generation, chosen_layers(pipe, config.layers))
    if image is None:
        recording = record_generated(pipe, config.prompt, readouts, *where, decode=True)
    else:
        recording = record_image(pipe, image, config.prompt, readouts, *where)
    return replace(recording, record=as_word_maps(recording.record, config, spans))


def head_mean(record: xr.Dataset) -> xr.DataArray:
    """``word_map`` averaged over heads, if they were kept."""
    maps = record["word_map"]
    return maps.mean("head") if "head" in maps.dims else maps


def still(maps: xr.DataArray) -> xr.DataArray:
    """Maps of an image: the frames of a video averaged, axes ordered (..., row, col)."""
    maps = maps.mean("frame") if "frame" in maps.dims else maps
    return maps.transpose(..., "row", "col")


def maps_table(record: xr.Dataset) -> pd.DataFrame:
    """One row per word, timestep and layer, of the mean over heads.

    ``mean`` and ``peak`` are over the grid (probabilities, similarities or lengths, as they were read), ``peak_row`` and
    ``peak_col`` the token with the most, counted from the top left; ``contrast`` is peak / mean: 1 for a word that is looked at
    from everywhere alike, NaN unless the mean is above 0.
    """
    rows = []
    for (word, timestep, layer), grid in _grids(head_mean(record)):
        row, col = np.unravel_index(int(np.nanargmax(grid)), grid.shape) if np.isfinite(grid).any() else (-1, -1)
        mean, peak = float(grid.mean()), float(grid.max())
        contrast = peak / mean if mean > 0 else float("nan")
        sigma = float(record["sigma"].sel(timestep=timestep))
        rows.append([word, timestep, sigma, layer, mean, peak, int(row), int(col), contrast])
    columns = ["word", "timestep", "sigma", "layer", "mean", "peak", "peak_row", "peak_col", "contrast"]
    return pd.DataFrame(rows, columns=columns)


def _grids(maps: xr.DataArray) -> list[tuple[tuple[str, int, int | str], np.ndarray]]:
    """((word, timestep, layer), grid (row, col)) in that order."""
    ordered = still(maps).transpose("word", "timestep", "layer", "row", "col")
    return [
        ((str(word), int(timestep), layer), ordered.values[i, j, k])
        for i, word in enumerate(ordered["word"].values)
        for j, timestep in enumerate(ordered["timestep"].values)
        for k, layer in enumerate(ordered["layer"].values.tolist())
    ]


def summary(table: pd.DataFrame, read: Read = "i2t") -> list[str]:
    """A line per word: the layer whose map reaches the highest value."""
    lines = []
    for word, rows in table.groupby("word", sort=False):
        best = rows.loc[rows["peak"].idxmax()]
        peak = f"{best['peak']:.2%}" if is_share(read) else f"{best['peak']:.3g}"
        layer = best["layer"] if isinstance(best["layer"], str) else f"layer {best['layer']}"
        lines.append(
            f"{word!r} peaks in {layer} at t = {best['timestep']} (sigma {best['sigma']:.3f}): "
            f"{peak} in row {best['peak_row']}, column {best['peak_col']}, "
            f"{best['contrast']:.1f} times its mean; averages over heads, the highest of {len(rows)} maps, no test."
        )
    return lines


def file_names(words: Sequence[str]) -> list[str]:
    """A file name for each word: letters, digits and dashes alone, at most 60, each once."""
    names: list[str] = []
    for word in words:
        plain = unicodedata.normalize("NFKC", word).lower()
        name = storable(re.sub(r"[\W_]+", "-", plain).strip("-"))[:60] or "word"
        taken = sum(other == name or re.fullmatch(re.escape(name) + r"-\d+", other) is not None for other in names)
        names.append(name if name not in names else f"{name}-{taken + 1}")
    return names
