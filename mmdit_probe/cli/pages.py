"""Pages that more than one command writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def steps_of(record: Any) -> int | None:
    """The number of sampling steps that a record's timesteps are counted in, None if it does not say."""
    return int(record.attrs["steps"]) if "steps" in record.attrs else None


def map_pages(record: Any, image: Any, out: Path, line: str) -> list[Path]:
    """A page for each word, and where heads were kept a sheet for each word and timestep."""
    from mmdit_probe.figures.maps import heads_page, word_page
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.studies.word_maps import file_names, head_mean, still

    words, direction = [str(word) for word in record["word"].values], record.attrs["direction"]
    files: list[Path] = []
    for word, name in zip(words, file_names(words), strict=True):
        page = word_page(still(head_mean(record)).sel(word=word), image, word, direction, steps_of(record))
        files += save_figure(page, out / f"map_{name}", line)
        if "head" not in record["word_map"].dims:
            continue
        for timestep in record["timestep"].values:
            chosen = still(record["word_map"]).sel(word=word, timestep=timestep)
            page = heads_page(chosen, word, direction, steps_of(record))
            files += save_figure(page, out / f"map_{name}_heads_t{timestep}", line)
    return files


def pca_pages(record: Any, image: Any, out: Path, line: str) -> list[Path]:
    """A page of components for each timestep and stream, and the lines of R^2 of the image's."""
    from mmdit_probe.figures.pca import pca_page, r2_figure, text_page
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.studies.feature_pca import colors, pca_table, text_colors

    files: list[Path] = []
    if "pca" in record:
        shown = colors(record)
        for timestep in record["timestep"].values:
            page = pca_page(shown.sel(timestep=timestep), image, steps_of(record))
            files += save_figure(page, out / f"pca_t{timestep}", line)
        files += save_figure(r2_figure(pca_table(record), steps_of(record)), out / "pca_r2", line)
    if "text_pca" in record:
        shown = text_colors(record)
        for timestep in record["timestep"].values:
            page = text_page(shown.sel(timestep=timestep), steps_of(record))
            files += save_figure(page, out / f"pca_text_t{timestep}", line)
    return files
