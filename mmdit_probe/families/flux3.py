"""Flux.3: text, image, then reference images that come in arguments of their own."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..attention.layout import Extra, TokenLayout
from .family import Family, Inputs, fraction, modules
from .grids import grid_of_positions, references_at, without_one_frame


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The position ids are (frame, row, column, number), rows and columns scaled."""
    ids, given = inputs["img_ids"], inputs.get("image_cond_hidden_states")
    grid = without_one_frame(grid_of_positions((ids[0] if ids.ndim == 3 else ids)[:, :3]))
    extras = () if given is None else _references(inputs["image_cond_ids"])
    return TokenLayout(grid, inputs["encoder_hidden_states"].shape[1], "text-image", extras)


def _references(ids: Tensor) -> tuple[Extra, ...]:
    ids = ids[0] if ids.ndim == 3 else ids
    return references_at(ids[:, :3], ids[:, 3], "last")


FLUX_3 = Family(
    name="flux3",
    transformer="Flux3Transformer2DModel",
    models="Flux.3",
    references=True,
    layers=modules("attn", "single_transformer_blocks"),  # before them, each stream attends to itself
    layout=_layout,
    sigmas=fraction,
)
