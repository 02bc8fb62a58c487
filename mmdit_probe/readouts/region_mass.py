"""RegionMass: how much attention each region of the joint matrix takes."""

from __future__ import annotations

import torch

from ..attention.joint import JointAttention
from ..attention.layout import Region, TokenLayout
from ..attention.reductions import MassSum, Shares
from .base import OverTextColumns, Readout, Reduction
from .fields import Axis, Field, Fields


class RegionMass(Readout):
    """``region_mass`` (batch, head, region): mean over a region's queries of the probability mass that they give it.

    In [0, 1]; regions I2I, I2T, T2I and T2T (Seg4Diff, Fig. 2), NaN for those that the model does not have. I2I and
    I2T add up to 1, as do T2I and T2T, unless the softmax covers extra tokens.

    With reference images, as editing models have them, the regions go on with I2R, T2R, R2I, R2T and R2R, those of all
    references together, and two further fields tell apart what each stream gives to whom:

    - ``reference_mass`` (batch, head, asking, reference): mean mass that the queries of ``asking`` (the image, the text,
      each reference; NaN for those that do not attend) give to each reference image.
    - ``other_mass`` (batch, head, asking): what they give to all tokens that are none of these, such as the images within a
      prompt.

    I2I, I2T, I2R and the image's ``other_mass`` add up to 1, and so do those of text and of the references.

    >>> from mmdit_probe import Probe, RegionMass, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [RegionMass()], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> mass = probe.dataset("conditional")["region_mass"].mean("head").squeeze()
    >>> round(float(mass.sel(region="I2I") + mass.sel(region="I2T")), 4)
    1.0
    """

    def reduction(self, attention: JointAttention) -> Reduction:
        total, layout = MassSum(attention), attention.layout
        name = "mean probability mass that the region's queries give its keys"
        labels = tuple(str(region) for region in layout.listed_regions)
        axis = Axis("region", labels, "region of the attention matrix, queries to keys")

        def result() -> Fields:
            shares = total.shares()
            fields = {"region_mass": Field(("batch", "head", "region"), shares.by_region(), name, axes=(axis,))}
            return fields | _told_apart(shares) if Region.I2R in layout.regions else fields

        return OverTextColumns(total.add, result)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        references = len(layout.references) if Region.I2R in layout.regions else 0
        further = (2 + references) * (1 + references) if references else 0
        return heads * (len(layout.listed_regions) + further)


def _told_apart(shares: Shares) -> Fields:
    """What each stream gives to each reference image, and to the tokens that belong to no stream."""
    layout, mass = shares.layout, shares.further
    if Region.R2I not in layout.regions:  # the image alone attends
        absent = torch.full_like(mass[:, :, :1], torch.nan)
        mass = torch.cat([mass[:, :, :1], *[absent] * (1 + len(layout.references))], 2)
    numbers = [str(number) for number in range(1, 1 + len(layout.references))]
    asking = Axis("asking", ("image", "text", *(f"reference {n}" for n in numbers)), "tokens that attend")
    answering = Axis("reference", tuple(numbers), "number of the reference image, in the order of the model's tokens")
    name = "mean probability mass that the attending tokens give to "
    return {
        "reference_mass": Field(
            ("batch", "head", "asking", "reference"),
            mass[..., :-1],
            name + "the reference image",
            axes=(asking, answering),
        ),
        "other_mass": Field(("batch", "head", "asking"), mass[..., -1], name + "tokens of no stream", axes=(asking,)),
    }
