"""A model's defaults: its expert layer, guidance scale and text length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ..families import Pipeline, call_default, denoiser_of, family_of, source_of
from ..storage.files import read_text


@dataclass(frozen=True)
class ModelDefaults:
    """What is used if the user names nothing.

    Attributes:
        expert_layer: the layer with the best masks, measured (embedded model) or published (models of that depth in its
            family); None if neither is known.
        guidance_scale: the scale of classifier-free guidance; None for the pipeline's own default.
        max_sequence_length: text positions of the encoders whose length is free, such as T5; 0 for the pipeline's own.
        why: where ``expert_layer`` comes from; empty if it is None.
        side: width and height in px of images if none are asked for; None for the pipeline's own.
    """

    expert_layer: int | None
    guidance_scale: float | None = 7.5
    max_sequence_length: int = 77
    why: str = ""
    side: int | None = None


def model_defaults(pipe: Pipeline) -> ModelDefaults:
    """From ``probe_defaults.json`` in the model's folder if there is one; else the paper's for SD3; else the pipeline's own.

    >>> from mmdit_probe import load_pipeline
    >>> defaults = model_defaults(load_pipeline("tiny-sd3"))
    >>> defaults.expert_layer, defaults.guidance_scale
    (7, 7.5)
    """
    told = told_defaults(pipe)
    if told is not None:
        return told
    transformer = denoiser_of(pipe)
    family = family_of(transformer)
    known = family.expert is not None and len(family.layers(transformer)) == family.depth
    expert = family.expert if known else None
    why = f"published for {family.models} with {family.depth} layers" if known else ""
    if family.name == "sd3":
        return ModelDefaults(expert, why=why)
    return ModelDefaults(expert, None, call_default(pipe, "max_sequence_length") or 0, why)


def told_defaults(pipe: Pipeline) -> ModelDefaults | None:
    """What ``probe_defaults.json`` in the model's folder says; None if there is none. `ValueError` if it is damaged."""
    file = Path(source_of(pipe)) / "probe_defaults.json"
    if not file.is_file():
        return None
    try:
        return ModelDefaults(**json.loads(read_text(file)))
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); mend it, or delete it to take the family's defaults") from error


def expert_layer(pipe: Pipeline) -> int:
    """The layer with the best masks, measured or published; `ValueError` if none is known."""
    layer = model_defaults(pipe).expert_layer
    if layer is None:
        raise ValueError("no expert layer is known for this model: give a layer number, or find one (find_expert)")
    return layer


def text_length(pipe: Pipeline, max_sequence_length: int | None = None) -> int:
    """``max_sequence_length`` as given, or the model's default if None."""
    return model_defaults(pipe).max_sequence_length if max_sequence_length is None else max_sequence_length
