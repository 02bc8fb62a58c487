"""GroupKeys: a stream's keys closer together or further apart."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from ..attention.joint import JointAttention
from ..attention.kernels import exact
from .base import Edit


class GroupKeys(Edit):
    """Scale the mean of a stream's keys, and what each key differs from it: ``k <- base mean(k) + delta (k - mean(k))``.

    GRAG (arXiv 2510.24657): for a reference image, ``delta`` of 0.8 to 2 is a slider for how much it binds. Keys are those
    after norms and rotary embeddings; the mean is over those that the model does not mask. 1 and 1 change nothing.

    Args:
        layer: a layer number or several; None for every layer.
        stream: "image", "text", or extra tokens by name, such as "reference"; together, if there are several of the name.
        base: factor of the mean.
        delta: factor of the differences.
        where: heads, steps and batch, see `Edit`.

    Raises:
        ValueError: the model has no such keys.
    """

    def __init__(
        self,
        layer: int | Collection[int] | None,
        stream: str = "image",
        base: float = 1.0,
        delta: float = 1.0,
        **where: Any,
    ) -> None:
        super().__init__(layer, **where)
        if not (abs(base) < float("inf") and abs(delta) < float("inf")):
            raise ValueError(f"GroupKeys: base and delta must be finite numbers, got {base} and {delta}")
        if self.words or self.kinds:
            raise ValueError(
                "GroupKeys: a whole stream's keys are changed, not those of words or kinds; leave them out"
            )
        self.stream, self.base, self.delta = stream, base, delta

    @property
    def is_identity(self) -> bool:
        return self.base == 1 and self.delta == 1

    def before(self, call: JointAttention) -> JointAttention:
        places = [keys for keys in call.layout.keys_named(self.stream) if keys.stop > keys.start]
        if not places:
            named = sorted({"image", "text", *(extra.name for extra in call.layout.extras)})
            raise ValueError(
                f"GroupKeys: there are no {self.stream} keys in this layer; give one of {', '.join(named)}"
            )
        key = call.key.clone()
        seen = call.seen_keys[:, None, :, None].to(exact(key[:0]))
        count = torch.stack([seen[:, :, keys].sum(2, keepdim=True) for keys in places]).sum(0)
        sums = [(seen[:, :, keys] * exact(key[:, :, keys])).sum(2, keepdim=True) for keys in places]
        mean = torch.stack(sums).sum(0) / count.clamp(min=1)
        for keys in places:
            key[:, :, keys] = (self.base * mean + self.delta * (exact(key[:, :, keys]) - mean)).to(key.dtype)
        return call.changed(key=key)
