"""mmdit-probe correspondence."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mmdit_probe.configs import CorrespondenceConfig, ModelConfig, PromptConfig

from .layers import check_layers, resolve_layers
from .options import RESULTS, RunConfig, naming_options
from .session import (
    Bar,
    begin,
    check_prompts_fit,
    chosen_prompts,
    content,
    figure_line,
    finish,
    label,
    load,
    name_unknown_words,
    planned_run,
)
from .split import SplitRunConfig
from .steps_bar import steps_shown

SHOWN = 3
"""Places down and across that are drawn on two given images."""


def correspondence(
    prompts: PromptConfig,
    config: CorrespondenceConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "correspondence"),
) -> None:
    """Which place of one image or frame is which of another, by queries and keys or by features, in every layer and timestep.

    Without --first and --prompt it takes pairs of held-out synthetic scenes, in the second of which one thing has moved by a known
    distance, and counts how often its tokens are found where they went. --first and --second are two images of yours. With a video
    model and --prompt, the tokens of one frame are looked for in every frame, within the video's own attention.

    Writes correspondence.pdf / .png and correspondence.csv (a row for each timestep and layer, and of videos for each frame; 95%
    intervals over pairs or prompts); of images and videos also correspondence.nc with every token's match.
    """
    given = bool(prompts.prompt) or prompts.prompts is not None
    chosen = chosen_prompts(prompts, model) if given else ()
    check_layers(config.layers, model)
    if config.first is not None and config.second is not None:
        _images(config, config.first, config.second, chosen, model, output)
    elif given:
        _frames(replace(config, prompts=chosen), model, output)
    else:
        _moved(config, model, output)


def _moved(config: CorrespondenceConfig, model: ModelConfig, output: RunConfig) -> None:
    from mmdit_probe.datasets.scenes import CLASSES
    from mmdit_probe.figures.correspondence import moved_figure
    from mmdit_probe.metrics.verdicts import counted
    from mmdit_probe.studies.correspondence import run_moved
    from mmdit_probe.studies.correspondence_tables import moved_summary, moved_table

    pipe, config = _loaded(config, model)
    name_unknown_words(pipe, CLASSES)
    with Bar("pairs") as bar:
        record = run_moved(pipe, config, output.out, label(model), bar.update)
    table = moved_table(record)
    lines = moved_summary(record, table, config.match, config.within)
    right = f"right: within {counted(config.within, 'token')}"
    line = figure_line(model, (), f"{config.match}; n = {config.pairs} pairs of scenes", right)
    _finish(moved_figure(table, config.generation.steps), table, lines, line, output)


def _images(
    config: CorrespondenceConfig,
    first: Path,
    second: Path,
    prompts: tuple[str, ...],
    model: ModelConfig,
    output: RunConfig,
) -> None:
    if len(prompts) > 1:
        raise ValueError(f"--prompt: two images are read with one prompt or none, got {len(prompts)}")
    from mmdit_probe.figures.correspondence import images_figure
    from mmdit_probe.storage.images import read_rgb
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.studies.correspondence import match_images, matched_places
    from mmdit_probe.studies.correspondence_tables import images_summary, images_table

    images = [read_rgb(file) for file in (first, second)]
    run = planned_run(output.out, "correspondence", label(model), config, prompts=prompts, **content(first, second))
    pipe, config = _loaded(config, model)
    check_prompts_fit(pipe, prompts, config.generation.max_sequence_length)
    begin(run)
    with steps_shown(pipe, config, is_given=True):
        record = match_images(pipe, images[0], images[1], prompts[0] if prompts else "", config)
    table = images_table(record, config.within)
    most = table.loc[table["returned"].idxmax()]
    timestep, layer = int(most["timestep"]), int(most["layer"])
    grid = (record.sizes["row"], record.sizes["col"])
    down, across = (sorted({(2 * place + 1) * size // (2 * SHOWN) for place in range(SHOWN)}) for size in grid)
    tokens = [(row, col) for row in down for col in across]
    places = matched_places(record, timestep, layer, tokens)
    figure = images_figure(images[0], images[1], tokens, places, grid)
    where = f"{config.match}, layer {layer}, t = {timestep}: the most matches that are matched back"
    line = figure_line(model, prompts, where)
    saved = save_record(record, output.out / "correspondence.nc")
    _finish(figure, table, images_summary(table), line, output, saved)


def _frames(config: CorrespondenceConfig, model: ModelConfig, output: RunConfig) -> None:
    from mmdit_probe.figures.correspondence import frames_figure
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.studies.correspondence import run_frames
    from mmdit_probe.studies.correspondence_tables import frames_summary, frames_table

    pipe, config = _loaded(config, model)
    check_prompts_fit(pipe, config.prompts, config.generation.max_sequence_length)
    with naming_options(CorrespondenceConfig), Bar("prompts") as bar:
        record = run_frames(pipe, config, output.out, label(model), bar.update)
    table = frames_table(record)
    line = figure_line(model, config.prompts, f"{config.match}, from frame {config.frame}")
    saved = save_record(record, output.out / "correspondence.nc")
    figure = frames_figure(table, config.generation.steps)
    _finish(figure, table, frames_summary(table, config.frame), line, output, saved)


def _loaded(config: CorrespondenceConfig, model: ModelConfig) -> tuple[Any, CorrespondenceConfig]:
    pipe = load(model)
    return pipe, replace(config, layers=resolve_layers(pipe, config.layers))


def _finish(figure: Any, table: Any, lines: list[str], line: str, output: RunConfig, *saved: Path) -> None:
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.files import write_text

    files = [
        *save_figure(figure, output.out / "correspondence", line),
        write_text(output.out / "correspondence.csv", table.to_csv(index=False)),
        *saved,
    ]
    finish(output, lines, files, table=table)
