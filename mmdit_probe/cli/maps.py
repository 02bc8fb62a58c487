"""mmdit-probe maps."""

from __future__ import annotations

from dataclasses import replace

from mmdit_probe.configs import ImageConfig, MapsConfig, ModelConfig, PromptConfig, SeveralConfig
from mmdit_probe.utils.text import checked_words

from .layers import check_layers, resolve_layers
from .options import RESULTS, RunConfig, naming_options
from .session import (
    begin,
    check_image,
    check_prompts_fit,
    chosen_prompts,
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


def maps(
    prompts: PromptConfig,
    config: MapsConfig,
    several: SeveralConfig,
    image: ImageConfig,
    model: ModelConfig,
    output: RunConfig = RunConfig(out=RESULTS / "maps"),
) -> None:
    """Where words are: heat maps over the generated image, or over a given one, by layer and timestep.

    A given image is mixed with the noise of each timestep and passed through the transformer once.
    Words are found by their tokens; a word that is not in the prompt is an error that shows the tokens. Of a word that stands
    in the prompt twice all occurrences are read; circle#2 is the second alone. With --read concept words need not stand in the
    prompt.

    Writes map_WORD.pdf / .png (one page a word: rows are timesteps, columns are layers, one color scale a page),
    with --heads all also map_WORD_heads_tN, and maps.csv, maps.nc and image.png; with --animate map_WORD.gif and map_strip.

    Of several prompts (--prompts, or --prompt repeatedly) or several --seeds it writes the images, each word's overlay, contact
    sheets, maps.csv, and the maps of each image (items); a run that was interrupted continues.
    """
    if config.words:
        config = replace(config, words=checked_words(config.words))
    with naming_options(SeveralConfig):
        config = several.of_one_layer(config)
    check_image(image)
    chosen = chosen_prompts(prompts, model)
    check_layers(config.layers, model)
    if several.seeds or prompts.prompts is not None or len(chosen) > 1:
        from .many_maps import many_maps

        if image.image is not None:
            raise ValueError("--image is one image, read with one --prompt; leave --prompts and --seeds out")
        many_maps(config, chosen, several, model, output)
    else:
        _one(replace(config, prompt=chosen[0]), several, image, model, output)


def _one(config: MapsConfig, several: SeveralConfig, image: ImageConfig, model: ModelConfig, output: RunConfig) -> None:
    """One image: its pages."""
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.storage.images import save_image
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.studies.word_maps import maps_table, measure_maps, occurrence_lines, summary, words_of_prompts

    from .moving_maps import check_video, moving_maps
    from .pages import map_pages

    run = planned_run(output.out, "maps", label(model), config, longest=image.longest, **content(image.image))
    pipe = load(model)
    check_prompts_fit(pipe, [config.prompt], config.generation.max_sequence_length)
    check_video(pipe, several.animate, image)
    [words] = words_of_prompts(pipe, [config.prompt], config)
    config = replace(config, words=words, layers=resolve_layers(pipe, config.layers))
    begin(run)
    with steps_shown(pipe, config, is_given=image.image is not None):
        recording = measure_maps(pipe, config, input_image(image, pipe))
    recording = replace(recording, record=recording.record.assign_attrs(model=label(model)))
    own, said = drawn_image(image, recording.image, pipe)
    table, line = maps_table(recording.record), figure_line(model, [config.prompt])
    files = [
        *map_pages(recording.record, own, output.out, line),
        *moving_maps(replace(recording, image=own), several.animate, output.out, "map_", line),
        write_text(output.out / "maps.csv", table.to_csv(index=False)),
        save_record(recording.record, output.out / "maps.nc"),
        save_image(recording.image, output.out / "image.png"),
    ]
    again: list[str] = []
    if config.direction != "concept":
        again = occurrence_lines(pipe, config.prompt, config.words, config.generation)
    finish(output, [*said, *again, *summary(table, config.direction)], files, table=table)
