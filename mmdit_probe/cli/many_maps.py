"""Maps of several prompts and seeds: images, overlays, contact sheets, one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mmdit_probe.configs import MapsConfig, ModelConfig, SeveralConfig

from .layers import resolve_layers
from .options import RunConfig
from .session import Bar, check_prompts_fit, figure_line, finish, label, load

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from mmdit_probe.figures.contact import MapRow
    from mmdit_probe.studies.many_maps import Mapped

_ROWS = 10
"""Images on a sheet."""
_THUMBNAIL = 240
"""Their longer side there, in px."""
OVERLAYS, ANIMATIONS = "overlays", "animations"


def many_maps(
    config: MapsConfig, prompts: Sequence[str], several: SeveralConfig, model: ModelConfig, output: RunConfig
) -> None:
    """An image of each prompt and seed, and its words' maps."""
    import pandas as pd

    from mmdit_probe.pipelines.defaults import model_defaults
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.many_maps import image_table, many_summary, map_shown, maps_run, measure_many

    from .moving_maps import check_video, moving_maps

    seeds = several.seeds or (config.generation.seed,)
    run = maps_run(output.out, label(model), config, prompts, seeds)
    run.check()
    pipe = load(model)
    check_prompts_fit(pipe, prompts, config.generation.max_sequence_length)
    check_video(pipe, several.animate)
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    expert, images = model_defaults(pipe).expert_layer, len(prompts) * len(seeds)
    tables, peaks, files, waiting = [], [], [], []
    with Bar("images") as bar:
        for done, mapped in enumerate(measure_many(pipe, run, config, prompts, seeds, bar.update), 1):
            shown, how = map_shown(mapped.recording.record, expert)
            row, overlays = _overlays(mapped, shown, output.out / OVERLAYS)
            line = figure_line(model, [mapped.prompt], f"seed {mapped.seed}")
            files += overlays
            files += moving_maps(mapped.recording, several.animate, output.out / ANIMATIONS, f"{mapped.name}-", line)
            tables.append(image_table(mapped))
            peaks += [(str(one["word"].item()), float(one.max())) for one in shown]
            waiting.append(row)
            if len(waiting) == _ROWS or done == images:
                stem = "sheet" if images <= _ROWS else f"sheet-{-(-done // _ROWS)}"
                files += _sheet(waiting, output.out / stem, figure_line(model, prompts, how))
                waiting = []
    table = pd.concat(tables, ignore_index=True)
    files.append(write_text(output.out / "maps.csv", table.to_csv(index=False)))
    folders = sorted({f"{file.parent}/" for file in files if file.parent != output.out} | {f"{run.folder / 'images'}/"})
    single = [file for file in files if file.parent == output.out]
    finish(output, many_summary(peaks, config, how), [*single, *map(Path, folders)], table=table)


def _overlays(mapped: Mapped, maps: xr.DataArray, folder: Path) -> tuple[MapRow, list[Path]]:
    """The image's row of the sheet, and the files of its words' overlays, at the image's own size."""
    import numpy as np

    from mmdit_probe.figures.contact import MapRow
    from mmdit_probe.figures.maps import scale_of
    from mmdit_probe.figures.overlay import overlay
    from mmdit_probe.storage.images import save_image
    from mmdit_probe.studies.word_maps import file_names, is_share

    direction = mapped.recording.record.attrs["direction"]
    words = [str(word) for word in maps["word"].values]
    pictures, files = {}, []
    for word, name, grid in zip(words, file_names(words), maps.values, strict=True):
        low, top = scale_of(grid, direction)
        picture = np.asarray(overlay(mapped.recording.image, grid - low, top=top - low))
        files.append(save_image(picture, folder / f"{mapped.name}-{name}.png"))
        peak = f"{top:.1%}" if is_share(direction) else f"{top:.2g}"
        pictures[f"{word} {peak}"] = _small(picture)
    said = f"{mapped.prompt} (seed {mapped.seed})"
    return MapRow(said, _small(mapped.recording.image), pictures), files


def _small(image: np.ndarray) -> np.ndarray:
    """The image, large ones made smaller."""
    from mmdit_probe.storage.images import fitted

    return image if max(image.shape[:2]) <= _THUMBNAIL else fitted(image, 1, _THUMBNAIL)


def _sheet(rows: list[MapRow], stem: Path, line: str) -> list[Path]:
    from mmdit_probe.figures.contact import maps_sheet
    from mmdit_probe.figures.style import save_figure

    return save_figure(
        maps_sheet(rows), stem, f"{line}; each map on a color scale of its own, up to the peak written above it"
    )
