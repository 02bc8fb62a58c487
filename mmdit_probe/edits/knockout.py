"""Removing attention to words, other text tokens or whole regions; or spreading it evenly."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from ..attention.layout import TEXT_AND_IMAGE, Region, TokenLayout
from .base import AttentionBlock, Edit


class Uniform(Edit):
    """Replace the I2T probabilities by their mean over the text tokens: each query keeps its mass on the text.

    With ``words`` or ``kinds`` the mean is over those tokens alone.
    """

    def change(self, block: AttentionBlock) -> Tensor:
        chosen = self.chosen_tokens(block)
        probs = block.image_probs * chosen
        mean = probs.sum(-1, keepdim=True) * (chosen / chosen.sum(-1, keepdim=True).clamp(min=1))
        return block.with_image(block.image_output + (mean - probs) @ block.values)


class Knockout(Edit):
    """Set the probabilities of a region, or of some of its text keys, to 0.

    Args:
        layer: a layer number or several.
        region: I2I, I2T, T2I or T2T.
        renormalize: scale what is left so that each query's probabilities sum to 1 again. A query that loses all of
            its attention gets 0.
        where: heads, steps, words, kinds and batch, see `Edit`. ``words`` and ``kinds`` choose text keys of I2T or T2T.

    >>> from mmdit_probe import Knockout, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[Knockout([6, 7], words=["red"])]):  # image queries no longer see "red"
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    """

    def __init__(
        self,
        layer: int | Collection[int],
        region: Region | str = Region.I2T,
        *,
        renormalize: bool = True,
        **where: Any,
    ) -> None:
        super().__init__(layer, **where)
        if region not in TEXT_AND_IMAGE:
            raise ValueError(f"Knockout: region must be one of {', '.join(TEXT_AND_IMAGE)}, got {region!r}")
        self.region, self.renormalize = Region(region), renormalize
        if (self.words or self.kinds) and self.region in (Region.I2I, Region.T2I):
            raise ValueError(
                f"Knockout: words and kinds choose text keys, but region {self.region} has image keys; use I2T or T2T"
            )

    def change(self, block: AttentionBlock) -> Tensor:
        layout = block.layout
        if self.region not in layout.regions or (_others(layout) and self.region in (Region.I2I, Region.T2I)):
            raise ValueError(
                f"Knockout: region {self.region} can't be edited in this model; choose from {_regions(layout)}"
            )
        rows = layout.image_queries if self.region in (Region.I2I, Region.I2T) else layout.text_queries
        probs = block.probs[:, :, rows] * self.chosen_tokens(block)
        mass, from_chosen = probs.sum(-1, keepdim=True), probs @ block.values
        output = block.output[:, :, rows]
        if self.region in (Region.I2I, Region.T2I):  # image keys get what the text columns leave
            kept, left = from_chosen, mass
        else:
            kept, left = output - from_chosen, 1 - mass
        if self.renormalize:
            kept = kept / left.clamp(min=1e-6) * (left > 1e-6)
        edited = block.output.clone()
        edited[:, :, rows] = kept
        return edited


def _regions(layout: TokenLayout) -> str:
    """The regions whose mass follows from the text columns: with extra tokens in the softmax, those of text keys alone."""
    known = (Region.I2T, Region.T2T) if _others(layout) else TEXT_AND_IMAGE
    return ", ".join(region for region in known if region in layout.regions)


def _others(layout: TokenLayout) -> int:
    return layout.reference + layout.extra
