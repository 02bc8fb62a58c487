"""A guess for transformers that no family describes: layers by their place in the blocks, layout by the call's shapes.

A probe believes it only after it has seen what the model does with other words and another image.
"""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from ..attention.layout import TokenLayout
from .family import Family, Inputs, grid_of, unknown_level

_CROSS = ("attn2", "cross_attn", "cross_attention")
_JOINT = ("attn", "attn1", "attention", "self_attn", "self_attention")


def generic_family(transformer: nn.Module) -> Family | None:
    """A family for this transformer alone; None if it has no blocks with attention."""
    layers = _attention_modules(transformer)
    if not layers:
        return None
    name = type(transformer).__name__
    return Family(
        "generic", name, name, lambda _: layers, _layout, unknown_level, image_argument=_first_argument(transformer),
        guessed=True,
    )  # fmt: skip


def _first_argument(transformer: nn.Module) -> str:
    """The first argument of the forward pass."""
    _, first, *_ = inspect.signature(type(transformer).forward).parameters
    return first


def _attention_modules(transformer: nn.Module) -> list[nn.Module]:
    """The cross-attention of the blocks that have one, or, if none has, each block's first attention."""
    blocks = [dict(block.named_children()) for block in _blocks(transformer)]
    for names in (_CROSS, _JOINT):
        found = [next((children[name] for name in names if name in children), None) for children in blocks]
        if any(module is not None for module in found):
            return [module for module in found if module is not None]
    return []


def _layout(transformer: Any, inputs: Inputs) -> TokenLayout:
    """The layout of cross-attention, from latents and text; `ValueError` for joint attention, whose order can't be seen."""
    latents, text = inputs[_first_argument(transformer)], inputs.get("encoder_hidden_states")
    name = type(transformer).__name__
    if not isinstance(latents, Tensor) or latents.ndim not in (4, 5) or not isinstance(text, Tensor) or text.ndim != 3:
        raise ValueError(
            f"Probe: cannot read the token layout of {name} from its inputs; "
            f"give Probe(layout=TokenLayout((rows, cols), text tokens, 'image-text' or 'text-image'))"
        )
    sizes = latents.shape[-2:] if latents.ndim == 4 else latents.shape[-3:]
    grid = grid_of(sizes, _patch(transformer, len(sizes)))
    if any(child in _CROSS for block in _blocks(transformer) for child, _ in block.named_children()):
        return TokenLayout(grid, text.shape[1], scope="cross")
    raise ValueError(
        f"Probe: cannot tell whether image or text tokens come first in {name}; "
        f"give Probe(layout=TokenLayout({grid}, {text.shape[1]}, 'image-text' or 'text-image'))"
    )


def _blocks(transformer: nn.Module) -> list[nn.Module]:
    """The blocks of all module lists except refiners, which see only the image or only the text."""
    lists = [(name, child) for name, child in transformer.named_children() if isinstance(child, nn.ModuleList)]
    return [block for name, child in lists if "refiner" not in name for block in child]


def _patch(transformer: Any, axes: int) -> tuple[int, ...]:
    """Latent pixels of a token along each axis of the grid; one frame a token unless the configuration differs."""
    patch = transformer.config.get("patch_size") or 1
    frames = transformer.config.get("patch_size_t") or 1
    sizes = (frames, patch, patch) if isinstance(patch, int) else (1, *patch)
    return tuple(sizes)[-axes:]
