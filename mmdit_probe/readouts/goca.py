"""GoCA's weights of heads and layers (arXiv 2603.06178), read in bounded memory."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import TokenLayout
from ..attention.reductions import MapSum
from .base import OverImageRows, OverTextColumns, Readout, Reduction
from .contributions import output_weight_of
from .fields import Field, Fields, token_maps
from .output_similarity import joined_outputs


class HeadWeightedI2T(Readout):
    """``i2t`` (batch, row, col, token) as in `I2TMaps`, heads weighted at each pixel by what they add to the output.

    Head h of pixel x has the weight ``max(0, <r_h(x), r(x)>)`` divided by the sum over heads, where ``r_h = W_O^h o_h`` is what
    the head adds to the layer's output and ``r`` the sum over heads; the plain mean where no head has a positive weight.
    """

    reads_block = True

    def reduction(self, attention: JointAttention) -> Reduction:
        weights = head_weights(attention, output_weight_of("HeadWeightedI2T", attention))
        layout = attention.layout
        total = MapSum(attention, layout.image, layout.text)

        def add(block: Block) -> None:
            own = weights[block.batch, block.heads, :, None] * attention.heads  # the sum divides by the number of heads
            total.add_values(block, block.probs[:, :, layout.image_queries] * own)

        name = "probability of the text token, mean over heads weighted by what they add to the output"
        return OverTextColumns(add, lambda: {"i2t": token_maps(total.maps, layout, ("batch",), name)})

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return layout.image * layout.text


def head_weights(
    attention: JointAttention, weight: Float[Tensor, "channels joined"]
) -> Float[Tensor, "batch heads image"]:
    """Each head's weight at each image query; they sum to 1 over heads."""
    outputs = joined_outputs(attention, attention.layout.image_queries).float()
    # <W_h o_h, r> = o_h . (W_h^T r): no head's own vector in the output space is needed
    back = ((outputs @ weight.T) @ weight).unflatten(-1, (attention.heads, -1))
    agreement = (outputs.unflatten(-1, (attention.heads, -1)) * back).sum(-1).clamp(min=0).transpose(1, 2)
    whole = agreement.sum(1, keepdim=True)
    return torch.where(whole > 0, agreement / whole.clamp(min=torch.finfo(torch.float32).tiny), 1 / attention.heads)


class AttentionFeatures(Readout):
    """``features`` (batch, image, channel): the image tokens' attention output, heads side by side."""

    def measure(self, attention: JointAttention) -> Fields:
        values = joined_outputs(attention, attention.layout.image_queries)
        return {"features": Field(("batch", "image", "channel"), values, "attention output, in the model's own units")}

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return layout.image * heads


class ReferenceAgreement(Readout):
    """``agreement`` (batch,): how much a layer's I2I (mean over heads) lies where a reference's tokens are alike.

    ``sum_ij A_ij I2I_ij`` with ``A = softmax(F F^T / sqrt(d))`` over the image tokens, computed some rows at a time.

    Args:
        features: (batch, image, channels) F, of the reference layer.
    """

    def __init__(self, features: Float[Tensor, "batch image channels"]) -> None:
        self.features = features

    def __repr__(self) -> str:
        return f"ReferenceAgreement(features of shape {tuple(self.features.shape)})"

    def reduction(self, attention: JointAttention) -> Reduction:
        layout = attention.layout
        features = self.features.to(attention.query.device, torch.float32)
        total = attention.query.new_zeros(attention.batch, dtype=torch.float32)

        def add(numbers: Tensor, block: Block) -> None:
            own = features[block.batch]
            alike = (own[:, numbers] @ own.transpose(-1, -2) / own.shape[-1] ** 0.5).softmax(-1)
            i2i = block.probs[..., layout.image_keys].sum(1).float() / attention.heads
            total[block.batch] += (alike * i2i).sum((-2, -1))

        name = "sum over pairs of image tokens of the layer's I2I times the reference layer's similarity"
        queries = torch.arange(layout.image)
        return OverImageRows(queries, add, lambda: {"agreement": Field(("batch",), total, name)})

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return 1
