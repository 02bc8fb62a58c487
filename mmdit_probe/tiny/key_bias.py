"""A bias on the attention scores of chosen keys, while tiny-sd3 is trained."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode


class KeyBias(TorchFunctionMode):
    """While active, add ``bias`` (batch, 1, 1, keys) to the scores of every attention call."""

    def __init__(self, bias: Tensor) -> None:
        super().__init__()
        self.bias = bias

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.scaled_dot_product_attention:
            query, key = args[:2]
            kwargs = {**kwargs, "attn_mask": self.bias.expand(*query.shape[:3], key.shape[2])}
        return func(*args, **kwargs)
