"""Grids of image tokens from the tokens' positions; positions that form no grid in order are refused."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..attention.layout import REFERENCE, Extra, Place

_GIVE = "give Probe(layout=TokenLayout((rows, cols), text tokens, order))"


def grid_of_positions(positions: Tensor, what: str = "position ids") -> tuple[int, ...]:
    """Tokens along each axis of a grid, from the positions (tokens, axes) of its tokens.

    Positions along an axis may be scaled or uneven; what counts is how many differ. `ValueError` unless the tokens are the whole
    grid, row after row.
    """
    positions = positions.detach().cpu()
    levels = [axis.unique() for axis in positions.unbind(-1)]  # ascending
    sizes = tuple(map(len, levels))
    shown = " x ".join(map(str, sizes))
    if math.prod(sizes) != len(positions):
        raise ValueError(f"Probe: the {what} span {shown} but there are {len(positions)} image tokens; {_GIVE}")
    if not torch.equal(torch.cartesian_prod(*levels).reshape(positions.shape), positions):
        raise ValueError(
            f"Probe: the {what} are those of {shown} image tokens, but not in order, row after row; call the model with its "
            f"image tokens in order"
        )
    return sizes


def reference_images(shapes: Iterable[tuple[int, ...]], place: Place) -> tuple[Extra, ...]:
    """Reference images of (frames, rows, cols) tokens, one behind the other."""
    return tuple(Extra(REFERENCE, math.prod(shape), place, without_one_frame(shape)) for shape in shapes)


def references_at(positions: Tensor, numbers: Tensor, place: Place) -> tuple[Extra, ...]:
    """Reference images by their tokens' positions (tokens, 3), and the number (tokens,) of the image of each.

    One without a known grid if its positions form none.
    """
    counts = numbers.unique_consecutive(return_counts=True)[1].tolist()
    return tuple(Extra(REFERENCE, len(own), place, _grid_or_none(own)) for own in positions.split(counts) if len(own))


def _grid_or_none(positions: Tensor) -> tuple[int, ...] | None:
    try:
        return without_one_frame(grid_of_positions(positions))
    except ValueError:
        return None


def without_one_frame(grid: tuple[int, ...]) -> tuple[int, ...]:
    """(rows, cols) of a grid (1, rows, cols); others unchanged."""
    return grid[1:] if len(grid) == 3 and grid[0] == 1 else grid
