"""mmdit-probe pca."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import ImageConfig, ModelConfig, PCAConfig
from mmdit_probe.utils.text import checked_text

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


def pca(
    config: PCAConfig,
    image: ImageConfig,
    model: ModelConfig,
    output: OutputConfig = OutputConfig(out=RESULTS / "pca"),
) -> None:
    """What each layer's features vary with: principal components, and R^2 from position and from the class.

    Reads query, key and value of the tokens of a generated image (--prompt), of a given one (--image) or of built-in
    scenes (--scenes), whose classes are known. With several scenes the table is their mean, the page the first.

    Writes pca_tN.pdf / .png for each timestep (Seg4Diff, Fig. 3), pca_r2.pdf / .png, pca.csv, pca.nc and image.png;
    for text tokens pca_text_tN.pdf / .png: tokens along x, layers as rows, three components as colors.
    """
    _check(config, image)
    check_image(image)

    from mmdit_probe.storage.files import write_text
    from mmdit_probe.storage.images import save_image
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.studies.feature_pca import measure_pca, pca_table, summary

    from .pages import pca_pages

    check_layers(config.layers, model)
    run = planned_run(output.out, "pca", label(model), config, longest=image.longest, **content(image.image))
    pipe = load(model)
    prompts = [] if config.prompt is None else [config.prompt]
    check_prompts_fit(pipe, prompts, config.generation.max_sequence_length)
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    begin(run)
    given = bool(config.scenes) or image.image is not None
    with steps_shown(pipe, config, given, max(1, len(config.scenes))):
        recording = measure_pca(pipe, config, input_image(image, pipe))
    record = recording.record.assign_attrs(model=label(model))
    own, said = drawn_image(image, recording.image, pipe)
    table = pca_table(record)
    about = f"n = {len(config.scenes)} scenes" if config.scenes else ""
    files = [
        *pca_pages(record, own, output.out, figure_line(model, prompts, about)),
        write_text(output.out / "pca.csv", table.to_csv(index=False)),
        save_record(record, output.out / "pca.nc"),
        save_image(recording.image, output.out / "image.png"),
    ]
    finish(output, [*said, *summary(table)], files, table=table)


def _check(config: PCAConfig, image: ImageConfig) -> None:
    """`ValueError` if it is not clear which image is read."""
    if config.prompt:
        checked_text("prompt", config.prompt)
    if config.scenes and image.image is not None:
        raise ValueError("give --image or --scenes, not both")
    if config.prompt is None and not config.scenes:
        raise ValueError("give --prompt, or --scenes NUMBERS to read built-in scenes")
