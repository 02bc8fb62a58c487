"""Writing the model card from the numbers that `evaluate` measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..storage.files import write_text
from ..studies.scene_grounding import MEAN_OF_LAYERS
from .recipe import Recipe

_OPTIMIZERS = {"adamw": "AdamW", "muon": "Muon and AdamW"}
_LOSSES = {
    "mse": "mean squared error",
    "whitened": "each latent direction's squared error weighed by the inverse of its residual's variance",
}


def write_card(numbers: dict[str, Any], recipe: Recipe, path: Path) -> Path:
    """Write MODEL_CARD.md; every number in it comes from ``numbers`` (evaluation.json) or ``recipe``."""
    parts = [
        _head(numbers, recipe),
        _masks(numbers),
        _agreement(numbers),
        _timesteps(numbers),
        _samples(numbers),
        _before(numbers),
        _eye(numbers),
        _files(numbers),
    ]
    return write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _sd3(recipe: Recipe) -> str:
    return f"""A genuine `StableDiffusion3Pipeline` that is small enough to come with the package: `SD3Transformer2DModel` with
{recipe.layers} blocks of {recipe.heads} heads of {recipe.head_width}, two CLIP text encoders, an `AutoencoderKL` (8 times
down, {recipe.latent_channels} channels) and the flow-match Euler scheduler with shift 3; no T5. It draws 64 x 64 px scenes of
shapes on textured grounds and knows the words for them, nothing else. No mask was ever shown to it."""


def _flux(recipe: Recipe) -> str:
    return f"""A genuine `FluxPipeline` that is small: `FluxTransformer2DModel` with {recipe.layers} double- and {recipe.single_layers} single-stream blocks of
{recipe.heads} heads of {recipe.head_width}, rotary positions, no guidance embedding; T5 for the words, CLIP for the pooled vector, an `AutoencoderKL` (4
times down, {recipe.latent_channels} channels, 2 x 2 of them a token) and the flow-match Euler scheduler with shift 3. It draws 64 x 64 px scenes of
shapes on textured grounds and knows the words for them, nothing else. No mask was ever shown to it."""


_WHAT = {"tiny-sd3": _sd3, "tiny-flux": _flux}


def _absent(recipe: Recipe) -> str:
    if recipe.model != "tiny-sd3":
        return f"- T5 always has {recipe.text_length} positions in training: `max_sequence_length={recipe.text_positions}`."
    return f"""- diffusers appends `max_sequence_length` all-zero text positions where T5 is absent (256 by default). They are all alike in
  every layer, so that training stands for {", ".join(map(str, recipe.absent_t5))} of them by one with log(n) added to its scores, which is exact."""


def _head(numbers: dict[str, Any], recipe: Recipe) -> str:
    training = numbers["training"]
    return f"""# {recipe.model}

{_WHAT[recipe.model](recipe)}

Made by `python -m mmdit_probe.tiny.train`; the numbers below by `python -m mmdit_probe.tiny.evaluate`.

## Recipe

- {recipe.scenes:,} synthetic scenes (`mmdit_probe.datasets.scenes`, split train), {recipe.caption_variants} captions each: 45%
  sentences, 45% class lists, 10% empty.
- Started from {recipe.started_from or "random weights"}.
- Flow matching, {_LOSSES[recipe.loss]};
  {training["samples"]:,} samples in {training["seconds"] / 60:.0f} minutes, batch {recipe.batch}, {_OPTIMIZERS[recipe.optimizer]}
  {recipe.rate:g}, warm-up, constant, cosine over the last {recipe.decay_samples / recipe.samples:.0%}; EMA {recipe.ema}; noise level
  sigmoid(N({recipe.noise_mean:g}, {recipe.noise_std:g})); arithmetic in {recipe.precision}; last training loss {training["loss"]:.3f}.
