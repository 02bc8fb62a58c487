"""ProxyCLIP: CLIP's last block attends by the similarity of DINO's features (Lan et al. 2024, "ProxyCLIP: Proxy Attention Improves
CLIP for Open-Vocabulary Segmentation").

In the last block of CLIP's image encoder the attention is replaced by the cosines S of DINO's patch features:
the softmax of ``(S - shift mean(S)) sharpness``, negative values left out; residual and MLP are dropped. Pixels take the
class whose text embedding is nearest.

Deviations: the sentences around class names are this toolkit's own (`dense_clip.TEMPLATES`), not ImageNet's 80; background
is one class with a threshold, without extra words for it; position embeddings are interpolated to a window's exact size,
without the original's offset of 0.1 points.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..configs.baselines import ProxyCLIPConfig
from ..segmentation.class_prompts import checked_classes
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import ImageLike
from ..storage.images import as_rgb
from .dense_clip import (
    DINO_MEAN,
    DINO_STD,
    DenseCLIP,
    class_cosines,
    dino_features,
    name_variants,
    on_grid,
    pixels,
    probabilities,
    windows_of,
)
from .results import result


def proxy_attention(
    features: Float[Tensor, "windows points width"], shift: float, sharpness: float
) -> Float[Tensor, "windows points points"]:
    """Attention from the features' cosines S: the softmax of ``(S - shift mean(S)) sharpness``, negative values left out.

    Rows sum to 1. A point always attends to itself, so that no row is empty.
    """
    unit = functional.normalize(features, dim=-1)
    cosine = unit @ unit.transpose(1, 2)
    scores = (cosine - shift * cosine.mean((1, 2), keepdim=True)) * sharpness
    own = torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device)
    return scores.masked_fill((scores < 0) & ~own, -torch.inf).softmax(-1)


class ProxyCLIP:
    """Labels each pixel with one of the given class names.

    Args:
        clip: a CLIPModel, such as openai/clip-vit-base-patch16.
        processor: its CLIPProcessor.
        dino: a ViTModel, such as facebook/dino-vitb8.
        config: the released settings by default.
    """

    def __init__(self, clip: Any, processor: Any, dino: Any, config: ProxyCLIPConfig | None = None) -> None:
        self.clip, self.dino, self.config = DenseCLIP(clip, processor), dino, config or ProxyCLIPConfig()

    def segment(self, image: ImageLike, classes: Sequence[str]) -> Segmentation:
        """Segment one image, (height, width, 3) uint8 RGB or PIL, by class names."""
        image, names = as_rgb(image), checked_classes(classes)
        words, owners = name_variants(names)
        with torch.no_grad():
            cosines = self._cosines(image, self.clip.text(words))
            maps = probabilities(cosines, owners, names, self.config.scale, self.config.background)
        return result(image, maps, names, {"method": "proxyclip"})

    def _cosines(self, image: np.ndarray, text: Tensor) -> Tensor:
        config = self.config
        resized, windows = windows_of(image, config.side, config.crop, config.stride)
        states = self.clip.layers(windows.cut(pixels(resized, self.clip.mean, self.clip.std, self.clip.model)))
        features = dino_features(self.dino, windows.cut(pixels(resized, DINO_MEAN, DINO_STD, self.dino)), "last")
        grid = features.shape[1:3]
        attention = proxy_attention(features.flatten(1, 2), config.shift, config.sharpness)
        values = on_grid(self.clip.values(states[-2])[:, 1:], grid)
        return class_cosines(self.clip.embedded(attention.to(values) @ values), grid, text, windows, image.shape[:2])
