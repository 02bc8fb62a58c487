"""A small random model of every family, and inputs for it: two samples, a grid that is not square."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

BATCH, TEXT, ROWS, COLS, FRAMES = 2, 5, 3, 4, 2


def randn(*shape: int) -> torch.Tensor:
    """From torch's own stream, which every test starts anew."""
    return torch.randn(*shape)


@dataclass(frozen=True)
class Case:
    """One family's model.

    ``words`` and ``pixels`` change, in a copy of the inputs, one text position and one patch; ``word`` and
    ``patch`` say which key and which grid position must then change in layer 0, alone. ``still`` takes out of a model
    what mixes positions before layer 0, such as refiners; ``mixed`` says that normalization mixes the image even so.
    ``recorded`` are the layers of one size, if there are several.
    ``references`` are the grids of the reference images, or their numbers of tokens where the grid is not known.
    """

    name: str
    make: Callable[[], Any]
    inputs: Callable[[], dict[str, Any]]
    words: Callable[[dict[str, Any]], None]
    pixels: Callable[[dict[str, Any]], None]
    grid: tuple[int, ...] = (ROWS, COLS)
    patch: tuple[int, ...] = (2, 1)
    text: int = TEXT
    word: int = 3
    layers: int = 2
    extra: int = 0
    references: tuple[tuple[int, ...] | int, ...] = ()
    still: Callable[[Any], None] = lambda model: None
    mixed: bool = False
    sigma: float = 0.25
    batch: int = BATCH
    recorded: tuple[int, ...] | None = None

    def model(self) -> Any:
        """The model with every weight random, also those that start at zero."""
        torch.manual_seed(0)
        model = self.make().eval().requires_grad_(False)
        generator = torch.Generator().manual_seed(0)
        for weight in model.parameters():
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        return model


def zero(pattern: str) -> Callable[[Any], None]:
    """Set the weights whose names match to zero."""

    def still(model: Any) -> None:
        for name, weight in model.named_parameters():
            if re.search(pattern, name):
                weight.zero_()

    return still


def change_word(name: str = "encoder_hidden_states", word: int = 3) -> Callable[[dict[str, Any]], None]:
    def change(inputs: dict[str, Any]) -> None:
        inputs[name][:, word] += 1 + randn(*inputs[name][:, word].shape)

    return change


def change_packed(token: int = 2 * COLS + 1) -> Callable[[dict[str, Any]], None]:
    def change(inputs: dict[str, Any]) -> None:
        inputs["hidden_states"][:, token] += 1 + randn(*inputs["hidden_states"][:, token].shape)

    return change


def change_pixel(*where: int, name: str = "hidden_states") -> Callable[[dict[str, Any]], None]:
    """Change one latent pixel, all channels, of (batch, channels, [frames,] rows, cols)."""

    def change(inputs: dict[str, Any]) -> None:
        inputs[name][(slice(None), slice(None), *where)] += 2

    return change


def position_ids(rows: int, cols: int, first: int = 0, width: int = 3) -> torch.Tensor:
    ids = torch.zeros(rows, cols, width)
    ids[..., 0] = first
    ids[..., 1] += torch.arange(rows)[:, None]
    ids[..., 2] += torch.arange(cols)[None]
    return ids.flatten(0, 1)