- The text encoders are trained jointly. The pooled text vector is zeroed in {1 - recipe.pooled_keep:.0%} of the samples, so that
  words have to come through attention.
{_absent(recipe)}"""


def _masks(numbers: dict[str, Any]) -> str:
    expert = numbers["expert_layer"]
    rows = []
    for row in numbers["layers"]:
        mark = "**" if row["layer"] == expert else ""
        values = [
            str(row["layer"]),
            f"{_percent(row['miou'])} ± {_percent(row['miou_std'])}",
            f"{row['pixel_accuracy']:.3f}",
            f"{row['i2t_mass']:.3f}",
            f"{row['i2t_ratio']:.2f}",
            _percent(row["blur_harm"]),
        ]
        rows.append([f"{mark}{value}{mark}" for value in values])
    others = sorted((r["miou"] for r in numbers["layers"] if r["layer"] != expert), reverse=True)
    margin = numbers["layers"][expert]["miou"] - others[0]
    header = ["layer", "mIoU", "pixel accuracy", "I2T mass", "ratio to uniform", "harm by blur, %"]
    references = [
        [name, _percent(v["miou"]), f"{v['pixel_accuracy']:.3f}"] for name, v in numbers["references"].items()
    ]
    return f"""## Masks, text mass and harm by blur, layer by layer

{numbers["test_scenes"]} held-out scenes, prompt = names of the classes present, one forward pass at timestep
{numbers["timestep"]} of 28 (sigma {numbers["sigma"]:.3f}), {len(numbers["noise_seeds"])} noise seeds (mean ± standard deviation). Masks are the argmax of one
layer's I2T attention over the class names. Layer and timestep were chosen on {numbers["validation_scenes"]} other scenes. Harm
is the rise of the flow-matching loss when the layer's I2T attention is blurred along the text, in percent of the rise
without any caption, at timestep {numbers["blur_timestep"]} (sigma {numbers["blur_sigma"]:.3f}).

{_table(header, rows)}

Layer {expert} leads the next layer by {_percent(margin)} points.

{_table(["for comparison", "mIoU", "pixel accuracy"], references)}"""


def _agreement(numbers: dict[str, Any]) -> str:
    best = tops(numbers["layers"])
    same = len(set(best.values())) == 1
    verdict = (
        "All three fall on one layer, as the paper finds in SD3." if same else "They do not all fall on one layer."
    )
    return f"""## Do the three point at the same layer?

{_table(["best masks", "most I2T mass", "most harm by blur"], [[f"layer {layer}" for layer in best.values()]])}

{verdict} And features and value norms, at timestep 8 on the same scenes? {" ".join(numbers["agreement"][1:])}"""


def _timesteps(numbers: dict[str, Any]) -> str:
    by_timestep = numbers["validation_miou"]
    expert = str(numbers["expert_layer"])
    rows = [
        [str(timestep), _percent({str(k): v for k, v in layers.items()}[expert])]
        for timestep, layers in sorted(by_timestep.items(), key=lambda item: int(item[0]))
    ]
    return f"""## Timestep

mIoU of layer {expert} on the validation scenes, by timestep of 28 counted from the clean end:

{_table(["timestep", "mIoU"], rows)}"""


def _samples(numbers: dict[str, Any]) -> str:
    read = numbers["samples"]
    prompts = "\n".join(f"{number + 1}. {prompt}" for number, prompt in enumerate(numbers["prompts"]))
    return f"""## Sample images

28 steps, one seed, prompts below in reading order; none was picked. In the images of {read["count"]} held-out prompts, these among
them, the scene reader finds {read["grounds"]:.1%} of the grounds, {read["shapes"]:.1%} of the shapes and {read["colored shapes"]:.1%} of the shapes in their color.

![images](samples.png)

{prompts}"""


def _before(numbers: dict[str, Any]) -> str:
    """The edition that this one took the place of, beside it; nothing if it is not known."""
    if numbers.get("before") is None:
        return ""
    columns = [numbers["before"], outline(numbers)]
    names = {
        "grounds": "grounds found, %",
        "shapes": "shapes found, %",
        "colored shapes": "shapes found in their color, %",
        "best_miou": "mIoU of the best layer",
        "mean_miou": "mIoU of the mean of all layers",
    }
    rows = [[name, *(_percent(column[key]) for column in columns)] for key, name in names.items()]
    layers = {
        "masks": "layer with the best masks",
        "mass": "layer with the most I2T mass",
        "harm": "layer with the most harm by blur",
    }
    rows += [[name, *(str(column[key]) for column in columns)] for key, name in layers.items()]
    return f"""## Beside the edition before it

The same scenes, prompts and seeds; the images' shares are the scene reader's, of {columns[0]["count"]} prompts.

