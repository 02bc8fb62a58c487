"""The paper's tables of masks with our figures beside them, for the models and data sets that are at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from ..configs import EvaluateConfig
from ..datasets.registry import open_dataset
from .evaluation import run_evaluation
from .evaluation_tables import tabulate
from .reading import expert_layer

Load = Callable[[str], Any]


def beside_the_paper(
    load: Load,
    models: Mapping[str, str],
    roots: Mapping[str, Path | None],
    paper: Mapping[tuple[str, str], float],
    config: EvaluateConfig,
    out: Path,
) -> pd.DataFrame:
    """One row a model and data set: ``paper`` and ``ours``, mIoU in percent, and ``note`` where ours could not be had.

    Args:
        load: from a model's source to its pipeline; `ValueError` if it can't be had.
        models: source of each model by the name it has in the table.
        roots: folder of each data set, None for the built-in one.
        paper: published mIoU in percent of (model, data set); what is not there is NaN.
        config: the task and how it is done; layers, data set and so on are filled in.
        out: a folder for each model and data set is made in it; runs continue there.
    """
    rows = []
    for name, source in models.items():
        try:
            pipe, missing = load(source), ""
        except ValueError as error:
            pipe, missing = None, str(error)
        for dataset, root in roots.items():
            ours, note = (float("nan"), missing)
            if pipe is not None:
                ours, note = _ours(pipe, source, dataset, root, config, out / f"{name}-{dataset}".replace(" ", "-"))
            published = paper.get((name, dataset), float("nan"))
            rows.append({"model": name, "dataset": dataset, "paper": published, "ours": ours, "note": note})
    return pd.DataFrame(rows)


def _ours(
    pipe: Any, source: str, dataset: str, root: Path | None, config: EvaluateConfig, out: Path
) -> tuple[float, str]:
    """mIoU in percent of the expert layer, by names or by the paper's matching; or NaN and why not."""
    try:
        own = replace(config, dataset=dataset, layers=(expert_layer(pipe),))
        views = tabulate(run_evaluation(pipe, open_dataset(dataset, root, own.limit), own, out, source)).views
    except ValueError as error:
        return float("nan"), str(error)
    return 100 * float(views["miou"].iloc[0]), ""
