"""CorrCLIP: CLIP's last block attends inside masks only (Zhang et al. 2024, "CorrCLIP: Reconstructing Patch Correlations
in CLIP for Open-Vocabulary Semantic Segmentation").

SAM's masks with similar mean DINO features are merged into regions. A patch attends only to the patches of its own region,
by the cosines of DINO's Q + K. The values come from CLIP's last block, its lower layers (spatial branch) and each region's
own class token (semantic branch). Finally every mask takes the class of most of its pixels.

Deviations: sentences and background as in `proxyclip`; lower layers enter the last block's value projection unchanged; a
region's class token is the last block's class token attending to that region only; masks are found once on the whole image;
of overlapping masks the smallest one counts, in the regions and in the vote.
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


def merged_regions(
    features: Float[Tensor, "points width"], masks: Int[Tensor, " points"], eps: float, min_samples: int
) -> Int[Tensor, " points"]:
    """Region number of each point: masks whose mean features are near in cosine distance are merged; -1 stays -1."""
    numbers = [int(number) for number in masks.unique() if number >= 0]
    if not numbers:
        return masks
    means = torch.stack([features[masks == number].mean(0) for number in numbers])
    found = DBSCAN(eps=eps, min_samples=min_samples, metric="cosine").fit_predict(means.cpu().double().numpy())
    regions = torch.full_like(masks, -1)
    for place, (number, region) in enumerate(zip(numbers, found, strict=True)):
        regions[masks == number] = int(region) if region >= 0 else len(found) + place
    return regions


def region_attention(
    features: Float[Tensor, "points width"], regions: Int[Tensor, " points"], sharpness: float
) -> Float[Tensor, "points points"]:
    """Softmax of ``sharpness`` times the cosines inside each region; rows sum to 1.

    A point without a region (-1) attends to the points whose cosine is above its mean; every point attends to itself.
    """
    unit = functional.normalize(features, dim=-1)
    cosine = unit @ unit.T
    free = (regions < 0)[:, None]
    allowed = torch.where(free, cosine > cosine.mean(1, keepdim=True), regions[:, None] == regions[None])
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

    def segment(self, image: ImageLike, classes: Sequence[str]) -> Segmentation:
        """Segment one image, (height, width, 3) uint8 RGB or PIL, by class names."""
        image, names = as_rgb(image), checked_classes(classes)
        words, owners = name_variants(names)
        masks = self.masks(image)
        with torch.no_grad():
            cosines = self._cosines(image, masks, self.clip.text(words))
            maps = probabilities(cosines, owners, names, self.config.scale, self.config.background)
        labels = maps.argmax(0).cpu().numpy()
        labels = majority_vote(labels, masks) if self.config.vote else labels
        return result(image, maps, names, {"method": "corrclip"}, labels)

    def _cosines(self, image: np.ndarray, masks: np.ndarray, text: Tensor) -> Tensor:
        config = self.config
        resized, windows = windows_of(image, config.side, config.crop, config.stride)
        states = self.clip.layers(windows.cut(pixels(resized, self.clip.mean, self.clip.std, self.clip.model)))
        features = dino_features(self.dino, windows.cut(pixels(resized, DINO_MEAN, DINO_STD, self.dino)), "query-key")
        grid = features.shape[1:3]
        points = features.flatten(1, 2)
        regions = self._regions(points, masks, windows, grid)
        parts = [
            self._window([layer[number : number + 1] for layer in states], points[number], regions[number], grid)
            for number in range(len(points))
        ]
        return class_cosines(torch.cat(parts), grid, text, windows, image.shape[:2])

    def _regions(self, points: Tensor, masks: np.ndarray, windows: Windows, grid: Sequence[int]) -> list[Tensor]:
        """Region number of each grid point of each window, by the mask at the point's center; masks are merged window by window."""
        whole = torch.from_numpy(masks.astype(np.float64))[None, None]
        fitted = functional.interpolate(whole, size=windows.size, mode="nearest-exact")[0, 0]
        cut = functional.interpolate(windows.cut(fitted)[:, None], size=list(grid), mode="nearest-exact")[:, 0]
        flat = cut.flatten(1).long().to(points.device)
        return [
            merged_regions(own, each, self.config.eps, self.config.min_samples)
            for own, each in zip(points, flat, strict=True)
        ]

    def _window(self, states: list[Tensor], points: Tensor, regions: Tensor, grid: Sequence[int]) -> Tensor:
        """(1, points, width) unit embeddings of one window."""
        config, clip = self.config, self.clip
        lower = torch.stack(states[1:-2][-config.spatial_layers :] or [states[0]]).mean(0)
        values = clip.values(states[-2]) + config.spatial_weight * clip.values(lower)
        attention = region_attention(points, regions, config.sharpness)
        mixed = attention.to(values) @ on_grid(values[:, 1:], grid)
        tokens = self._class_tokens(states[-2], regions, grid)
        return functional.normalize(clip.embedded(mixed) + config.semantic_weight * tokens, dim=-1)

    def _class_tokens(self, states: Tensor, regions: Tensor, grid: Sequence[int]) -> Tensor:
        """(1, points, width): unit embedding of the class token attending to each point's region, 0 for points without one."""
        block, clip = self.clip.last, self.clip
        normed = block.layer_norm1(states)
        query = block.self_attn.q_proj(normed[:, :1]) * block.self_attn.head_dim**-0.5
        keys, values = (on_grid(part[:, 1:], grid)[0] for part in (block.self_attn.k_proj(normed), clip.values(states)))
        heads = block.self_attn.num_heads
        split = [part.unflatten(-1, (heads, -1)).transpose(0, 1) for part in (query[0], keys, values)]
        scores = (split[0] @ split[1].transpose(1, 2))[:, 0]  # (heads, points)
        found = clip.embedded(states[:, :1]).new_zeros(1, len(regions), clip.model.config.projection_dim)
        for number in regions.unique():
            if number < 0:
                continue
            inside = regions == number
            weights = scores.masked_fill(~inside, -torch.inf).softmax(-1)
            token = (weights[:, None] @ split[2]).flatten()[None, None]
            found[:, inside] = clip.embedded(token)
        return found
