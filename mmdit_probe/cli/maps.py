"""mmdit-probe maps."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import ImageConfig, MapsConfig, ModelConfig
from mmdit_probe.utils.text import checked_text, checked_words

from .layers import check_layers, resolve_layers
from .options import RESULTS, OutputConfig
from .session import (
    begin,
    check_image,
    check_prompts_fit,
    content,
    figure_line,
    finish,
    input_image,
    label,
    load,
    planned_run,
)
from .steps_bar import steps_shown


def maps(
    config: MapsConfig,
    image: ImageConfig,
    model: ModelConfig,
    output: OutputConfig = OutputConfig(out=RESULTS / "maps"),
) -> None:
    """Where words are: heat maps over the generated image, or over a given one, by layer and timestep.

    A given image is mixed with the noise of each timestep and passed through the transformer once.
    Words are found by their tokens; a word that is not in the prompt is an error that shows the tokens. Of a word that stands
    in the prompt twice all occurrences are read; circle#2 is the second alone. With --read concept words need not stand in the
    prompt.

    Writes map_WORD.pdf / .png (one page a word: rows are timesteps, columns are layers, one color scale a page),
    with --heads all also map_WORD_heads_tN, and maps.csv, maps.nc and image.png.
    """
    config = replace(config, prompt=checked_text("prompt", config.prompt), words=checked_words(config.words))
    check_image(image)

    from mmdit_probe.storage.files import write_text
    from mmdit_probe.storage.images import save_image
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.studies.word_maps import maps_table, measure_maps, occurrence_lines, summary

    from .pages import map_pages

    check_layers(config.layers, model)
    run = planned_run(output.out, "maps", label(model), config, longest=image.longest, **content(image.image))
    pipe = load(model)
    check_prompts_fit(pipe, [config.prompt], config.generation.max_sequence_length)
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    begin(run)
    with steps_shown(pipe, config, is_given=image.image is not None):
        recording = measure_maps(pipe, config, input_image(image, pipe))
    record = recording.record.assign_attrs(model=label(model))
    table = maps_table(record)
    files = [
        *map_pages(record, recording.image, output.out, figure_line(model, [config.prompt])),
        write_text(output.out / "maps.csv", table.to_csv(index=False)),
        save_record(record, output.out / "maps.nc"),
        save_image(recording.image, output.out / "image.png"),
    ]
    again = []
    if config.direction != "concept":
        again = occurrence_lines(pipe, config.prompt, config.words, config.generation)
    finish(output, [*again, *summary(table, config.direction)], files, table=table)