{_table(["", columns[0]["weights"], "this one"], rows)}"""


def outline(numbers: dict[str, Any]) -> dict[str, Any]:
    """Of evaluation.json, what one edition is compared with another by."""
    layers, read = numbers["layers"], numbers["samples"]
    return {
        **{key: read[key] for key in ("count", "grounds", "shapes", "colored shapes")},
        "best_miou": layers[numbers["expert_layer"]]["miou"],
        "mean_miou": numbers["references"][MEAN_OF_LAYERS]["miou"],
        **tops(layers),
    }


def tops(layers: list[dict[str, Any]]) -> dict[str, int]:
    """The layers with the best masks (``masks``), the most I2T mass (``mass``) and the most harm by blur (``harm``)."""
    keys = {"masks": "miou", "mass": "i2t_mass", "harm": "blur_harm"}
    return {name: max(layers, key=lambda row: row[key])["layer"] for name, key in keys.items()}


def _eye(numbers: dict[str, Any]) -> str:
    eye = numbers["eye"]
    if eye is None:
        return """## What the eye sees

No images of these weights have been looked at; how far the scene reader is to be trusted on them is not known."""
    header = ["fact", "number", "the eye", "the reader", "both say the same", "only the eye", "only the reader"]
    rows = [
        [
            kind,
            str(own["facts"]),
            f"{own['eye']:.0%}",
            f"{own['reader']:.0%}",
            f"{own['agree']:.0%} ({own['low']:.0%} to {own['high']:.0%})",
            str(own["missed"]),
            str(own["imagined"]),
        ]
        for kind, own in eye["kinds"].items()
    ]
    shapes, clip, reader = eye["kinds"]["shape"], eye["clip_rank"], eye["reader_rank"]
    generous = (
        f"The reader was trained on whole shapes and is generous to blobs: of {shapes['facts']} shapes it finds\n"
        f"{shapes['reader']:.0%}, the eye {shapes['eye']:.0%}. Its readings of shapes compare models and edits; they do not "
        f"say how many shapes are drawn well."
    )
    plain = "The reader and the eye find about as many shapes."
    return f"""## What the eye sees

The images of the first {eye["images"]} held-out prompts (28 steps, seed {eye["seed"]}) were looked at one by one, enlarged, with the prompt at hand and
without the reader's readings, by one judge: a large vision-language model, not a person (`seen_by_eye.json`). A ground or a
color counts as seen if it is plainly there, a shape if it would be taken for this one of the eight without the prompt.
Intervals are 95%, over images.

{_table(header, rows)}

{generous if shapes["imagined"] > 2 * shapes["missed"] else plain}

Over the {clip["n"]} images with shapes, the share of its prompt's facts that the eye sees in an image has a rank correlation of
{_correlation(clip)} with the tiny CLIP's CLIP-T and of {_correlation(reader)} with the share that the reader finds."""


def _correlation(interval: dict[str, Any]) -> str:
    if interval["mean"] is None:
        return "unknown size (the images are all alike)"
    if interval["low"] is None:
        return f"{interval['mean']:.2f} (no interval: some resamples of the images are all alike)"
    return f"{interval['mean']:.2f} ({interval['low']:.2f} to {interval['high']:.2f})"


def _files(numbers: dict[str, Any]) -> str:
    retrieval, reader = numbers["clip_retrieval"], numbers["reader"]
    rows = [[f"`{name}`", f"`{digest}`"] for name, digest in numbers["sha256"].items()]
    return f"""## The tiny CLIP

A transformers `CLIPModel` trained contrastively on the same scenes, for CLIP metrics offline. Among {retrieval["count"]} held-out
images and their sentences it finds the right sentence for {retrieval["images"]:.1%} of the images and the right image for
{retrieval["sentences"]:.1%} of the sentences.

## The scene reader

A small convolutional network that reads grounds, shapes and colors off an image, for the scene metric. On
{reader["count"]} held-out scenes it finds {reader["recall"]:.1%} of the facts, {reader["precision"]:.1%} of the facts it reads are true, and it reads
{reader["whole_scenes"]:.1%} of the scenes without any error; the scene metric of a scene's own sentence is {reader["own_sentence"]:.3f} on average.

## Files

{_table(["file", "sha256"], rows)}"""
