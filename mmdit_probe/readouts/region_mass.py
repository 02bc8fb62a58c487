"""RegionMass: how much attention each region of the joint matrix takes."""

from __future__ import annotations

from ..attention.joint import JointAttention
from ..attention.layout import REGIONS, TokenLayout
from ..attention.reductions import MassSum
from .base import OverTextColumns, Readout, Reduction
from .fields import Axis, Field, Fields

REGION = Axis("region", tuple(str(region) for region in REGIONS), "region of the attention matrix, queries to keys")


class RegionMass(Readout):
    """``region_mass`` (batch, head, region): mean over a region's queries of the probability mass that they give it.

    In [0, 1]; regions I2I, I2T, T2I and T2T (Seg4Diff, Fig. 2), NaN for those that the model does not have. I2I and
    I2T add up to 1, as do T2I and T2T, unless the softmax covers extra tokens.

    >>> from mmdit_probe import Probe, RegionMass, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [RegionMass()], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent")
    >>> mass = probe.dataset("conditional")["region_mass"].mean("head").squeeze()
    >>> round(float(mass.sel(region="I2I") + mass.sel(region="I2T")), 4)
    1.0
    """

    def reduction(self, attention: JointAttention) -> Reduction:
        total = MassSum(attention)
        name = "mean probability mass that the region's queries give its keys"

        def result() -> Fields:
            return {"region_mass": Field(("batch", "head", "region"), total.by_region(), name, axes=(REGION,))}

        return OverTextColumns(total.add, result)

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return heads * len(REGIONS)
