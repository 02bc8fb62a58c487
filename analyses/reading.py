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

from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.evaluation.counter import MapCounter
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.metrics.bootstrap import bootstrap_weights
from mmdit_probe.metrics.inference import best_drawn, drawn_interval
from mmdit_probe.metrics.iou import mean_iou
from mmdit_probe.metrics.verdicts import Form, lead_lines
from mmdit_probe.segmentation.reading import Reading, ReadingReader
from mmdit_probe.utils.distributed import for_all

SCENES, VALIDATION, SEEDS, TIMESTEP = 300, 100, (0, 1, 2), 2
READS = ("i2t", "t2i", "output", "contribution", "concept")
BEST = 3
"""Layers in the mean of the best on validation scenes."""
DRAWS = 2000
DIFFERENCE = ("over_i2t", "over_low", "over_high")


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


WEIGHTED = "mean weighted by mIoU (validation)"


def chosen_means(tried: np.ndarray) -> dict[str, np.ndarray]:
    """By name, a weight for each layer, from the layers' mIoU on validation scenes."""
    best = sorted(np.argsort(-tried, kind="stable")[:BEST].tolist())
    above = tried - tried.min() if np.ptp(tried) > 0 else np.ones(len(tried))
    return {
        "mean of all layers": np.full(len(tried), 1 / len(tried)),
        f"mean of layers {', '.join(map(str, best))} (validation)": np.isin(np.arange(len(tried)), best) / len(best),
        WEIGHTED: above / above.sum(),
    }


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


def compared(found: dict[tuple[str, str], np.ndarray], seeds: int) -> tuple[pd.DataFrame, list[str]]:
    """A row for each reading: mIoU with its interval over images, and its difference to the first; the highest's lead."""
    images = len(next(iter(found.values())))
    weights = bootstrap_weights(images, DRAWS)
    drawn = {key: mean_iou(np.tensordot(weights, own.astype(float), 1)) for key, own in found.items()}
    miou = {key: float(mean_iou(own.sum(0))) for key, own in found.items()}
    first, rows = next(iter(found)), []
    for key in found:
        _, low, high, n = drawn_interval(miou[key], drawn[key], images)
        row = {"read": key[0], "layers": key[1], "n": n, "seeds": seeds, "miou": miou[key], "low": low, "high": high}
        if key != first:
            over = drawn_interval(miou[key] - miou[first], drawn[key] - drawn[first], images)
            row |= dict(zip(DIFFERENCE, over[:3], strict=True))
        rows.append(row)
    names = [f"{read}, {layers}" for read, layers in found]
    lead = best_drawn(np.array(list(miou.values())), np.stack(list(drawn.values()), 1), images)
    said = [f"The highest: {names[lead.leader]};", *lead_lines(lead, names, Form(1, 100), "image", "reading")]
    return pd.DataFrame(rows, columns=["read", "layers", "n", "seeds", "miou", "low", "high", *DIFFERENCE]), said


if __name__ == "__main__":
    main(run, __doc__)
