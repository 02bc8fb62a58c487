"""How attention is usually read, written as well as it can be, to compare with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from .models import TEXT


class Materialize(TorchFunctionMode):
    """The full softmax of all heads, then the text columns of it."""

    def __init__(self) -> None:
        super().__init__()
        self.maps: list[Tensor] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is not functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        return self.attend(*args[:3])

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        probs = (query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
        self.maps.append(probs[:, :, :-TEXT, -TEXT:].mean(1))
        return probs @ value


class Chunked(Materialize):
    """Explicit softmax of 256 rows at a time, keeping the text columns."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output, maps = torch.empty_like(query), []
        for start in range(0, query.shape[2], 256):
            rows = slice(start, start + 256)
            probs = (query[:, :, rows] @ key.transpose(-1, -2) * query.shape[-1] ** -0.5).softmax(-1)
            output[:, :, rows] = probs @ value
            maps.append(probs[..., -TEXT:].mean(1))
        self.maps.append(torch.cat(maps, 1)[:, :-TEXT])
        return output
