"""What is trained of an embedded model: a transformer together with its text encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Denoiser(nn.Module, ABC):
    """A transformer and its text encoders, trained jointly."""

    transformer: nn.Module

    @abstractmethod
    def parts(self) -> dict[str, tuple[Any, nn.Module]]:
        """By the name of its folder in a pipeline's, each part's class and the part itself."""

    @abstractmethod
    def forward(self, noisy: Tensor, sigma: Tensor, ids: Tensor, keep_pooled: Tensor, absent: Tensor) -> Tensor:
        """The predicted velocity, of the shape of ``noisy`` (batch, channels, rows, columns).

        Args:
            noisy: noisy latents.
            sigma: (batch,) noise levels in [0, 1].
            ids: (encoders, batch, length) token ids.
            keep_pooled: (batch,) 1 where the pooled text vector is seen, else 0.
            absent: (batch,) number of all-zero T5 positions, for a pipeline that appends them.
        """

    def load(self, folder: Path) -> None:
        """Take the weights of a pipeline folder of the same classes and sizes."""
        for name, (kind, part) in self.parts().items():
            part.load_state_dict(kind.from_pretrained(folder / name, torch_dtype=torch.float32).state_dict())


def token_ids(captions: np.ndarray, tokenizers: Sequence[Any]) -> Tensor:
    """Token ids (tokenizers, n, variants, length) of captions (n, variants)."""
    unique, inverse = np.unique(captions, return_inverse=True)
    tables = [
        torch.tensor(t(list(unique), padding="max_length", truncation=True).input_ids, dtype=torch.int16)
        for t in tokenizers
    ]
    return torch.stack([table[torch.from_numpy(inverse.reshape(captions.shape))] for table in tables])
