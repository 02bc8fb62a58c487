"""CorrCLIP: CLIP's last block attends inside masks only (Zhang et al. 2024, "CorrCLIP: Reconstructing Patch Correlations
in CLIP for Open-Vocabulary Semantic Segmentation").

SAM's masks with similar mean DINO features are merged into regions. A patch attends to the patches of its own region; one
without a region, and those of any region to it, where DINO's cosines are above their mean. The weights are the cosines of
DINO's Q + K. Three branches are added after the final norm: the values of CLIP's last block, those of its lower layers (spatial
branch), and a class token for each region, which attends to that region in all layers (semantic branch). Finally every mask
takes the class of most of its pixels. As released, the lowest mask number counts as "no mask", also if masks cover the image.

Deviations: sentences, background and position embeddings as in `proxyclip`; masks are found as in `sam`, which says how that
differs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.cluster import DBSCAN
from torch import Tensor
from torch.nn import functional

from ..configs.baselines import CorrCLIPConfig
from ..segmentation.class_prompts import checked_classes
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import ImageLike
from ..storage.images import as_rgb
from .dense_clip import (
    DINO_MEAN,
    DINO_STD,
    DenseCLIP,
    Windows,
    class_cosines,
    dino_features,
    name_variants,
    on_grid,
    pixels,
    probabilities,
    windows_of,
)
from .refinement import majority_vote
from .results import result

SPATIAL_LAYERS = {12: 5, 24: 12, 32: 28}
"""Lower layers of the spatial branch by CLIP's number of layers; of others, all but 4."""


def spatial_layers(layers: int) -> slice:
    """The released spatial branch of a CLIP with so many layers: positions in `DenseCLIP.layers`, whose first is no layer's.

    >>> spatial_layers(12)
    slice(6, 11, None)
    """
    return _below_the_last(layers, SPATIAL_LAYERS.get(layers, max(1, layers - 4)))


def _below_the_last(layers: int, count: int) -> slice:
    """The ``count`` layers that end with the one two below the last."""
    if not 0 < count <= layers - 2:
        raise ValueError(
            f"CorrCLIP: the spatial branch needs 1 to {layers - 2} layers of a CLIP with {layers}, got {count}"
        )
    return slice(layers - 1 - count, layers - 1)


def without_lowest(masks: Int[np.ndarray, "height width"]) -> Int[np.ndarray, "height width"]:
    """Mask numbers in which the lowest one, the part in no mask, is -1."""
    return np.where(masks == masks.min(), -1, masks)


def merged_regions(
    features: Float[Tensor, "points width"], masks: Int[Tensor, " points"], eps: float, min_samples: int
) -> Int[Tensor, " points"]:
    """Region number of each point, -1 for the lowest mask number, which stands for no mask.

    Masks are merged if the means of their points' unit features are near in cosine distance.
    """
    numbers = masks.unique()
    regions = torch.where(masks == numbers[0], -1, masks)
    if len(numbers) <= 2:
        return regions
    unit = functional.normalize(features, dim=-1)
    means = functional.normalize(torch.stack([unit[masks == number].mean(0) for number in numbers[1:]]), dim=-1)
    cosine = (means @ means.T).cpu().double()
    clusters = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(
        (cosine.max() - cosine).numpy()
    )
    for place, (number, cluster) in enumerate(zip(numbers[1:], clusters, strict=True)):
        regions[masks == number] = int(cluster) if cluster >= 0 else len(clusters) + place
    return regions


def region_attention(
    features: Float[Tensor, "points width"], regions: Int[Tensor, " points"], sharpness: float
) -> Float[Tensor, "points points"]:
    """Softmax of ``sharpness`` times the cosines, over the points that each point may attend to; rows sum to 1.

    Two points attend to each other if they are in one region, or if at least one of them is in none (-1) and their cosine is
    above the mean of all cosines. Every point attends to itself.
    """
    unit = functional.normalize(features, dim=-1)
    cosine = unit @ unit.T
    free = regions < 0
    alike = (free[:, None] | free[None]) & (cosine > cosine.mean())
    allowed = alike | ((regions[:, None] == regions[None]) & ~free[:, None])
    allowed |= torch.eye(len(regions), dtype=torch.bool, device=regions.device)
    return (sharpness * cosine).masked_fill(~allowed, -torch.inf).softmax(-1)


