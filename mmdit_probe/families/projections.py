"""The linear maps of an attention module."""

from __future__ import annotations

from typing import Any

from torch import nn

from .pipeline import Pipeline, denoiser_of
from .registry import layers_of

IMAGE_PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0")
"""Those of the image stream; the text stream of joint attention has its own."""


def image_projections(pipe: Pipeline) -> list[str]:
    """The image stream's projections in every attention layer, by their names in the transformer."""
    names = {module: name for name, module in denoiser_of(pipe).named_modules()}
    return [f"{names[layer]}.{projection}" for layer in layers_of(pipe) for projection in IMAGE_PROJECTIONS]


def output_projection(attention: Any) -> nn.Module:
    """The linear map from an attention layer's joined heads to its output."""
    return attention.to_out[0]
