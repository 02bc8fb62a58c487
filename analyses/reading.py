"""Which way of reading finds the words: I2T, T2I, outputs, concepts and contributions, of one layer or all together.

python analyses/reading.py [--model MODEL] [--quick]

Test scenes with several seeds of the noise at one timestep. The layer of each reading, and its three best layers, are those
with the highest mIoU on validation scenes. Intervals are over images: an image's counts are summed over its seeds. The
difference is to I2T of the layer chosen, paired by image. Every part is kept and continued.
"""

from itertools import product

import numpy as np
import pandas as pd
from _analysis import Analysis, main

from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.datasets.registry import held_out_scenes
from mmdit_probe.evaluation.counter import MapCounter
from mmdit_probe.evaluation.run import run_evaluation
from mmdit_probe.metrics.bootstrap import bootstrap_weights
from mmdit_probe.metrics.inference import drawn_interval
from mmdit_probe.metrics.iou import mean_iou

SCENES, VALIDATION, SEEDS, TIMESTEP = 300, 100, (0, 1, 2), 2
READS = ("i2t", "t2i", "output", "contribution", "concept")
TOGETHER = (*product(READS, ("mean",)), ("i2t", "goca"))
BEST = 3
"""Layers in the mean of the best on validation scenes."""
DRAWS = 2000


def run(analysis: Analysis) -> list[str]:
    pipe, found = analysis.pipe(), {}
    count, validation = analysis.fewer((SCENES, VALIDATION), (2, 2))
    seeds = analysis.fewer(SEEDS, (0,))
    for read in READS:
        tried = counts(analysis, pipe, "val", validation, seeds[:1], read)
        order = np.argsort(-mean_iou(tried.sum(0)), kind="stable")
        every = counts(analysis, pipe, "test", count, seeds, read)
        best = sorted(int(layer) for layer in order[:BEST])
        found[read, f"layer {order[0]} (validation)"] = every[:, order[0]]
        found[read, f"mean of layers {', '.join(map(str, best))} (validation)"] = counts(
            analysis, pipe, "test", count, seeds, read, "mean", tuple(best)
        )[:, 0]
    for read, aggregate in TOGETHER:
        name = "mean of all layers" if aggregate == "mean" else "GoCA's weights, all layers"
        found[read, name] = counts(analysis, pipe, "test", count, seeds, read, aggregate)[:, 0]
    table = compared(found, len(seeds))
    analysis.table(table, "reading")
    shown = table.assign(**{name: 100 * table[name] for name in ("miou", "low", "high", *DIFFERENCE)})
    return [
        f"mIoU in percent at t = {TIMESTEP}, n = {count} test scenes, {len(seeds)} seeds; layers chosen on {validation} others:",
        shown.to_string(index=False, float_format="%.1f", na_rep="-"),
    ]


DIFFERENCE = ("over_i2t", "over_low", "over_high")


def counts(analysis, pipe, split, images, seeds, read, aggregate="layer", layers="all") -> np.ndarray:
    """Pixel counts (image, layer, count, class), summed over the seeds."""
    total = 0
    for seed in seeds:
        config = EvaluateConfig(
            read=read, aggregate=aggregate, layers=layers, timesteps=(TIMESTEP,), seed=seed,
            batch=analysis.at_once(25, 4), limit=images,
        )  # fmt: skip
        chosen = "" if layers == "all" else "-" + "-".join(map(str, layers))
        folder = analysis.folder(f"/{split}-{read}-{aggregate}{chosen}-seed{seed}")
        counter = MapCounter(pipe, config)
        batches = run_evaluation(pipe, held_out_scenes(images, split), config, folder, analysis.label, counter=counter)
        own = [batch["counts"].isel(matching=0, timestep=0, head=0).values.astype(np.int64) for batch in batches]
        total = total + np.concatenate(own)
    return total


def compared(found: dict[tuple[str, str], np.ndarray], seeds: int) -> pd.DataFrame:
    """A row for each reading: mIoU with its interval over images, and its difference to the first reading."""
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
    return pd.DataFrame(rows, columns=["read", "layers", "n", "seeds", "miou", "low", "high", *DIFFERENCE])


if __name__ == "__main__":
    main(run, __doc__)
