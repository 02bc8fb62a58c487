"""Named fields: tensors with named axes, what they measure, and in which units."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..attention.layout import TokenLayout
from ..attention.reductions import Heads


@dataclass(frozen=True)
class Axis:
    """An axis whose positions have labels of their own, such as the four regions.

    ``long_name`` says what the axis is.
    """

    name: str
    labels: tuple[str, ...]
    long_name: str


@dataclass(frozen=True)
class Field:
    """A tensor with named axes; the first axis is ``batch``.

    Attributes:
        dims: the axes' names, one for each axis of ``values``.
        values: the numbers.
        long_name: what they measure, in words; the record's ``long_name``.
        units: "1" for probabilities, shares and other pure numbers, "nat" for entropies.
        axes: the axes whose positions have labels.
    """

    dims: tuple[str, ...]
    values: Tensor
    long_name: str = ""
    units: str = "1"
    axes: tuple[Axis, ...] = ()


Fields = dict[str, Field]


def leading_dims(heads: Heads) -> tuple[str, ...]:
    """The axes in front of a map's own: ``batch``, and ``head`` if each head has its own map."""
    return ("batch",) if heads == "mean" else ("batch", "head")


def check_heads(name: str, heads: str) -> None:
    """`ValueError` if a readout's choice of heads is unknown."""
    if heads not in ("mean", "all"):
        raise ValueError(f"{name}: heads must be 'mean' or 'all', got {heads!r}")


def token_maps(maps: Tensor, layout: TokenLayout, leading: tuple[str, ...], long_name: str) -> Field:
    """Maps (..., image, text) as a field (..., row, col, token)."""
    return Field((*leading, *layout.grid_dims, "token"), maps.unflatten(-2, layout.grid), long_name)
