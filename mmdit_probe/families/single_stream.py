"""Models that run image and text through one stream of blocks, after refiners of their own."""

from __future__ import annotations

from typing import Any

from ..layout import Extra, TokenLayout
from .family import Family, Inputs, grid_of, modules, reversed_fraction

_Z_MULTIPLE = 32
"""Z-Image pads image and text, each, to a multiple of so many tokens."""


def _z_image_layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    images, captions = inputs["x"], inputs["cap_feats"]
    if isinstance(images[0], list):
        raise ValueError(
            "Probe: Z-Image with several images a sample has no single grid; "
            "give Probe(layout=TokenLayout(...)), or call it with one image a sample"
        )
    if len({image.shape for image in images}) > 1:
        raise ValueError("Probe: Z-Image was given images of different sizes; call it with one size at a time")
    patch = inputs.get("patch_size", 2)
    frames, rows, cols = grid_of(images[0].shape[-3:], (inputs.get("f_patch_size", 1), patch, patch))
    layout = TokenLayout((frames, rows, cols) if frames > 1 else (rows, cols), 0)
    padding = Extra("padding", -layout.image % _Z_MULTIPLE, "between")
    longest = max(len(caption) for caption in captions)
    text = longest + -longest % _Z_MULTIPLE
    return TokenLayout(layout.grid, text, "image-text", (padding,))


SINGLE_STREAM = (
    Family(
        name="z-image",
        transformer="ZImageTransformer2DModel",
        models="Z-Image",
        layers=modules("attention", "layers"),  # the refiners see image or text alone
        layout=_z_image_layout,
        sigmas=reversed_fraction,
        main="x",
        time="t",
    ),
)
