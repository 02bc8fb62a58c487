"""T2TMaps: which text tokens the text tokens attend to."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..attention.blocks import Block
from ..attention.joint import JointAttention
from ..attention.layout import Region, TokenLayout
from ..attention.reductions import Heads, MapSum
from .base import OverTextColumns, Readout, Reduction
from .fields import Axis, Field, Fields, check_heads, leading_dims


class T2TMaps(Readout):
    """``t2t`` (batch, [head,] token, to_token): probability with which each text token attends to each text token.

    In [0, 1], of the joint softmax over image and text: a token's row sums to its T2T mass. Where the text positions'
    encoders are known also ``t2t_encoder`` (batch, [head,] encoder, to_encoder): mean over the positions of one text
    encoder of the mass that they give to all positions of another, such as CLIP to T5 and back; a row sums to the
    encoder's T2T mass.

    Args:
        heads: "mean" (average over heads) or "all" (a matrix for each).

    Raises:
        ValueError: text does not attend in this model.

    >>> from mmdit_probe import Probe, T2TMaps, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [T2TMaps()], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent", max_sequence_length=4)
    >>> record = probe.dataset("conditional").isel(call=0, batch=0, layer=0)
    >>> record["t2t"].dims, record["encoder"].values.tolist()
    (('token', 'to_token'), ['clip', 't5'])
    """

    def __init__(self, heads: Heads = "mean") -> None:
        check_heads("T2TMaps", heads)
        self.heads: Heads = heads

    def reduction(self, attention: JointAttention) -> Reduction:
        layout = attention.layout
        if Region.T2T not in layout.regions:
            raise ValueError("T2TMaps: text does not attend to text in this model's layers; read I2TMaps")
        total = MapSum(attention, layout.text, layout.text, self.heads)

        def add(block: Block) -> None:
            total.add_values(block, block.probs[:, :, layout.text_queries])

        def result() -> Fields:
            over = "" if self.heads == "all" else ", mean over heads"
            name = "probability with which the text token attends to the other text token" + over
            field = Field((*leading_dims(self.heads), "token", "to_token"), total.maps, name)
            return {"t2t": field, **self._by_encoder(total.maps, attention)}

        return OverTextColumns(add, result)

    def _by_encoder(self, maps: Tensor, attention: JointAttention) -> Fields:
        if attention.text is None or len(attention.text.encoders) != attention.layout.text:
            return {}
        encoders = tuple(dict.fromkeys(str(name) for name in attention.text.encoders))
        own = np.stack([attention.text.encoders == name for name in encoders])
        belongs = torch.from_numpy(own).to(maps)  # (encoder, text)
        mass = (belongs / belongs.sum(-1, keepdim=True)) @ maps @ belongs.T
        name = "mean probability mass that the text positions of an encoder give to those of another"
        long_name = name + ("" if self.heads == "all" else ", mean over heads")
        axes = (
            Axis("encoder", encoders, "text encoder of the positions that attend"),
            Axis("to_encoder", encoders, "text encoder of the positions that are attended to"),
        )
        return {"t2t_encoder": Field((*leading_dims(self.heads), "encoder", "to_encoder"), mass, long_name, axes=axes)}

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return layout.text**2 * (1 if self.heads == "mean" else heads)
