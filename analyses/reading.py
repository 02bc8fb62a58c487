"""Which way of reading finds the words: I2T, T2I, outputs, concepts and contributions, of one layer or several together.

python analyses/reading.py [--model MODEL] [--quick]

Test scenes with several seeds of the noise at one timestep. The layer of each reading, its three best layers, and a weight for
each layer (its mIoU above the worst layer's) are chosen on validation scenes; the weights are left as files that
``--aggregate weights:FILE`` takes. Intervals are over images: an image's counts are summed over its seeds. The difference is to
I2T of the layer chosen, paired by image. Every part is kept and continued.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
import torch
from _analysis import Analysis, main
from _readings import DIFFERENCE, READS, WEIGHTED, chosen_means, compared

from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.evaluation.counter import MapCounter
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.metrics.iou import mean_iou
from mmdit_probe.segmentation.reading import Reading, ReadingReader
from mmdit_probe.utils.distributed import for_all

SCENES, VALIDATION, SEEDS, TIMESTEP = 300, 100, (0, 1, 2), 2


class WithMeans(ReadingReader):
    """Each layer's maps and, behind them, weighted means of all layers', so that one pass reads them all.

    ``means`` holds a weight for each layer by the name of the mean.
    """

    def __init__(self, pipe, read, seed, means: Mapping[str, np.ndarray]) -> None:
        super().__init__(pipe, Reading(read), None, (TIMESTEP,), seed=seed)
        self.means = means
        self.layers = (*self.read_layers, *range(-len(means), 0))

    @property
    def settings(self):
        return {"means": {name: weights.tolist() for name, weights in self.means.items()}}

    def _together(self, maps):
        if not self.means:
            return maps
        weights = torch.from_numpy(np.stack(list(self.means.values()))).to(maps)
        return torch.cat([maps, torch.einsum("ml,cil...->cim...", weights, maps)], 2)


@for_all()
def run(analysis: Analysis) -> list[str]:
    pipe, found = analysis.pipe(), {}
    count, validation = analysis.fewer((SCENES, VALIDATION), (2, 2))
    seeds = analysis.fewer(SEEDS, (0,))
    for read in READS:
        tried = mean_iou(counts(analysis, pipe, "val", validation, seeds[:1], read).sum(0))
        order = np.argsort(-tried, kind="stable")
        means = chosen_means(tried)
        weights = pd.DataFrame({"layer": range(len(tried)), "weight": means[WEIGHTED]})
        analysis.table(weights, f"reading_weights_{read}")
        every = counts(analysis, pipe, "test", count, seeds, read, means)
        found[read, f"layer {order[0]} (validation)"] = every[:, order[0]]
        found |= {(read, name): every[:, len(tried) + number] for number, name in enumerate(means)}
    found["i2t", "GoCA's weights, all layers"] = goca(analysis, pipe, count, seeds)
    table, lead = compared(found, len(seeds))
    analysis.table(table, "reading")
    shown = table.assign(**{name: 100 * table[name] for name in ("miou", "low", "high", *DIFFERENCE)})
    return [
        f"mIoU in percent at t = {TIMESTEP}, n = {count} test scenes, {len(seeds)} seeds; chosen on {validation} others:",
        shown.to_string(index=False, float_format="%.1f", na_rep="-"),
        *lead,
    ]


def counts(analysis, pipe, split, images, seeds, read, means=None) -> np.ndarray:
    """Pixel counts (image, layer, count, class), summed over the seeds; the means of ``means`` stand behind the layers."""
    config = settings(analysis, images, read)
    total = 0
    for seed in seeds:
        counter = MapCounter(pipe, replace(config, seed=seed), WithMeans(pipe, read, seed, means or {}))
        total = total + counted(analysis, pipe, split, counter, f"{split}-{read}-seed{seed}")
    return total


def goca(analysis, pipe, images, seeds) -> np.ndarray:
    """The same of GoCA's weights of heads and layers (image, count, class)."""
    config = settings(analysis, images, "i2t", "goca")
    total = 0
    for seed in seeds:
        counter = MapCounter(pipe, replace(config, seed=seed))
        total = total + counted(analysis, pipe, "test", counter, f"test-i2t-goca-seed{seed}")[:, 0]
    return total


def settings(analysis, images, read, aggregate="layer") -> EvaluateConfig:
    batch = analysis.at_once(25, 4)
    return EvaluateConfig(read=read, aggregate=aggregate, timesteps=(TIMESTEP,), batch=batch, limit=images)


def counted(analysis, pipe, split, counter, part) -> np.ndarray:
    """Pixel counts (image, layer, count, class); finished batches are not counted again."""
    config, scenes = counter.config, held_out_scenes(counter.config.limit, split)
    batches = run_evaluation(pipe, scenes, config, analysis.folder(f"/{part}"), analysis.label, counter=counter)
    own = [batch["counts"].isel(matching=0, timestep=0, head=0).values.astype(np.int64) for batch in batches]
    return np.concatenate(own)


if __name__ == "__main__":
    main(run, __doc__)
