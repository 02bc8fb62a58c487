"""DiffSeg: regions by merging self-attention maps (Tian et al. 2023, "Diffuse, Attend, and Segment: Unsupervised
Zero-Shot Segmentation using Stable Diffusion").

The original reads every self-attention layer of Stable Diffusion 1.4 on an image of 512 x 512 px with an empty prompt: at
each resolution the mean over heads and layers, with keys upsampled to 64 x 64 and queries repeated; resolutions are
weighted by their widths. Here the matrix of 4096 x 4096 is computed a few rows at a time.

Deviations: the image is labeled at its original size, not at 512 x 512 px; the evaluation's ``crop`` chooses between the
center square, as the original, and the whole image stretched; divergences are computed in single precision (in the
original's first iteration, in half).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.joint import JointAttention
from ..configs.baselines import DiffSegConfig
from ..families import Pipeline
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import ImageLike
from ..storage.images import as_rgb
from .anchor_merging import merge_regions
from .attention_rows import Rows, image_rows, mean_rows, normalized
from .results import region_result
from .unet_reader import UNetReader, at_level

LEVELS = 8
"""No U-Net halves its latents more often."""


class DiffSeg:
    """Finds regions by a U-Net's self-attention.

    Args:
        pipe: a Stable Diffusion pipeline, such as CompVis/stable-diffusion-v1-4.
        config: the released settings by default.
    """

    def __init__(self, pipe: Pipeline, config: DiffSegConfig | None = None) -> None:
        self.config = config or DiffSegConfig()
        self.reader = UNetReader(pipe, self.config.side, self.config.timestep, noisy=False)

    def group(self, image: ImageLike) -> Segmentation:
        """Find the regions of one image, (height, width, 3) uint8 RGB or PIL."""
        image, config = as_rgb(image), self.config
        with torch.no_grad():
            latents = self.reader.latents(image)
            found = self.reader.kept(latents, self.reader.encode(""), None).found
            grid = tuple(latents.shape[-2:])
            rows = all_resolutions(found, latents)
            maps = merge_regions(rows, grid, config.threshold, config.iterations, config.anchors)
        return region_result(image, maps, {"method": "diffseg"})


def all_resolutions(found: dict[int, JointAttention], latents: Tensor) -> Rows:
    """Self-attention of all resolutions on the latents' grid, weighted by their widths; each row sums to 1."""
    levels = [layers for level in range(LEVELS) if (layers := at_level(found, latents, level))]
    grids = [layers[0].layout.grid for layers in levels]
    means = [mean_rows([image_rows(layer) for layer in layers]) for layers in levels]
    return tiled(means, grids, tuple(latents.shape[-2:]))


def tiled(sources: Sequence[Rows], grids: Sequence[tuple[int, ...]], grid: tuple[int, ...]) -> Rows:
    """Rows on ``grid`` from rows on coarser ``grids``: keys upsampled bilinearly, queries repeated, weighted by width."""
    weights = [own[1] / sum(each[1] for each in grids) for own in grids]
    queries = [_coarse(own, grid) for own in grids]

    def read(chosen: slice) -> Tensor:
        total = torch.zeros(())
        for rows, own, weight, where in zip(sources, grids, weights, queries, strict=True):
            total = total + weight * _upsampled(_picked(rows, where[chosen]), own, grid)
        return normalized(total)

    return Rows(read, grid[0] * grid[1])


def _coarse(own: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    """For each point of ``grid`` the position of the point of the coarser grid ``own`` that covers it."""
    row, col = (torch.arange(fine) * coarse // fine for fine, coarse in zip(grid, own, strict=True))
    return (row[:, None] * own[1] + col[None]).flatten()


def _picked(rows: Rows, positions: Tensor) -> Tensor:
    """The rows at ascending ``positions``; repeated ones are computed once."""
    low, high = int(positions.min()), int(positions.max())
    return rows[low : high + 1][positions - low]


def _upsampled(rows: Tensor, own: tuple[int, ...], grid: tuple[int, ...]) -> Tensor:
    if own == grid:
        return rows
    maps = functional.interpolate(rows.unflatten(1, own)[None], size=grid, mode="bilinear", align_corners=False)
    return normalized(maps[0].flatten(1))
