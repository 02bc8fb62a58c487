"""read_image: where words are in an image that you have."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..configs import GenerationConfig, Layers, Timesteps
from ..families import Pipeline, text_parts_of
from ..pipelines.defaults import text_length
from ..pipelines.forward import encode_images, encode_prompts, forward_noisy, noise_level
from ..pipelines.generation import check_no_references
from ..pipelines.image_size import native_size, token_pixels
from ..pipelines.prompts import check_length, find_words
from ..pipelines.vocabulary import said_of, unknown_words
from ..storage.images import fitted
from ..utils.text import checked_text, checked_words
from .plan import plan_of
from .probes import RunProbes
from .seen import Seen
from .word import Picture, pixels_of


def read_image(
    pipe: Pipeline,
    image: Picture,
    words: str | Sequence[str],
    *,
    prompt: str | None = None,
    longest: int | None = None,
    layers: Layers | None = None,
    timesteps: Timesteps | None = None,
    head_groups: int = 8,
    generation: GenerationConfig = GenerationConfig(),
) -> Seen:
    """Read an image that you have: it is mixed with the noise of each timestep and passed through the transformer once.

    What is drawn is your image at its own size. The model reads a copy whose sides are whole tokens; where that changes the
    image's proportions, `Seen.why` says by how much.

    Args:
        pipe: a pipeline of a family that can read images (see `mmdit-probe models`).
        image: (height, width, 3) uint8 RGB, a PIL image or a file.
        words: a sentence, of which every content word is read; or words and phrases.
        prompt: the sentence that holds ``words``; these joined by spaces if None.
        longest: longer side in px of the copy that the model reads; the model's own size if None.
        layers: the layers whose maps are kept: numbers, "all" or "expert"; None chooses.
        timesteps: the timesteps that are read, counted from the clean end; None chooses.
        head_groups: most groups of heads whose maps are kept.
        generation: the seed of the noise, the number of steps that timesteps are counted in, and T5 positions.

    Raises:
        ValueError: a word is not in the prompt, the prompt is longer than the model reads, the image can't be read, or a layer
            or timestep does not exist.

    >>> from mmdit_probe import load_pipeline, read_image
    >>> from mmdit_probe.datasets.scenes import scene
    >>> seen = read_image(load_pipeline("tiny-sd3"), scene("val", 0).image, ["grass", "circle"], timesteps=(8,))
    >>> seen.words["word"].tolist(), seen.word("grass").map.dims
    (['grass', 'circle'], ('row', 'col'))
    """
    check_no_references(generation)
    named = () if isinstance(words, str) else checked_words(words)
    text = prompt if prompt is not None else words if isinstance(words, str) else " ".join(named)
    text = checked_text("prompt", text)
    if prompt is not None and isinstance(words, str):
        named = checked_words(words.split(","))
    length = text_length(pipe, generation.max_sequence_length)
    check_length(pipe, [text], length)
    if named:
        find_words(text_parts_of(pipe, length), text, named)
    own = pixels_of(image)
    copy = fitted(own, token_pixels(pipe), longest or native_size(pipe))
    plan = plan_of(pipe, generation, layers, timesteps, head_groups, copy)
    unknown = unknown_words(pipe, [text])
    with RunProbes(pipe, plan, range(len(plan.timesteps))) as probes:
        prompts = encode_prompts(pipe, [text], length)
        latents = encode_images(pipe, [copy])
        for timestep in plan.timesteps:
            sigma = noise_level(pipe, timestep, plan.steps, copy.shape[:2])
            forward_noisy(pipe, latents, sigma, prompts, generation.seed)
    attrs = {"prompt": text, "source": "image", "seed": generation.seed, "steps": plan.steps}
    attrs["unknown_words"] = ", ".join(unknown)
    record, details = probes.records(0, attrs)
    notes = [line for line in (stretched(own, copy, token_pixels(pipe)), said_of(unknown)) if line]
    return Seen(record, details, probes.text(0), plan, own, named, tuple(notes))


def stretched(own: np.ndarray, copy: np.ndarray, token: int) -> str:
    """A sentence on the copy that the model reads, where its proportions are not the image's; empty if they are.

    >>> stretched(np.zeros((500, 900, 3)), np.zeros((32, 64, 3)), 8)
    'The model reads the image at 64 x 32 px, 8 x 4 tokens of 8 px: width / height is 2.00, not 1.80.'
    """
    (height, width), (rows, cols) = own.shape[:2], copy.shape[:2]
    if width * rows == height * cols:
        return ""
    return (
        f"The model reads the image at {cols} x {rows} px, {cols // token} x {rows // token} tokens of {token} px: "
        f"width / height is {cols / rows:.2f}, not {width / height:.2f}."
    )
