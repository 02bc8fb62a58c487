"""What the tables of readings share: several layers put together, and rows with intervals over images."""

import numpy as np
import pandas as pd

from mmdit_probe.metrics.bootstrap import bootstrap_weights
from mmdit_probe.metrics.inference import best_drawn, drawn_interval
from mmdit_probe.metrics.iou import mean_iou
from mmdit_probe.metrics.verdicts import Form, lead_lines

READS = ("i2t", "t2i", "output", "contribution", "concept")
BEST = 3
"""Layers in the mean of the best on validation scenes."""
DRAWS = 2000
DIFFERENCE = ("over_i2t", "over_low", "over_high")
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
