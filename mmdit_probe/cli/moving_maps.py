"""Maps over timesteps and over a video's frames, as animations and strips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmdit_probe.configs import ImageConfig

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from mmdit_probe.configs.reading import Read
    from mmdit_probe.families import Pipeline
    from mmdit_probe.studies.recording import Recording


@dataclass(frozen=True, eq=False)
class _Moving:
    """What moves: maps (word, n, row, col), the images under them (n or 1), and what stands under and over each."""

    maps: xr.DataArray
    images: np.ndarray
    labels: list[str]
    titles: list[str]
    layer: str
    direction: Read


def check_video(pipe: Pipeline, animate: Sequence[str], image: ImageConfig | None = None) -> None:
    """`ValueError`, before anything is generated, if the frames of a video are asked for where there is none."""
    from mmdit_probe.families import makes_video

    given = image is not None and image.image is not None
    if "frames" not in animate or (makes_video(pipe) and not given):
        return
    what = "a given image has" if given else "this model makes images, which have"
    raise ValueError(f"--animate frames is over the frames of a video; {what} none: take gif or strip")


def moving_maps(recording: Recording, animate: Sequence[str], folder: Path, prefix: str, line: str) -> list[Path]:
    """The animations that were asked for; each word's is ``prefix`` and its name, a strip holds all words."""
    over = [kind for kind in animate if kind != "frames"]
    files = _written(_by_timestep(recording), over, folder, prefix, line) if over else []
    if "frames" in animate:
        for timestep in recording.record["timestep"].values.tolist():
            stem = f"{prefix}frames-t{timestep}-"
            files += _written(_by_frame(recording, timestep), ("gif", "strip"), folder, stem, line)
    return files


def _by_timestep(recording: Recording) -> _Moving:
    """From the noise to the image, as it was sampled; of a video the mean over its frames."""
    from mmdit_probe.figures.style import time_label
    from mmdit_probe.studies.word_maps import head_mean, still

    record = recording.record.sortby("timestep", ascending=False)
    maps = still(head_mean(record)).isel(layer=0).transpose("word", "timestep", "row", "col")
    timesteps = maps["timestep"].values.tolist()
    labels = [time_label(t, s, record.attrs["steps"]) for t, s in zip(timesteps, maps["sigma"].values, strict=True)]
    return _Moving(
        maps, recording.image[None], labels, [f"t = {t}" for t in timesteps], _layer(maps), record.attrs["direction"]
    )


def _by_frame(recording: Recording, timestep: int) -> _Moving:
    """From the video's first frame to its last, at one timestep; a map of several frames stands over the middle of them."""
    from mmdit_probe.studies.word_maps import head_mean

    maps = head_mean(recording.record).isel(layer=0).sel(timestep=timestep).transpose("word", "frame", "row", "col")
    direction = recording.record.attrs["direction"]
    last, count = len(recording.frames) - 1, maps.sizes["frame"]
    places = [round(number * last / max(1, count - 1)) for number in range(count)]
    titles = [f"frame {place + 1}" for place in places]
    labels = [f"{title} of {last + 1}" for title in titles]
    return _Moving(maps, recording.frames[places], labels, titles, f"{_layer(maps)}, t = {timestep}", direction)


def _layer(maps: xr.DataArray) -> str:
    """The one layer of the maps, in words."""
    named = maps["layer"].item()
    return named if isinstance(named, str) else f"layer {named}"


def _written(moving: _Moving, kinds: Sequence[str], folder: Path, prefix: str, line: str) -> list[Path]:
    """A GIF for each word, and one strip."""
    from mmdit_probe.figures.animation import gif, strip
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.files import atomic_write
    from mmdit_probe.studies.word_maps import file_names

    maps, direction = moving.maps, moving.direction
    words, files = [str(word) for word in maps["word"].values], []
    for word, name in zip(maps.values, file_names(words), strict=True) if "gif" in kinds else ():
        path = folder / f"{prefix}{name}.gif"
        with atomic_write(path) as part:
            part.write_bytes(gif(moving.images, word, moving.labels, direction))
        files.append(path)
    if "strip" in kinds:
        page = strip(moving.images, maps.values, words, moving.titles, moving.layer, direction)
        files += save_figure(page, folder / f"{prefix}strip", line)
    return files
