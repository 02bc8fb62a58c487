"""mmdit-probe pca."""

from __future__ import annotations

import json
from typing import Annotated, Literal

import typer

from mmdit_probe.configs import GenerationConfig, PCAConfig
from mmdit_probe.utils.text import checked_text

from . import options as common

TIMESTEPS = ",".join(map(str, PCAConfig.timesteps))


def pca(
    prompt: Annotated[
        str | None, typer.Option(help="The prompt; with --scene, the scene's sentence if not given.")
    ] = None,
    model: common.Model = "tiny-sd3",
    image: common.ImageLike = None,
    longest: common.Longest = None,
    scene: Annotated[
        str | None, typer.Option(help="Read built-in test scenes with their label maps: a number, or several: 0,1,2.")
    ] = None,
    stream: Annotated[
        Literal["image", "text", "both"], typer.Option(help="Whose features: of image tokens, of text tokens, or both.")
    ] = "image",
    padding: Annotated[
        bool, typer.Option("--padding", help="Text: padding and absent encoders' positions take part too.")
    ] = False,
    layers: common.Layers = "all",
    timesteps: common.Timesteps = TIMESTEPS,
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
    out: common.Out = common.RESULTS / "pca",
    as_json: common.AsJson = False,
) -> None:
    """What each layer's features vary with: principal components, and R^2 from position and from the class.

    Reads query, key and value of the tokens of a generated image (--prompt), of a given one (--image) or of built-in
    scenes (--scene), whose classes are known. With several scenes the table is their mean, the page the first.

    Writes pca_tN.pdf / .png for each timestep (Seg4Diff, Fig. 3), pca_r2.pdf / .png, pca.csv, pca.nc and image.png;
    for text tokens pca_text_tN.pdf / .png: tokens along x, layers as rows, three components as colors.
    """
    from mmdit_probe.storage.images import save_image
    from mmdit_probe.storage.records import save_record
    from mmdit_probe.storage.runs import write_text
    from mmdit_probe.studies.feature_pca import measure_pca, pca_table, summary

    from .pages import pca_pages

    config = PCAConfig(
        checked_text("prompt", prompt) if prompt else prompt,
        () if scene is None else common.numbers("--scene", scene),
        common.layer_numbers(layers),
        common.numbers("--timesteps", timesteps),
        GenerationConfig(steps, guidance_scale, max_sequence_length, height, width, seed),
        stream,
        padding,
    )
    if padding and stream == "image":
        raise ValueError("--padding is of text tokens; add --stream text or both")
    if scene is not None and image is not None:
        raise ValueError("give --image or --scene, not both")
    if prompt is None and scene is None:
        raise ValueError("give --prompt, or --scene NUMBER to read a built-in scene")
    common.lock_output(out)
    source = common.Source(model, dtype, device, revision, offload, lora, quantize)
    pipe = source.load()
    common.check_prompts_fit(pipe, [] if prompt is None else [prompt], max_sequence_length)
    recording = measure_pca(pipe, config, common.input_image(image, longest, pipe))
    record = recording.record.assign_attrs(model=source.label)
    table = pca_table(record)
    files = [
        *pca_pages(record, recording.image, out),
        write_text(out / "pca.csv", table.to_csv(index=False)),
        save_record(record, out / "pca.nc"),
        save_image(recording.image, out / "image.png"),
    ]
    common.finish(summary(table), files, as_json, table=json.loads(table.to_json(orient="records")))
