"""Which images and which noise each training step takes: a function of the seed and the position alone.

A killed run therefore continues exactly, and several processes together see what one process would see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from .examples import Example, MaskedImage, TrainingSet


def positions_of(step: int, micro: int, batch: int, accumulate: int, process: int, processes: int) -> range:
    """Positions in the order of training that one process takes in forward pass ``micro`` of a step."""
    start = (step * accumulate + micro) * processes + process
    return range(start * batch, (start + 1) * batch)


class Order:
    """The order of training: epochs of shuffled image numbers, one after another."""

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed
        self._epoch = lru_cache(2)(self._shuffled)

    def _shuffled(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self.seed, epoch]).permutation(self.count)

    def __getitem__(self, position: int) -> int:
        """The number of the image at a position."""
        epoch, place = divmod(position, self.count)
        return int(self._epoch(epoch)[place])


def noise_at(
    position: int, shape: Sequence[int], seed: int, mean: float, std: float, shift: float
) -> tuple[Tensor, float]:
    """Gaussian noise of ``shape`` and a noise level sigma in (0, 1) for one position in the order of training.

    ``u = sigmoid(mean + std n)`` is logit-normal; ``sigma = shift u / (1 + (shift - 1) u)``, the scheduler's shift.
    """
    state = np.random.SeedSequence([seed, position]).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(state >> np.uint64(1)))
    level = torch.sigmoid(mean + std * torch.randn((), generator=generator)).item()
    return torch.randn(tuple(shape), generator=generator), shift * level / (1 + (shift - 1) * level)


class _Images(Dataset[Example]):
    def __init__(self, data: TrainingSet, order: Order, prepare: Callable[[MaskedImage], Example], chosen: list[int]):
        self.data, self.order, self.prepare, self.chosen = data, order, prepare, chosen

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> Example:
        return self.prepare(self.data.read(self.order[self.chosen[number]]))


def examples(
    data: TrainingSet,
    seed: int,
    prepare: Callable[[MaskedImage], Example],
    chosen: Sequence[range],
    workers: int = 0,
) -> Iterator[list[Example]]:
    """For each range of positions its examples, read ahead by ``workers`` processes."""
    if not chosen:
        return iter(())
    flat = [position for positions in chosen for position in positions]
    images = _Images(data, Order(data.count, seed), prepare, flat)
    return iter(DataLoader(images, batch_size=len(chosen[0]), num_workers=workers, collate_fn=list))
