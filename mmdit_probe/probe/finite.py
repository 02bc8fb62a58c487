"""FiniteWatch: finds the first layer whose attention is not finite."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..attention.joint import JointAttention


class _Seen(NamedTuple):
    layer: int
    step: int
    dtype: torch.dtype
    scores: Tensor
    both: Tensor


class FiniteWatch:
    """Records, without synchronizing the GPU, whether each call's scores and values are finite; `check` synchronizes."""

    def __init__(self) -> None:
        self._seen: list[_Seen] = []

    def note(self, attention: JointAttention) -> None:
        """Record one call."""
        scores, values = attention.lse.isfinite().all(), attention.value.detach().sum(dtype=torch.float32).isfinite()
        self._seen.append(_Seen(attention.layer, attention.step, attention.query.dtype, scores, scores & values))

    def check(self) -> None:
        """`ValueError` if the last call was not finite, naming the layer and step of the first that was not."""
        if bool(self._seen[-1].both):
            return
        first = next(known for known in self._seen if not known.both)
        half = first.dtype == torch.float16
        advice = "run the model in bf16 or fp32" if half else "look at the latents and the weights that it was given"
        raise ValueError(
            f"Probe: layer {first.layer} has {'values' if first.scores else 'attention scores'} that are not finite at "
            f"step {first.step} ({first.dtype}), the first of the recorded layers to do so; {advice}"
        )
