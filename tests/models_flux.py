"""Small models of Flux and its kin."""

from __future__ import annotations

from typing import Any

import diffusers
import torch
from models import BATCH, COLS, ROWS, TEXT, Case, change_packed, change_word, position_ids, randn

SMALL = {
    "patch_size": 1,
    "in_channels": 4,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "axes_dims_rope": (2, 2, 4),
}


def inputs(ids: int = 3, references: tuple[tuple[int, int], ...] = (), **more: Any) -> dict[str, Any]:
    image_ids = position_ids(ROWS, COLS, width=ids)
    for number, grid in enumerate(references):
        image_ids = torch.cat([image_ids, position_ids(*grid, first=1 + number, width=ids)])
    return {
        "hidden_states": randn(BATCH, len(image_ids), 4),
        "encoder_hidden_states": randn(BATCH, TEXT, 16),
        "timestep": torch.full((BATCH,), 0.25),
        "img_ids": image_ids,
        "txt_ids": torch.zeros(TEXT, ids),
        **more,
    }


def case(name: str, transformer: str, options: dict[str, Any], given: Any, **more: Any) -> Case:
    make = getattr(diffusers, transformer)
    return Case(name, lambda: make(**{**SMALL, **options}), given, change_word(), change_packed(), **more)


def pooled(**more: Any) -> dict[str, Any]:
    return inputs(pooled_projections=randn(BATCH, 8), **more)


CASES = [
    case("flux", "FluxTransformer2DModel", {"pooled_projection_dim": 8}, pooled),
    case(
        "flux-kontext",
        "FluxTransformer2DModel",
        {"pooled_projection_dim": 8, "guidance_embeds": True},
        lambda: pooled(references=((2, 3),), guidance=torch.full((BATCH,), 3.5)),
        references=((2, 3),),
    ),
    case(
        "flux2",
        "Flux2Transformer2DModel",
        {"axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 8},
        lambda: inputs(4, guidance=torch.full((BATCH,), 4.0)),
    ),
    case(
        "flux2-reference",
        "Flux2Transformer2DModel",
        {"axes_dims_rope": (2, 2, 2, 2), "timestep_guidance_channels": 8, "guidance_embeds": False},
        lambda: inputs(4, references=((2, 3), (3, 1))),
        references=((2, 3), (3, 1)),
    ),
    case(
        "chroma",
        "ChromaTransformer2DModel",
        {"approximator_num_channels": 8, "approximator_hidden_dim": 16, "approximator_layers": 1},
        lambda: inputs(attention_mask=padded()),
    ),
    case("longcat", "LongCatImageTransformer2DModel", {"pooled_projection_dim": 8}, inputs),
    case("ovis", "OvisImageTransformer2DModel", {"out_channels": 4}, inputs),
    case("bria", "BriaTransformer2DModel", {"axes_dims_rope": [2, 2, 4]}, lambda: thousands()),
    case(
        "bria-fibo",
        "BriaFiboTransformer2DModel",
        {"axes_dims_rope": [2, 2, 4], "text_encoder_dim": 6},
        lambda: thousands(text_encoder_layers=[randn(BATCH, TEXT, 6), randn(BATCH, TEXT, 6)]),
    ),
]


def padded() -> torch.Tensor:
    """Chroma's mask over all tokens: the last word of the first sample is padding."""
    mask = torch.ones(BATCH, TEXT + ROWS * COLS, dtype=torch.bool)
    mask[0, TEXT - 1] = False
    return mask


def thousands(**more: Any) -> dict[str, Any]:
    return inputs(**more) | {"timestep": torch.full((BATCH,), 250.0)}
