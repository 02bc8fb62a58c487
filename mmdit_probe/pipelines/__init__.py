"""The machine room: loading, defaults, prompts, one forward pass, generation."""

from .defaults import ModelDefaults, expert_layer, model_defaults
from .loading import load_pipeline, pipeline_of

__all__ = [
    "ModelDefaults",
    "expert_layer",
    "load_pipeline",
    "model_defaults",
    "pipeline_of",
]
