"""mmdit-probe maps."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from mmdit_probe.configs import GenerationConfig, MapsConfig
from mmdit_probe.utils.text import checked_text

from . import options as common

TIMESTEPS = ",".join(map(str, MapsConfig.timesteps))


def maps(
    prompt: Annotated[str, typer.Option(help="The prompt.")],
    words: Annotated[str, typer.Option(help="Words or phrases of the prompt, separated by commas.")],
    model: common.Model = "tiny-sd3",
    image: common.ImageLike = None,
    longest: common.Longest = None,
    layers: common.Layers = "all",
    timesteps: common.Timesteps = TIMESTEPS,
    direction: Annotated[
        Literal["i2t", "t2i"], typer.Option(help="i2t: image queries on the word; t2i: the word on the image.")
    ] = "i2t",
    heads: Annotated[Literal["mean", "all"], typer.Option(help="all: also a sheet of every head.")] = "mean",
    steps: common.Steps = GenerationConfig.steps,
    guidance_scale: common.GuidanceScale = None,
    max_sequence_length: common.MaxSequenceLength = None,
    height: common.Height = None,
    width: common.Width = None,
    seed: common.Seed = GenerationConfig.seed,
    dtype: common.Dtype = "fp32",
    device: common.Device = "cpu",
    revision: common.Revision = None,
    offload: common.Offload = "none",
    quantize: common.Quantize = "none",
    lora: common.Lora = None,
    out: common.Out = common.RESULTS / "maps",
    as_json: common.AsJson = False,
) -> None:
    """Where words are: heat maps over the generated image, or over a given one, by layer and timestep.

    A given image is mixed with the noise of each timestep and passed through the transformer once.
    Words are found by their tokens; a word that is not in the prompt is an error that shows the tokens.

    Writes map_WORD.pdf / .png (one page a word: rows are timesteps, columns are layers, one color scale a page),
    with --heads all also map_WORD_heads_tN, and maps.csv, maps.nc and image.png.
    """
    from mmdit_probe.storage.images import save_image
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.studies.word_maps import chosen_words, maps_table, measure_maps, summary

    from .pages import map_pages

    config = MapsConfig(
        checked_text("prompt", prompt),
        chosen_words(words),
        common.layer_numbers(layers),
        common.numbers("--timesteps", timesteps),
        direction,
        heads,
        GenerationConfig(steps, guidance_scale, max_sequence_length, height, width, seed),
    )
    common.lock_output(out)
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    common.check_prompts_fit(pipe, [prompt], max_sequence_length)
    recording = measure_maps(pipe, config, common.input_image(image, longest, pipe))
    record = recording.record.assign_attrs(model=source.label)
    table = maps_table(record)
    files = [
        *map_pages(record, recording.image, out),
        write_text(out / "maps.csv", table.to_csv(index=False)),
        save_record(record, out / "maps.nc"),
        save_image(recording.image, out / "image.png"),
    ]
    common.finish(summary(table), files, as_json, table=json.loads(table.to_json(orient="records")))
