"""Maps of words over the images of many prompts and seeds; an image that is done is not made again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from ..configs import MapsConfig
from ..families import Pipeline
from ..storage.images import read_rgb, save_image
from ..storage.runs import RunFolder
from ..utils.progress import Progress
from .recording import Recording
from .word_maps import file_names, head_mean, is_share, maps_table, measure_maps, still, words_of_prompts

IMAGES = "images"
"""The folder of the generated images."""
_SLUG = 40


@dataclass(frozen=True, eq=False)
class Mapped:
    """One image of a run: the name that its files begin with, its prompt and seed, and what was read."""

    name: str
    prompt: str
    seed: int
    recording: Recording


def maps_run(out: Path, model: str, config: MapsConfig, prompts: Sequence[str], seeds: Sequence[int]) -> RunFolder:
    """The folder of a run over all prompts and seeds; ``model`` is what the numbers depend on, see `model_label`."""
    return RunFolder.for_study(out, "maps", model, config, prompt=list(prompts), seeds=list(seeds))


def measure_many(
    pipe: Pipeline,
    run: RunFolder,
    config: MapsConfig,
    prompts: Sequence[str],
    seeds: Sequence[int],
    progress: Progress | None = None,
) -> Iterator[Mapped]:
    """Generate and read an image of each prompt and seed, one after the other, in that order.

    Each image is saved in ``run``'s folder ``images``, its record among the run's items; what is there already is read. The
    prompt and the seed of ``config`` do not count; its words are read in the prompts in which they stand.

    Raises:
        ValueError: a word stands in no prompt, a prompt has no word that can be mapped, or the folder holds another run.
    """
    words = words_of_prompts(pipe, prompts, config)
    with run.open():
        pairs = [(number, seed) for number in range(len(prompts)) for seed in seeds]
        for done, (number, seed) in enumerate(pairs):
            prompt, name = prompts[number], image_name(number, prompts[number], seed)
            own = replace(config, prompt=prompt, words=words[number], generation=replace(config.generation, seed=seed))
            recording = _finished(run, name) or _measured(pipe, run, name, own)
            yield Mapped(name, prompt, seed, recording)
            if progress is not None:
                progress(done + 1, len(pairs))


def image_name(number: int, prompt: str, seed: int) -> str:
    """What an image's files begin with.

    >>> image_name(3, "A red circle, on grass", 0)
    '003-a-red-circle-on-grass-seed0'
    """
    return f"{number:03d}-{file_names([prompt])[0][:_SLUG].rstrip('-')}-seed{seed}"


def _measured(pipe: Pipeline, run: RunFolder, name: str, config: MapsConfig) -> Recording:
    """A new recording, its image and frames saved before its record, which says that it is whole."""
    recording = measure_maps(pipe, config)
    recording = replace(recording, record=recording.record.assign_attrs(model=str(run.settings["model"])))
    save_image(recording.image, run.folder / IMAGES / f"{name}.png")
    for number, frame in enumerate(recording.frames):
        save_image(frame, _frame_file(run.folder, name, number))
    run.write(name, recording.record.assign_attrs(video_frames=len(recording.frames)))
    return recording


def _finished(run: RunFolder, name: str) -> Recording | None:
    """What an earlier call left, if all of it is there."""
    record = run.item(name)
    if record is None:
        return None
    frames = int(record.attrs.get("video_frames", 0))
    try:
        image = read_rgb(run.folder / IMAGES / f"{name}.png")
        video = [read_rgb(_frame_file(run.folder, name, number)) for number in range(frames)]
    except ValueError:  # an image was deleted, or is damaged
        return None
    return Recording(record, image, np.stack(video)) if video else Recording(record, image)


def _frame_file(folder: Path, name: str, number: int) -> Path:
    return folder / IMAGES / name / f"{number:03d}.png"


def image_table(mapped: Mapped) -> pd.DataFrame:
    """`maps_table` of one image, which its ``image``, ``prompt`` and ``seed`` precede."""
    table = maps_table(mapped.recording.record)
    for place, column in enumerate(("image", "prompt", "seed")):
        table.insert(place, column, mapped.name if column == "image" else getattr(mapped, column))
    return table


def map_shown(record: xr.Dataset, expert: int | None) -> tuple[xr.DataArray, str]:
    """One map of each word, (word, row, col), and in words which: that of the expert layer if it was read.

    Else the mean over the layers that were; over several timesteps, the mean.
    """
    maps = still(head_mean(record))
    layers, timesteps = maps["layer"].values.tolist(), maps["timestep"].values.tolist()
    if expert in layers:
        layers, maps = [expert], maps.sel(layer=[expert])
    named = layers[0] if isinstance(layers[0], str) else f"layer {layers[0]}"
    how = named if len(layers) == 1 else f"mean of {len(layers)} layers"
    when = f"t = {timesteps[0]}" if len(timesteps) == 1 else f"mean of {len(timesteps)} timesteps"
    return maps.mean(["layer", "timestep"]).transpose("word", "row", "col"), f"{how}, {when}"


def many_summary(peaks: Sequence[tuple[str, float]], config: MapsConfig, how: str) -> list[str]:
    """A line for each word: how many images it was read in, and from where to where its peaks go."""
    found: dict[str, list[float]] = {}
    for word, peak in peaks:
        found.setdefault(word, []).append(peak)
    form = ".2%" if is_share(config.direction) else ".3g"
    return [
        f"{word!r} in {len(own)} image{'s' * (len(own) > 1)}: peaks from {min(own):{form}} to {max(own):{form}} ({how})"
        for word, own in found.items()
    ]