class CorrCLIP:
    """Labels each pixel with one of the given class names.

    Args:
        clip: a CLIPModel, such as facebook/metaclip-b16-fullcc2.5b.
        processor: its CLIPProcessor.
        dino: a ViTModel, such as facebook/dino-vitb8.
        masks: from an image (height, width, 3) to mask numbers (height, width), -1 for none; `sam.SamMasks`.
        config: the released settings by default.
    """

    def __init__(
        self,
        clip: Any,
        processor: Any,
        dino: Any,
        masks: Callable[[np.ndarray], np.ndarray],
        config: CorrCLIPConfig | None = None,
    ) -> None:
        self.clip, self.dino, self.masks = DenseCLIP(clip, processor), dino, masks
        self.config = config or CorrCLIPConfig()
        layers, count = len(self.clip.vision.encoder.layers), self.config.spatial_layers
        self.spatial = spatial_layers(layers) if count is None else _below_the_last(layers, count)

    def segment(self, image: ImageLike, classes: Sequence[str]) -> Segmentation:
        """Segment one image, (height, width, 3) uint8 RGB or PIL, by class names."""
        image, names = as_rgb(image), checked_classes(classes)
        words, owners = name_variants(names)
        masks = self.masks(image)
        with torch.no_grad():
            cosines = self._cosines(image, masks, self.clip.text(words))
            maps = probabilities(cosines, owners, names, self.config.scale, self.config.background)
        labels = maps.argmax(0).cpu().numpy()
        labels = majority_vote(labels, without_lowest(masks)) if self.config.vote else labels
        return result(image, maps, names, {"method": "corrclip"}, labels)

    def _cosines(self, image: np.ndarray, masks: np.ndarray, text: Tensor) -> Tensor:
        config = self.config
        resized, windows = windows_of(image, config.side, config.crop, config.stride)
        images = windows.cut(pixels(resized, self.clip.mean, self.clip.std, self.clip.model))
        features = dino_features(self.dino, windows.cut(pixels(resized, DINO_MEAN, DINO_STD, self.dino)), "query-key")
        grid = features.shape[1:3]
        points = features.flatten(1, 2)
        regions = self._regions(points, masks, windows, grid)
        parts = [
            self.window(images[number : number + 1], points[number], regions[number], grid)
            for number in range(len(points))
        ]
        return class_cosines(torch.cat(parts), grid, text, windows, image.shape[:2])

    def _regions(self, points: Tensor, masks: np.ndarray, windows: Windows, grid: Sequence[int]) -> list[Tensor]:
        """Region number of each grid point of each window; masks are resized to the image, then the grid, by nearest."""
        whole = torch.from_numpy(masks.astype(np.float64))[None, None]
        cut = windows.cut(functional.interpolate(whole, size=windows.size, mode="nearest")[0, 0])
        flat = functional.interpolate(cut[:, None], size=list(grid), mode="nearest").flatten(1).long().to(points.device)
        return [
            merged_regions(own, each, self.config.eps, self.config.min_samples)
            for own, each in zip(points, flat, strict=True)
        ]

    def window(
        self,
        image: Float[Tensor, "1 3 side side"],
        features: Float[Tensor, "points width"],
        regions: Int[Tensor, " points"],
        grid: Sequence[int],
    ) -> Float[Tensor, "1 points embedding"]:
        """Embeddings of one window's grid points.

        Args:
            image: the window's pixels, as CLIP takes them.
            features: DINO's Q + K at the grid points.
            regions: their region numbers, -1 for none.
            grid: rows and columns of the grid.
        """
        config, clip = self.config, self.clip
        side = image.shape[-1] // clip.patch
        own = functional.interpolate(regions.view(1, 1, *grid).double(), size=(side, side), mode="nearest")
        numbers, member = own.unique(return_inverse=True)
        states, tokens = clip.region_layers(image, functional.one_hot(member.flatten(), len(numbers)).bool().T)

        attention = region_attention(features, regions, config.sharpness)
        lower = torch.stack(states[self.spatial]).mean(0)
        main, spatial = (
            clip.normed(attention.to(values) @ on_grid(values[:, 1:], grid))
            for values in (clip.values(states[-2]), clip.values(lower))
        )
        nearest = functional.interpolate(member.view(1, 1, side, side).double(), size=list(grid), mode="nearest").long()
        semantic = clip.vision.post_layernorm(tokens)[nearest.flatten()]
        total = main + config.spatial_weight * spatial + config.semantic_weight * semantic
        return clip.model.visual_projection(total).float()
