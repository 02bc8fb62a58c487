"""Min-max scaling."""

from __future__ import annotations

import torch
from torch import Tensor


def min_max(values: Tensor, dim: int | tuple[int, ...] = ()) -> Tensor:
    """``(x - min) / (max - min)`` over the axes ``dim``, all by default: in [0, 1], and 0 where all values are equal.

    >>> import torch
    >>> min_max(torch.tensor([[2.0, 4.0, 3.0], [7.0, 7.0, 7.0]]), dim=-1)
    tensor([[0.0000, 1.0000, 0.5000],
            [0.0000, 0.0000, 0.0000]])
    """
    low, high = values.amin(dim, keepdim=True), values.amax(dim, keepdim=True)
    return (values - low) / (high - low).clamp(min=torch.finfo(values.dtype).tiny)
