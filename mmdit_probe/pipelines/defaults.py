"""What commands take where the user names nothing: the expert layer, guidance, the text's length."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..families import call_default, denoiser_of, family_of


@dataclass(frozen=True)
class ModelDefaults:
    """What commands take where the user names nothing.

    ``expert_layer`` is the layer with the best masks: measured for the embedded model, published for models of its family
    with as many layers otherwise (None if neither is known). ``why`` says which. ``guidance_scale`` None is the pipeline's own.
    """

    expert_layer: int | None
    guidance_scale: float | None = 7.5
    max_sequence_length: int = 77
    why: str = ""


def model_defaults(pipe: Any) -> ModelDefaults:
    """From ``probe_defaults.json`` in the model's folder, else the paper's for SD3, else the pipeline's own."""
    file = Path(str(getattr(pipe, "name_or_path", ""))) / "probe_defaults.json"
    if file.is_file():
        try:
            return ModelDefaults(**json.loads(file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(
                f"{file} is damaged ({error}); mend it, or delete it to take the family's defaults"
            ) from error
    transformer = denoiser_of(pipe)
    family = family_of(transformer)
    known = family.expert is not None and len(family.layers(transformer)) == family.depth
    expert = family.expert if known else None
    why = f"published for {family.models} with {family.depth} layers" if known else ""
    if family.name == "sd3":
        return ModelDefaults(expert, why=why)
    return ModelDefaults(expert, None, call_default(pipe, "max_sequence_length") or 0, why)


def expert_layer(pipe: Any) -> int:
    """The layer with the best masks, measured or published; `ValueError` if none is known."""
    layer = model_defaults(pipe).expert_layer
    if layer is None:
        raise ValueError("no expert layer is known for this model: give a layer number, or find one (find_expert)")
    return layer
