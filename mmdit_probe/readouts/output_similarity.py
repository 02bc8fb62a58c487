"""OutputMaps: how alike image and text tokens are in the attention's output."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..attention.joint import JointAttention
from ..attention.kernels import exact
from ..attention.layout import Region, TokenLayout
from .base import Readout
from .fields import Fields, token_maps

Similarity = Literal["cosine", "dot"]


class OutputMaps(Readout):
    """``output_map`` (batch, row, col, token): similarity of each image token and each text token in the attention's output.

    The outputs are what the kernel returns, heads side by side, before the output projection: ConceptAttention's maps
    (arXiv 2502.04320) for words that are in the prompt. No matrix is computed for them.

    Args:
        similarity: "cosine", in [-1, 1] (0 for a token without output); or "dot", the dot product in the model's own units,
            as in ConceptAttention for Flux.1. The two differ in the length of the token's output.

    Raises:
        ValueError: text does not attend in this model, so that it has no output.

    >>> from mmdit_probe import OutputMaps, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [OutputMaps()], layers=[7]) as probe:
    ...     _ = pipe("a red circle on grass", num_inference_steps=1, output_type="latent", max_sequence_length=0)
    >>> maps = probe.dataset("conditional")["output_map"]
    >>> maps.dims[-3:], bool((abs(maps) <= 1.00001).all())
    (('row', 'col', 'token'), True)
    """

    def __init__(self, similarity: Similarity = "cosine") -> None:
        check_similarity("OutputMaps", similarity)
        self.similarity: Similarity = similarity

    def measure(self, attention: JointAttention) -> Fields:
        layout = attention.layout
        if Region.T2I not in layout.regions:
            raise ValueError("OutputMaps: text does not attend in this model's layers and has no output; read I2TMaps")
        image, text = (joined_outputs(attention, rows) for rows in (layout.image_queries, layout.text_queries))
        maps = similarities(image, text, self.similarity)
        name = f"{self.similarity} similarity of the image token's and the text token's attention output"
        return {"output_map": token_maps(maps, layout, ("batch",), name)}

    def stored_numbers(self, layout: TokenLayout, heads: int) -> int:
        return layout.image * layout.text


def joined_outputs(attention: JointAttention, queries: slice) -> Float[Tensor, "batch queries channels"]:
    """Some queries' attention output, heads side by side, in fp32."""
    return exact(attention.output[:, :, queries].detach()).transpose(1, 2).flatten(2)


def similarities(
    image: Float[Tensor, "batch image channels"], tokens: Float[Tensor, "batch tokens channels"], similarity: Similarity
) -> Float[Tensor, "batch image tokens"]:
    """Cosine or dot product of each image token with each of the tokens."""
    if similarity == "cosine":
        image, tokens = functional.normalize(image, dim=-1), functional.normalize(tokens, dim=-1)
    return torch.matmul(image, tokens.transpose(-1, -2))


def check_similarity(name: str, similarity: str) -> None:
    """`ValueError` if a readout's choice of similarity is unknown."""
    if similarity not in get_args(Similarity):
        raise ValueError(f"{name}: similarity must be 'cosine' or 'dot', got {similarity!r}")
