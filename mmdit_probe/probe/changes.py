"""Other inputs for a transformer: half of its words, or half of its image tokens, are changed; nothing is touched in place."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..attention.layout import TokenLayout

_SIMPLE = (type(None), bool, int, float, str, torch.dtype, torch.device)


class Unprovable(Exception):
    """Why a layout can't be checked, or does not hold."""


class CopiedInputs:
    """The arguments of one forward pass, copied, so that a check run leaves the caller's as they are."""

    def __init__(self, transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.signature = inspect.signature(type(transformer).forward)
        self.bound = self.signature.bind_partial(transformer, *args, **kwargs)
        self.transformer = transformer

    def run(self, name: str = "", value: Any = None) -> None:
        """Run the model on copies of the arguments, with one of them replaced."""
        arguments = {key: _copied(given, key) for key, given in list(self.bound.arguments.items())[1:]}
        if name:
            arguments[name] = value
        bound = inspect.BoundArguments(self.signature, {"self": self.transformer, **arguments})
        self.transformer.forward(*bound.args[1:], **bound.kwargs)

    def cuda_devices(self) -> list[torch.device]:
        """The GPUs of the arguments."""
        given = self.bound.arguments.values()
        return list({value.device for value in given if isinstance(value, Tensor) and value.is_cuda})

    def tensor(self, name: str) -> Tensor:
        """The named argument; `Unprovable` if it is not a tensor of numbers that can be changed a little."""
        value = self.bound.arguments.get(name)
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise Unprovable(f"its argument {name} is no tensor of embeddings or latents")
        return value


def _copied(value: Any, name: str) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, _SIMPLE):
        return value
    if isinstance(value, Mapping):
        return {key: _copied(one, name) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_copied(one, name) for one in value)
    raise Unprovable(f"its argument {name} is a {type(value).__name__}, which a check run might change")


def some_of(count: int) -> Tensor:
    """(count,) bool: about half of the positions, the same for each count; at least one."""
    chosen = torch.rand(count, generator=torch.Generator().manual_seed(count)) < 0.5
    if not chosen.any() or (chosen.all() and count > 1):
        chosen = torch.arange(count) % 2 == 0
    return chosen


def changed(values: Tensor, where: Tensor) -> Tensor:
    """With noise of the values' own size added where ``where``, which broadcasts to ``values``, is True."""
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values)
    size = values.float().square().mean(-1, keepdim=True).sqrt()
    size = torch.where(size > 0, size, 1).to(values)
    return torch.where(where.to(values.device), values + size * noise, values)


def changed_words(text: Tensor, chosen: Tensor) -> Tensor:
    """Text embeddings (batch, tokens, width) with the chosen of the first or only tokens changed."""
    if text.ndim != 3 or text.shape[1] != len(chosen):
        raise Unprovable(
            f"its text embeddings have the shape {tuple(text.shape)}, the layout {len(chosen)} text tokens"
        )
    return changed(text, chosen[None, :, None])


def changed_images(latents: Tensor, layout: TokenLayout, chosen: Tensor) -> Iterator[Tensor]:
    """Latents with the chosen image tokens changed, for each way in which their axes may hold the layout's grid.

    Packed (batch, tokens, width), or (batch, channels, [frames,] rows, cols), (batch, frames, channels, rows, cols) or with the
    channels last.
    """
    if latents.ndim == 3 and latents.shape[1] >= layout.image:
        where = torch.zeros(latents.shape[1], dtype=torch.bool)
        where[: layout.image] = chosen
        yield changed(latents, where[None, :, None])
    axes = len(layout.grid)
    places = {2: ((2, 3), (1, 2)), 3: ((2, 3, 4), (1, 3, 4), (1, 2, 3))}[axes]
    for place in places if latents.ndim == axes + 2 else ():
        if all(latents.shape[axis] % size == 0 for axis, size in zip(place, layout.grid, strict=True)):
            yield changed(latents, _spread(chosen.reshape(layout.grid), latents, place))


def _spread(chosen: Tensor, latents: Tensor, place: tuple[int, ...]) -> Tensor:
    """(grid) as a mask over the latents: each token is its patch, all channels."""
    for axis, at in enumerate(place):
        chosen = chosen.repeat_interleave(latents.shape[at] // chosen.shape[axis], axis)
    shape = [latents.shape[axis] if axis in place else 1 for axis in range(latents.ndim)]
    return chosen.reshape(shape)
