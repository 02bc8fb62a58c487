"""A U-Net's prompts: positions of class names, and words with a weight."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

BACKGROUND = "background"
"""The class that gets a value of its own instead of a word in the prompt."""


def spans_in(tokenizer: Any, prompt: str, names: Sequence[str]) -> list[tuple[int, ...]]:
    """Token positions of each name in the prompt, in which the names stand in this order.

    `ValueError` if a name is not found, or lies behind the tokenizer's last position.
    """
    ids, start, spans = list(tokenizer(prompt, truncation=False).input_ids), 0, []
    for name in names:
        piece = list(tokenizer(name, add_special_tokens=False).input_ids)
        at = next((i for i in range(start, len(ids)) if piece and ids[i : i + len(piece)] == piece), None)
        if at is None or at + len(piece) >= tokenizer.model_max_length:
            raise ValueError(
                f"classes: {name!r} was not found in the first {tokenizer.model_max_length} tokens of the prompt "
                f"{prompt[:60]!r}...; offer fewer classes, or shorter names"
            )
        start = at + len(piece)
        spans.append(tuple(range(at, start)))
    return spans


def weighted(
    features: Float[Tensor, "1 tokens width"],
    spans: Sequence[Sequence[int]],
    weight: float,
    empty: Float[Tensor, "1 tokens width"] | None = None,
) -> Float[Tensor, "1 tokens width"]:
    """Some positions' features times ``weight``; with ``empty``, their difference from the empty prompt's instead."""
    changed = features.clone()
    for span in spans:
        places = list(span)
        base = 0 if empty is None else empty[:, places]
        changed[:, places] = base + weight * (features[:, places] - base)
    return changed


def split_background(classes: Sequence[str]) -> tuple[list[str], int | None]:
    """The class names without background, and background's position, None if it is not offered."""
    words = [name for name in classes if name != BACKGROUND]
    return words, (list(classes).index(BACKGROUND) if len(words) < len(classes) else None)
