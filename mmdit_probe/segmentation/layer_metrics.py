"""How good the masks of each layer are: the one way in which layers are compared on labeled images."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
import pandas as pd
from torch import Tensor

from ..metrics.bootstrap import bootstrap_weights
from ..metrics.inference import Interval, drawn_interval
from ..metrics.iou import mean_iou
from ..metrics.segmentation import SegmentationMetrics, measure_labels
from .label_map import label_map

Correct = Callable[[np.ndarray], np.ndarray]
"""From a label map to a better one."""


def measure_maps(
    maps: Tensor, offered: Sequence[int], labels: np.ndarray, classes: int, correct: Correct | None = None
) -> SegmentationMetrics:
    """Metrics of the label map that class maps make of one image.

    Args:
        maps: (offered, rows, cols), a map for each class that the image's prompt names.
        offered: numbers of these classes in the data set.
        labels: (height, width) true class numbers, 255 for unlabeled pixels.
        classes: number of classes of the data set.
        correct: changes the label map, whose values are positions in ``offered``, before it is measured.
    """
    found = label_map(maps, (labels.shape[0], labels.shape[1])).numpy()
    return measure_labels(labels, np.array(offered)[found if correct is None else correct(found)], classes)


class MetricsByName:
    """Metrics of several ways to label the same images, such as layers, summed over the images.

    >>> import numpy as np
    >>> totals, labels = MetricsByName(), np.array([[0, 1]])
    >>> totals.add("left", measure_labels(labels, np.array([[0, 0]]), 2))
    >>> totals.add("both", measure_labels(labels, labels, 2))
    >>> totals.table("layer").round(2).to_dict("records")
    [{'layer': 'left', 'miou': 0.25, 'pixel_accuracy': 0.5}, {'layer': 'both', 'miou': 1.0, 'pixel_accuracy': 1.0}]
    """

    def __init__(self) -> None:
        self._totals: dict[Hashable, SegmentationMetrics] = {}
        self._counts: dict[Hashable, list[np.ndarray]] = {}

    def add(self, name: Hashable, metrics: SegmentationMetrics) -> None:
        """Add one image's metrics to those of ``name``."""
        self._totals[name] = self._totals[name] + metrics if name in self._totals else metrics
        self._counts.setdefault(name, []).append(metrics.counts)

    def add_layers(
        self, maps: Iterable[tuple[Hashable, Tensor]], offered: Sequence[int], labels: np.ndarray, classes: int
    ) -> None:
        """Measure one image by the class maps of each layer, (layer, maps) pairs; see `measure_maps`."""
        for name, own in maps:
            self.add(name, measure_maps(own, offered, labels, classes))

    def table(self, name: str) -> pd.DataFrame:
        """One row for each name, in the order of their first image: column ``name``, ``miou`` and ``pixel_accuracy``."""
        return pd.DataFrame(
            [
                {name: key, "miou": total.miou, "pixel_accuracy": total.pixel_accuracy}
                for key, total in self._totals.items()
            ]
        )

    def interval(self, name: Hashable) -> Interval:
        """The mIoU of ``name`` with its 95% bootstrap interval over images: the counts of those drawn are summed."""
        counts = np.stack(self._counts[name]).astype(float)
        drawn = mean_iou(np.tensordot(bootstrap_weights(len(counts), 2000), counts, 1))
        return drawn_interval(self._totals[name].miou, drawn, len(counts))
