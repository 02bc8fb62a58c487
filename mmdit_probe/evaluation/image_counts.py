"""Each image's pixel counts, kept sparsely, for intervals of mIoU over images."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from scipy.sparse import csr_array, vstack

from ..metrics.bootstrap import bootstrap_weights
from ..metrics.inference import FEWEST, Lead, best_drawn, drawn_interval
from ..metrics.iou import mean_iou

DRAWS = 2000
_ORDER = ("matching", "timestep", "layer", "head", "count", "class")


class ImageCounts:
    """Counts of all images; most classes do not occur in an image, so that zeros are not kept."""

    def __init__(self) -> None:
        self._parts: list[csr_array] = []

    def add(self, counts: xr.DataArray) -> None:
        """The counts (image, matching, timestep, layer, head, count, class) of further images."""
        flat = counts.transpose("image", *_ORDER).values.reshape(counts.sizes["image"], -1)
        self._parts.append(csr_array(flat.astype(np.int32)))

    def inference(self, total: xr.DataArray) -> tuple[dict[str, Any], dict[tuple[str, int], Lead]]:
        """Number of images and bounds of mIoU for each setting of ``total``, and the lead of each matching and timestep.

        In each bootstrap draw images are drawn with replacement, the same ones for all settings, and their counts summed.
        """
        counts = vstack(self._parts).tocsc()
        images = counts.shape[0]
        whole = total.transpose(*_ORDER)
        sizes, width = whole.shape[:4], whole.sizes["count"] * whole.sizes["class"]
        estimates = mean_iou(whole.values)
        bounds, leads = np.full((2, *sizes), np.nan), {}
        for i, matching in enumerate(whole["matching"].values):
            for j, timestep in enumerate(whole["timestep"].values):
                start = (i * sizes[1] + j) * sizes[2] * sizes[3]
                own = estimates[i, j].reshape(-1)
                if np.isnan(own).any():
                    continue
                drawn = self._drawn(counts, start * width, len(own), width, whole.sizes["class"], own)
                leads[str(matching), int(timestep)] = best_drawn(own, drawn, images)
                found = [drawn_interval(float(one), column, images) for one, column in zip(own, drawn.T, strict=True)]
                bounds[:, i, j] = np.array([one[1:3] for one in found]).T.reshape(2, *sizes[2:])
        number = xr.full_like(whole.isel(count=0, drop=True).isel({"class": 0}, drop=True), images)
        low, high = (number.astype(float).copy(data=side) for side in bounds)
        return {"n": number, "low": low, "high": high}, leads

    @staticmethod
    def _drawn(counts: Any, start: int, settings: int, width: int, classes: int, own: np.ndarray) -> np.ndarray:
        """(draws, settings) mIoU of images drawn with replacement."""
        images = counts.shape[0]
        if images < FEWEST:
            return own[None].repeat(2, 0)
        weights = bootstrap_weights(images, DRAWS).T
        drawn = np.empty((DRAWS, settings))
        for number in range(settings):
            first = start + number * width
            summed = counts[:, first : first + width].T @ weights
            drawn[:, number] = mean_iou(summed.T.reshape(DRAWS, 3, classes))
        return np.where(np.isnan(drawn), own, drawn)
