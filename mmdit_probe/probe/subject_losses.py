"""Losses on where the image looks at the subjects of a prompt: apart from each other (FOCUS), or anywhere (Attend-and-Excite)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

_SMALLEST = 1e-30
"""Keeps logarithms and their gradients finite."""


@dataclass(frozen=True, eq=False)
class SubjectMaps:
    """Where one image's queries look, as differentiable probabilities in [0, 1], mean over layers and heads.

    Attributes:
        subjects: of each subject, (its tokens, rows, cols); (its tokens, frames, rows, cols) for video.
        prompt: (rows, cols) on all words of the prompt together.
    """

    subjects: Sequence[Float[Tensor, "tokens ..."]]
    prompt: Float[Tensor, " *grid"]


SubjectLoss = Callable[[SubjectMaps], Tensor]
"""From the maps of one image to a scalar that is to fall."""
LossName = Literal["apart", "excite"]


def apart(maps: SubjectMaps) -> Tensor:
    """FOCUS (arXiv 2510.02315): tokens of one subject look alike, subjects do not; in [0, 1].

    Each token's map is averaged over 3 x 3 positions, cubed and scaled to sum to 1. Half of the loss is the Jensen-Shannon
    divergence within a subject, mean over subjects; the other half is 1 less that between the subjects' mean maps. Divergences
    are divided by the logarithm of their number of maps. `ValueError` for fewer than two subjects.
    """
    if len(maps.subjects) < 2:
        raise ValueError(f"AttentionLoss: apart needs at least two subjects, got {len(maps.subjects)}")
    density = [_density(_smooth(tokens)) for tokens in maps.subjects]
    within = torch.stack([divergence(tokens) for tokens in density]).mean()
    between = divergence(torch.stack([tokens.mean(0) for tokens in density]))
    return (within + 1 - between) / 2


def excite(maps: SubjectMaps) -> Tensor:
    """Attend-and-Excite (arXiv 2301.13826): 1 less the largest value of the subject that is looked at least; in [0, 1].

    A subject's map is the mean over its tokens of their share of all words of the prompt, averaged over 3 x 3 positions.
    """
    shares = [(tokens / maps.prompt.clamp(min=_SMALLEST)).mean(0, keepdim=True) for tokens in maps.subjects]
    return 1 - torch.stack([_smooth(share).max() for share in shares]).min()


LOSSES: dict[str, SubjectLoss] = {"apart": apart, "excite": excite}


def divergence(density: Float[Tensor, "maps positions"]) -> Tensor:
    """The Jensen-Shannon divergence of maps that sum to 1, divided by log(maps): 0 if they are alike, 1 if disjoint."""
    if len(density) == 1:
        return density.sum() * 0
    return (_entropy(density.mean(0)) - _entropy(density).mean()) / math.log(len(density))


def _entropy(density: Tensor) -> Tensor:
    return -(density * density.clamp(min=_SMALLEST).log()).sum(-1)


def _density(tokens: Float[Tensor, "tokens ..."]) -> Float[Tensor, "tokens positions"]:
    """Maps cubed and scaled to sum to 1."""
    flat = tokens.flatten(1)
    cubed = (flat / flat.amax(1, keepdim=True).clamp(min=_SMALLEST)) ** 3
    return cubed / cubed.sum(1, keepdim=True).clamp(min=_SMALLEST)


def _smooth(tokens: Float[Tensor, "tokens ..."]) -> Float[Tensor, "tokens ..."]:
    """Averaged over 3 x 3 positions of each frame, at the edges over those that there are."""
    frames = tokens.reshape(-1, 1, *tokens.shape[-2:])
    return functional.avg_pool2d(frames, 3, 1, 1, count_include_pad=False).reshape(tokens.shape)
