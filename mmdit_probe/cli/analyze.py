"""mmdit-probe analyze."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mmdit_probe.configs import AnalyzeConfig, ImageConfig, ModelConfig
from mmdit_probe.utils.text import checked_text, checked_words

from .layers import check_layers, resolve_layers
from .options import RESULTS, OutputConfig
from .session import (
    begin,
    check_image,
    check_prompts_fit,
    content,
    drawn_image,
    figure_line,
    finish,
    input_image,
    label,
    load,
    planned_run,
)
from .steps_bar import steps_shown


def analyze(
    config: AnalyzeConfig,
    image: ImageConfig,
    model: ModelConfig,
    output: OutputConfig = OutputConfig(out=RESULTS / "analyze"),
) -> None:
    """All of it in one pass: attention budget, value norms, heads, principal components and word maps of one image.

    Writes a figure and a table for each study, image.png, and one record, analyze.nc, that mmdit-probe diff compares.
    """
    words = checked_words(config.words) if config.words else ()
    config = replace(config, prompt=checked_text("prompt", config.prompt), words=words)
    check_image(image)

    from mmdit_probe.pipelines.defaults import model_defaults
    from mmdit_probe.studies.overview import measure_everything, summary, tables
    from mmdit_probe.studies.word_maps import occurrence_lines

    check_layers(config.layers, model)
    run = planned_run(output.out, "analyze", label(model), config, longest=image.longest, **content(image.image))
    pipe = load(model)
    check_prompts_fit(pipe, [config.prompt], config.generation.max_sequence_length)
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    begin(run)
    with steps_shown(pipe, config, is_given=image.image is not None):
        recording = measure_everything(pipe, config, input_image(image, pipe))
    record = recording.record.assign_attrs(model=label(model))
    found = tables(record)
    own, said = drawn_image(image, recording.image, pipe)
    files = _write(record, (own, recording.image), found, output.out, figure_line(model, [config.prompt]))
    mapped = [str(word) for word in record["word"].values] if "word" in record.coords else []
    again = occurrence_lines(pipe, config.prompt, mapped, config.generation)
    finish(output, [*said, *again, *summary(found, model_defaults(pipe))], files, tables=found)


def _write(record: Any, images: tuple[Any, Any], found: dict[str, Any], out: Path, line: str) -> list[Path]:
    """Figures over the first of the images, and the second as image.png: what the model read."""
    from mmdit_probe.figures.budget import budget_figure
    from mmdit_probe.figures.heads import heads_figure
    from mmdit_probe.figures.norms import norms_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.storage.images import save_image
    from mmdit_probe.storage.records import save_record

    from .pages import map_pages, pca_pages, steps_of

    steps, (image, read) = steps_of(record), images
    return [
        *save_figure(
            budget_figure(found["attention_budget"], steps), out / "attention_budget", f"{line}; averages over heads"
        ),
        *save_figure(norms_figure(found["value_norms"], steps), out / "value_norms", f"{line}; averages over heads"),
        *save_figure(heads_figure(found["heads"], steps), out / "heads", line),
        *pca_pages(record, image, out, line),
        *(map_pages(record, image, out, line) if "word_map" in record else []),
        *(write_text(out / f"{name}.csv", table.to_csv(index=False)) for name, table in found.items()),
        save_record(record, out / "analyze.nc"),
        save_image(read, out / "image.png"),
    ]
