"""The paper's tables of masks with our figures beside them, for the systems and data sets that are at hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..configs import EvaluateConfig
from ..datasets.registry import open_dataset
from .evaluation import Counter, run_evaluation
from .evaluation_tables import tabulate
from .reading import expert_layer


class Ready(NamedTuple):
    """What `run_evaluation` takes for one system and data set: pipeline, counter (None: Seg4Diff), configuration."""

    pipe: Any
    counter: Counter | None
    config: EvaluateConfig


Prepare = Callable[[EvaluateConfig], Ready]
"""From a data set's configuration to the system that is loaded, set as its paper evaluates it."""


class Row(NamedTuple):
    """A system of a table: what its numbers depend on, in words, and how it is loaded (`ValueError` if it can't be had)."""

    label: str
    load: Callable[[], Prepare]


def seg4diff_row(load: Callable[..., Any], source: str | None, lora: str | None = "") -> Row:
    """Seg4Diff on a model's expert layer; ``lora`` is a MAGNET LoRA on top, None one that is not at hand."""

    def prepare() -> Prepare:
        if source is None or lora is None:
            raise ValueError("no checkpoint is named: put its folder or hub id at the top of the script")
        pipe = load(source, lora=lora) if lora else load(source)
        return lambda config: Ready(pipe, None, replace(config, layers=(expert_layer(pipe),)))

    return Row(f"{source}, LoRA {lora}" if lora else str(source), prepare)


def beside_the_paper(
    rows: Mapping[str, Row],
    roots: Mapping[str, Path | None],
    paper: Mapping[tuple[str, str], float],
    config: EvaluateConfig,
    out: Path,
) -> pd.DataFrame:
    """One row a system and data set: ``paper`` and ``ours``, mIoU in percent, and ``note`` where ours could not be had.

    Args:
        rows: the systems by the name they have in the table, loaded one after the other.
        roots: folder of each data set, None for the built-in one.
        paper: published mIoU in percent of (system, data set); what is not there is NaN.
        config: the task and how it is done; data set and what belongs to the system are filled in.
        out: a folder for each system and data set is made in it; runs continue there.
    """
    found = []
    for name, row in rows.items():
        try:
            prepare, missing = row.load(), ""
        except ValueError as error:
            prepare, missing = None, str(error)
        for dataset, root in roots.items():
            ours, note = (float("nan"), missing)
            if prepare is not None:
                ours, note = _ours(
                    prepare, row.label, dataset, root, config, out / f"{name}-{dataset}".replace(" ", "-")
                )
            published = paper.get((name, dataset), float("nan"))
            found.append({"system": name, "dataset": dataset, "paper": published, "ours": ours, "note": note})
    return pd.DataFrame(found)


def _ours(
    prepare: Prepare, label: str, dataset: str, root: Path | None, config: EvaluateConfig, out: Path
) -> tuple[float, str]:
    """mIoU in percent, by names or by the paper's matching; or NaN and why not."""
    try:
        ready = prepare(replace(config, dataset=dataset))
        pictures = open_dataset(dataset, root, config.limit)
        views = tabulate(run_evaluation(ready.pipe, pictures, ready.config, out, label, counter=ready.counter)).views
    except ValueError as error:
        return float("nan"), str(error)
    return 100 * float(views["miou"].iloc[0]), ""


def told(table: pd.DataFrame) -> str:
    """The table in words: systems by data sets, ours beside the paper's, then what could not be run and why."""
    wide = {dataset: max(13, len(dataset) + 2) for dataset in table["dataset"]}
    lines = [f"{'system':<27}" + "".join(f"{name:>{width}}" for name, width in wide.items())]
    for name, rows in table.groupby("system", sort=False):
        pairs = (f"{_pair(row):>{wide[row['dataset']]}}" for _, row in rows.iterrows())
        lines.append(f"{name:<27}" + "".join(pairs))
    lines.append("(ours / the paper's mIoU in percent; - : not run, or not in the paper)")
    for (name, note), rows in table[table["note"] != ""].groupby(["system", "note"], sort=False):
        lines.append(f"not run: {name} on {', '.join(rows['dataset'])}: {note}")
    return "\n".join(lines)


def _pair(row: pd.Series) -> str:
    ours, paper = ("-" if pd.isna(value) else f"{value:.1f}" for value in (row["ours"], row["paper"]))
    return f"{ours} / {paper}"
