"""Edits: each changes the output of one layer's attention.

An edit returns what to ADD to the attention output, so that edits compose; it is exact and never needs
the N x N matrix.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from .attention import JointAttention

Padding = Literal["reflect", "symmetric"]
Rows = Literal["conditional", "all"]


class Edit:
    """Base class: override `delta`.

    ``layers`` is a layer number or several; ``rows`` "conditional" leaves the batch rows of the negative
    prompt alone (where it is known which they are), "all" edits every row.
    """

    def __init__(self, layer: int | Collection[int], *, rows: Rows = "conditional") -> None:
        self.layers = frozenset([layer] if isinstance(layer, int) else layer)
        if rows not in ("conditional", "all"):
            raise ValueError(f"{type(self).__name__}: rows must be 'conditional' or 'all', got {rows!r}")
        self.rows: Rows = rows

    def delta(self, attention: JointAttention) -> Tensor:
        """What to add to the output, (batch, heads, tokens, width)."""
        raise TypeError(f"{type(self).__name__}: an edit must override delta")

    def apply(self, attention: JointAttention, output: Tensor) -> Tensor:
        """The edited output."""
        delta = self.delta(attention)
        if self.rows == "conditional" and attention.text is not None:
            delta = delta * torch.from_numpy(attention.text.conditional).to(delta)[:, None, None, None]
        return (output.float() + delta).to(output.dtype)


class BlurText(Edit):
    """Blur the I2T probabilities along the text axis by a Gaussian (Seg4Diff, section 3.4).

    Blurring the rows of P by a matrix G from the right and then multiplying the text values is the same as
    multiplying blurred values, ``(P G) V = P (G V)``, so the change is ``P_I2T (G V - V)``: no map is kept.

    ``padding="reflect"`` is the paper's: it mirrors without repeating the edge, so that the first and the last
    token lose mass and their neighbours gain. ``"symmetric"`` repeats the edge and keeps each query's mass exactly.
    """

    def __init__(
        self,
        layer: int | Collection[int],
        sigma: float = 9.0,
        kernel: int = 5,
        padding: Padding = "reflect",
        *,
        rows: Rows = "conditional",
    ) -> None:
        super().__init__(layer, rows=rows)
        if sigma <= 0:
            raise ValueError(f"BlurText: sigma must be positive, got {sigma}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"BlurText: kernel must be odd and at least 1, got {kernel}")
        if padding not in ("reflect", "symmetric"):
            raise ValueError(f"BlurText: padding must be 'reflect' or 'symmetric', got {padding!r}")
        self.sigma, self.kernel, self.padding = sigma, kernel, padding

    def delta(self, attention: JointAttention) -> Tensor:
        layout = attention.layout
        heads = attention.heads // attention.value.shape[1]
        values = attention.value[:, :, layout.text_slice].float().repeat_interleave(heads, 1)
        blur = torch.from_numpy(blur_matrix(layout.text, self.sigma, self.kernel, self.padding)).to(values)
        change = blur @ values - values
        delta = values.new_zeros(attention.batch, attention.heads, layout.tokens, values.shape[-1])
        for block in attention.text_columns():
            part = block.probs[:, :, layout.image_slice] @ change[block.batch, block.heads]
            delta[block.batch, block.heads, layout.image_slice] = part
        return delta


def blur_matrix(tokens: int, sigma: float, kernel: int, padding: Padding) -> np.ndarray:
    """G (tokens, tokens): ``row @ G`` is the row blurred by a Gaussian of ``kernel`` taps and ``padding``."""
    half = kernel // 2
    if padding == "reflect" and tokens <= half:
        raise ValueError(
            f"BlurText: reflect padding with kernel {kernel} needs more than {half} text tokens, got {tokens}"
        )
    offsets = np.arange(-half, half + 1)
    weights = np.exp(-0.5 * (offsets / sigma) ** 2)
    padded = np.pad(np.arange(tokens), half, mode=padding)
    matrix = np.zeros((tokens, tokens))
    for target in range(tokens):
        np.add.at(matrix[:, target], padded[target : target + kernel], weights / weights.sum())
    return matrix
