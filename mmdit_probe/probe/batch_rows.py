"""Batch rows of a transformer's call: its arguments with some of them, to run the model on these alone or once more."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


def by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """A forward call's arguments by name, as they can be given again."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    return {**dict(zip(names, args, strict=False)), **kwargs}


def stacked(samples: Tensor | list[Tensor]) -> Tensor:
    """(batch, ...) from a tensor or a list of samples."""
    return torch.stack(samples) if isinstance(samples, list) else samples


def alike(one: Any, other: Any) -> bool:
    """Whether two batches begin with the same values; one may hold the other several times."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        if one.dim() == 0 or other.dim() == 0:
            return torch.equal(one.reshape(-1)[:1], other.reshape(-1)[:1])
        fewest = min(len(one), len(other))
        return torch.equal(one[:fewest], other[:fewest])
    if isinstance(one, list) and isinstance(other, list):
        return all(alike(a, b) for a, b in zip(one, other, strict=False))
    return bool(one == other)


def with_rows(given: Mapping[str, Any], batch: int, rows: list[int]) -> dict[str, Any]:
    """The arguments with these batch rows; those without a batch axis stay as they are."""

    def chosen(name: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return with_rows(value, batch, rows)
        if isinstance(value, Tensor):
            positions = name.endswith("_ids") and value.dim() < 3
            return value if value.dim() == 0 or len(value) != batch or positions else value[rows]
        if isinstance(value, list) and name.endswith("_layers"):  # one for each layer
            return [chosen("layer", one) for one in value]
        by_row = isinstance(value, list) and len(value) == batch
        return [value[row] for row in rows] if by_row else value

    return {name: chosen(name, value) for name, value in given.items()}
