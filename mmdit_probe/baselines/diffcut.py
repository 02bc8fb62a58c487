"""DiffCut: regions by recursive normalized cuts of diffusion features (Couairon et al. 2024, "DiffCut: Catalyzing
Zero-Shot Semantic Segmentation with Diffusion Features and Recursive Normalized Cut").

The original takes the output of the last self-attention layer of SSD-1B's encoder on an image of 1024 x 1024 px with an
empty prompt. Here any Stable Diffusion 1, 2 or XL U-Net can be used.

Deviations: without PAMR and the 3 x 3 median filter after it, with and without which the paper gives its figures; the image
is labeled at its original size, not at 128 x 128 px.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from ..configs.baselines import DiffCutConfig
from ..families import Pipeline, output_projection, unet_places
from ..segmentation.result import Segmentation
from ..segmentation.segmenters import ImageLike
from ..storage.images import as_rgb
from .normalized_cut import recursive_cut, region_scores
from .results import region_result
from .unet_reader import UNetReader


def cut_features(features: Float[Tensor, "width rows cols"], config: DiffCutConfig) -> Float[Tensor, "regions y x"]:
    """Score maps of the regions of one feature map, on a grid of at least ``config.finer`` points a side.

    Each point's features are normalized first. Features on a finer grid than ``config.grid`` are averaged to it before the
    eigenvectors are computed; the maps of features on a coarser grid stay on that grid.
    """
    size = tuple(features.shape[1:])
    unit = functional.normalize(features, dim=0)
    rows, cols = (min(side, config.grid) for side in size)
    nodes = functional.adaptive_avg_pool2d(unit[None], (rows, cols))[0].flatten(1).T
    regions = recursive_cut(nodes, config.tau, config.power, config.thresholds)
    larger = [max(side, config.finer) if side >= config.grid else side for side in size]
    finer = functional.interpolate(unit[None], size=larger, mode="bilinear", align_corners=False)[0]
    return region_scores(nodes, regions, finer)


class DiffCut:
    """Finds regions by a U-Net's features.

    Args:
        pipe: a Stable Diffusion 1, 2 or XL pipeline, such as segmind/SSD-1B.
        config: the released settings by default.
    """

    def __init__(self, pipe: Pipeline, config: DiffCutConfig | None = None) -> None:
        self.config = config or DiffCutConfig()
        self.reader = UNetReader(pipe, self.config.side, self.config.timestep, self.config.seed)
        places = unet_places(pipe)
        down = [layer for layer, place in enumerate(places) if place.stage == "down"]
        if not down:
            raise ValueError("DiffCut needs attention in the U-Net's encoder, and this model has none there")
        self.layer = down[-1]

    def group(self, image: ImageLike) -> Segmentation:
        """Find the regions of one image, (height, width, 3) uint8 RGB or PIL."""
        image = as_rgb(image)
        return region_result(image, cut_features(self.features(image), self.config), {"method": "diffcut"})

    @torch.no_grad()
    def features(self, image: np.ndarray) -> Float[Tensor, "width rows cols"]:
        """The self-attention layer's output after its output projection."""
        attention, module = self.reader.self_attention(image, "", self.layer)
        output = attention.output[0].transpose(0, 1).flatten(1)  # heads side by side
        return output_projection(module)(output).float().T.unflatten(1, attention.layout.grid)
