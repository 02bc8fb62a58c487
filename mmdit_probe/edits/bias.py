"""Bias: more or less of a word in a part of the image; and words bound to places."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..attention.joint import JointAttention
from ..attention.kernels import exact
from .attention_block import AttentionBlock
from .base import Edit, chosen_tokens, spelled_tokens
from .places import Place, on_grid, place_mask
from .reweighting import reweighted

_MOST = 50.0


def _checked(name: str, strength: float) -> float:
    if not abs(strength) <= _MOST:
        raise ValueError(
            f"{name}: strength is added to scores before the softmax; give -{_MOST:g} to {_MOST:g}, got {strength}"
        )
    return strength


class Bias(Edit):
    """Add ``strength`` to the scores of the image positions in a mask on some words' tokens; rows sum to 1 again.

    Exact, from the text columns alone. A strength of ln 2 doubles a word's odds; 0 changes nothing.

    Args:
        layer: a layer number or several; None for every layer.
        words: words of the prompt, or one.
        strength: what is added before the softmax, -50 to 50. Times a mask's value where a token is covered in part.
        where: a mask (rows, cols) of truth values or of numbers in [0, 1], of any size; a box (left, top, right, bottom) in
            fractions of the image; None for the whole image.
        further: heads, steps, kinds and batch, see `Edit`.

    >>> from mmdit_probe import Bias, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[Bias(7, ["circle"], 2.0, where=(0, 0, 0.5, 1))]):  # left half
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    """

    def __init__(
        self,
        layer: int | Collection[int] | None,
        words: str | Sequence[str],
        strength: float,
        where: Place | None = None,
        **further: Any,
    ) -> None:
        super().__init__(layer, words=[words] if isinstance(words, str) else words, **further)
        if not (self.words or self.kinds):
            raise ValueError("Bias: give at least one word")
        self.strength = _checked("Bias", strength)
        self._mask = None if where is None else place_mask("Bias", where)

    @property
    def is_identity(self) -> bool:
        return self.strength == 0

    def change(self, block: AttentionBlock) -> AttentionBlock:
        gain = self.strength * self.chosen_tokens(block)
        if self._mask is not None:
            gain = gain * on_grid(self._mask, block.layout).to(gain)[:, None]
        return reweighted(block, gain.expand(-1, 1, block.layout.image, -1))


class Regions(Edit):
    """Words bound to places of the image.

    Soft: ``strength`` is added to the scores of the positions in a place on its words, and taken from those outside, as
    `Bias` does. Hard: a joint mask before the kernel. Positions outside a place do not see its words, its words do not see
    positions outside, and words of different places do not see each other; image positions all see each other, so that the
    image stays one. What belongs to no place stays free.

    Args:
        regions: places by word or phrase of the prompt: masks or boxes as in `Bias`.
        hard: by the joint mask.
        layer: a layer number or several; None for every layer.
        strength: of the soft form, 0 to 50; 0 changes nothing.
        where: heads, steps and batch, see `Edit`.

    >>> from mmdit_probe import Probe, Regions, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> places = {"red circle": (0, 0, 0.5, 1), "blue square": (0.5, 0, 1, 1)}
    >>> with Probe(pipe, [], edits=[Regions(places, hard=True, steps=range(10))]):
    ...     _ = pipe("a red circle and a blue square on grass", num_inference_steps=1, output_type="latent")
    """

    def __init__(
        self,
        regions: Mapping[str, Place],
        hard: bool = False,
        *,
        layer: int | Collection[int] | None = None,
        strength: float = 2.0,
        **where: Any,
    ) -> None:
        super().__init__(layer, **where)
        if not regions:
            raise ValueError("Regions: give at least one word and its place")
        if self.words or self.kinds:
            raise ValueError("Regions: the words are the names of the regions; leave words and kinds out")
        if strength < 0:
            raise ValueError(f"Regions: strength must be 0 or more, got {strength}")
        self.regions, self.hard, self.strength = tuple(regions), hard, _checked("Regions", strength)
        self._masks = {word: place_mask(f"Regions: {word!r}", place) for word, place in regions.items()}

    @property
    def is_identity(self) -> bool:
        return not self.hard and self.strength == 0

    def change(self, block: AttentionBlock) -> AttentionBlock | Tensor:
        if self.hard:
            return block.output
        gain = block.probs.new_zeros(len(block.probs), 1, block.layout.image, block.layout.text)
        for word, mask in self._masks.items():
            inside = 2 * on_grid(mask, block.layout).to(gain) - 1
            gain += self.strength * chosen_tokens(block, [word], ()) * inside[:, None]
        return reweighted(block, gain)

    def before(self, call: JointAttention) -> JointAttention:
        if not self.hard:
            return call
        layout, precision = call.layout, exact(call.query[:0]).dtype
        joint = torch.zeros(call.batch, 1, layout.queries, layout.keys, dtype=precision, device=call.query.device)
        bound = {word: torch.from_numpy(spelled_tokens(call.text, [word], ())).to(joint.device) for word in self._masks}
        for word, mask in self._masks.items():
            outside, own = on_grid(mask, layout).to(joint.device) < 0.5, bound[word]
            others = (
                torch.stack([tokens for name, tokens in bound.items() if name != word] or [own & False]).any(0) & ~own
            )
            i2t = joint[:, 0, layout.image_queries, layout.text_keys]
            i2t.masked_fill_(outside[None, :, None] & own[:, None], -math.inf)
            if layout.scope == "joint":
                t2i = joint[:, 0, layout.text_queries, layout.image_keys]
                t2i.masked_fill_(own[:, :, None] & outside[None, None], -math.inf)
                t2t = joint[:, 0, layout.text_queries, layout.text_keys]
                t2t.masked_fill_(own[:, :, None] & others[:, None], -math.inf)
        return call.added_to_scores(joint)
