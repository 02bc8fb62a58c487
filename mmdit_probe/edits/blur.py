"""Blurring the I2T attention: along the text, or over the image grid."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..attention.edges import EdgeLayout
from ..attention.layout import TokenStream
from ..configs.edits import Padding
from .base import AttentionBlock, Edit

_PADDINGS = ("reflect", "symmetric")


class BlurText(Edit):
    """Blur the I2T probabilities along the text axis by a Gaussian (Seg4Diff, section 3.4).

    The blur is a matrix G on the text axis, and ``(P G) V = P (G V)``: blurring the text values is the same, and no map
    is kept. Where the model masks text keys, such as padding, the axis is what is left, so that they get nothing.

    Args:
        layer: a layer number or several.
        sigma: standard deviation of the Gaussian, in tokens.
        kernel: number of taps, odd.
        padding: "reflect", the paper's, mirrors without repeating the edge, so that the first and last tokens lose mass
            to their neighbors; "symmetric" repeats the edge and keeps each query's mass exactly.
        where: heads, steps, words, kinds, edge (I2T, T2T or R2T) and batch, see `Edit`. With ``words`` or ``kinds`` only
            those tokens get their blurred probabilities.

    >>> from mmdit_probe import BlurText, Probe, load_pipeline
    >>> pipe = load_pipeline("tiny-sd3")
    >>> with Probe(pipe, [], edits=[BlurText(7)]):
    ...     blurred = pipe("a red circle on grass", num_inference_steps=1, output_type="np").images[0]
    >>> blurred.shape
    (64, 64, 3)
    """

    def __init__(
        self,
        layer: int | Collection[int],
        sigma: float = 9.0,
        kernel: int = 5,
        padding: Padding = "reflect",
        **where: Any,
    ) -> None:
        super().__init__(layer, **where)
        _check(self, sigma, kernel, padding)
        if self.edge.answering != TokenStream.TEXT:
            raise ValueError(
                f"BlurText: edge must be I2T, T2T or R2T, whose keys are text, got {self.edge}; see BlurGrid"
            )
        self.sigma, self.kernel, self.padding = sigma, kernel, padding

    def change(self, block: AttentionBlock) -> AttentionBlock:
        chosen, probs = self.chosen_tokens(block), block.image_probs
        values = chosen.movedim(-1, -2) * block.values
        blur = self._matrices(block).to(values)
        output = block.image_output + probs @ (blur @ values - values)
        return block.with_image_probs(torch.where(chosen > 0, probs @ blur, probs), output)

    def _matrices(self, block: AttentionBlock) -> Tensor:
        """G on the text axis: (text, text), or, where keys are masked, (batch, 1, text, text) on what each row sees."""
        seen = block.attention.seen_keys[block.batch, block.layout.text_keys].cpu().numpy()
        if seen.all():
            return torch.from_numpy(blur_matrix(block.layout.text, self.sigma, self.kernel, self.padding))
        rows = [masked_blur_matrix(row, self.sigma, self.kernel, self.padding) for row in seen]
        return torch.from_numpy(np.stack(rows)[:, None])


class BlurGrid(Edit):
    """Blur each text token's I2T map over the image grid by a Gaussian, as smoothed energy guidance does with I2I.

    With S the blur over image queries, the output becomes ``out + (S - I) (P_I2T V_text)``. ``sigma`` is in image
    tokens; ``kernel`` None takes 3 sigma to each side. Symmetric padding keeps each text token's total mass exactly. Any
    ``edge`` from the image (I2I, I2R), or from a reference over its own grid (R2I, R2T, R2R), can be blurred the same way.
    """

    def __init__(
        self,
        layer: int | Collection[int],
        sigma: float = 3.0,
        kernel: int | None = None,
        padding: Padding = "symmetric",
        **where: Any,
    ) -> None:
        super().__init__(layer, **where)
        kernel = 2 * int(np.ceil(3 * sigma)) + 1 if kernel is None else kernel
        _check(self, sigma, kernel, padding)
        if self.edge.asking == TokenStream.TEXT:
            raise ValueError(f"BlurGrid: text queries have no grid, got edge {self.edge}; take one from I or R")
        self.sigma, self.kernel, self.padding = sigma, kernel, padding

    def change(self, block: AttentionBlock) -> AttentionBlock:
        if isinstance(block.layout, EdgeLayout) and not block.layout.on_grid:
            raise ValueError(
                "BlurGrid: several references have no common grid, or the grid is not known; edit one whose grid is "
                "known, with references=[number]"
            )
        chosen, probs = self.chosen_tokens(block), block.image_probs
        from_text = (probs * chosen) @ block.values
        output = block.image_output + self._blurred(from_text, block.layout.grid) - from_text
        return block.with_image_probs(torch.where(chosen > 0, self._blurred(probs, block.layout.grid), probs), output)

    def _blurred(self, values: Tensor, grid: tuple[int, ...]) -> Tensor:
        """(batch, heads, image, ...) values blurred over the rows and columns of the grid, frame by frame."""
        blurred = values.unflatten(2, grid)
        first = blurred.dim() - 3
        for axis, size in zip((first, first + 1), grid[-2:], strict=True):
            blur = torch.from_numpy(blur_matrix(size, self.sigma, self.kernel, self.padding).T).to(blurred)
            blurred = torch.tensordot(blurred, blur, dims=([axis], [1])).movedim(-1, axis)
        return blurred.flatten(2, -2)


def _check(edit: Edit, sigma: float, kernel: int, padding: str) -> None:
    name = type(edit).__name__
    if not sigma > 0:
        raise ValueError(f"{name}: sigma must be positive, got {sigma}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"{name}: kernel must be odd and at least 1, got {kernel}")
    if padding not in _PADDINGS:
        raise ValueError(f"{name}: padding must be 'reflect' or 'symmetric', got {padding!r}")


def blur_matrix(size: int, sigma: float, kernel: int, padding: Padding) -> np.ndarray:
    """G (size, size): ``row @ G`` is the row blurred by a Gaussian with ``kernel`` taps and this ``padding``."""
    half = kernel // 2
    if padding == "reflect" and size <= half:
        raise ValueError(f"blur: reflect padding with kernel {kernel} needs more than {half} positions, got {size}")
    return _matrix(size, sigma, kernel, padding)


def masked_blur_matrix(seen: np.ndarray, sigma: float, kernel: int, padding: Padding) -> np.ndarray:
    """G (size, size) on the positions that are ``seen`` (size,), as if there were no others; 0 at all others.

    Fewer than the kernel reaches over are mirrored as often as it takes.
    """
    places = np.flatnonzero(seen)
    matrix = np.zeros((len(seen), len(seen)))
    if len(places):
        matrix[np.ix_(places, places)] = _matrix(len(places), sigma, kernel, padding)
    return matrix


def _matrix(size: int, sigma: float, kernel: int, padding: Padding) -> np.ndarray:
    half = kernel // 2
    weights = np.exp(-0.5 * (np.arange(-half, half + 1) / sigma) ** 2)
    padded = np.pad(np.arange(size), half, mode=padding)
    matrix = np.zeros((size, size))
    for target in range(size):
        np.add.at(matrix[:, target], padded[target : target + kernel], weights / weights.sum())
    return matrix
