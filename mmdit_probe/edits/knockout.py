"""Taking attention away from words, from other text tokens or from whole regions; or spreading it evenly."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from mmdit_probe.attention.layout import Region, TokenLayout

from .base import AttentionBlock, Edit


class Uniform(Edit):
    """Replace the I2T probabilities by their mean over the text tokens: each query keeps its mass, words lose theirs.

    With ``words`` or ``kinds`` (start, word, end, padding, absent) the mean is taken over those tokens alone.
    """

    def change(self, view: AttentionBlock) -> Tensor:
        chosen = self.chosen_tokens(view)
        probs = view.image_probs * chosen
        mean = probs.sum(-1, keepdim=True) * (chosen / chosen.sum(-1, keepdim=True).clamp(min=1))
        return view.with_image(view.image_output + (mean - probs) @ view.values)


class Knockout(Edit):
    """Set probabilities to 0: of a region, or of some text keys in it; renormalized so that rows still sum to 1, or not.

    ``region`` is I2T by default; ``words`` and ``kinds`` choose text keys of I2T or T2T. A query that loses all its
    attention gets 0.
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
        if region not in tuple(Region):
            raise ValueError(f"Knockout: region must be one of {', '.join(Region)}, got {region!r}")
        self.region, self.renormalize = Region(region), renormalize
        if (self.words or self.kinds) and self.region in (Region.I2I, Region.T2I):
            raise ValueError(
                f"Knockout: words and kinds are text keys, which region {self.region} has none of; use I2T or T2T"
            )

    def change(self, view: AttentionBlock) -> Tensor:
        layout = view.layout
        if self.region not in layout.regions or (layout.extra and self.region in (Region.I2I, Region.T2I)):
            raise ValueError(f"Knockout: region {self.region} is not of this model, which has {_regions(layout)}")
        rows = layout.image_queries if self.region in (Region.I2I, Region.I2T) else layout.text_queries
        probs = view.probs[:, :, rows] * self.chosen_tokens(view)
        mass, from_chosen = probs.sum(-1, keepdim=True), probs @ view.values
        output = view.output[:, :, rows]
        if self.region in (Region.I2I, Region.T2I):  # image keys: what the text columns leave
            kept, left = from_chosen, mass
        else:
            kept, left = output - from_chosen, 1 - mass
        if self.renormalize:
            kept = kept / left.clamp(min=1e-6) * (left > 1e-6)
        edited = view.output.clone()
        edited[:, :, rows] = kept
        return edited


def _regions(layout: TokenLayout) -> str:
    """The regions whose share follows from the text columns: with further tokens in the softmax, the text keys' alone."""
    known = (Region.I2T, Region.T2T) if layout.extra else tuple(Region)
    return ", ".join(region for region in known if region in layout.regions)
