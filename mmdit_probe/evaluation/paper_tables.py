"""The paper's tables of masks with our figures beside them, for the systems and data sets that are at hand."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..configs import EvaluateConfig
from ..datasets.registry import open_dataset
from ..pipelines.defaults import expert_layer
from ..storage.digests import model_label
from .run import Counter, run_evaluation
from .tables import tabulate


class Ready(NamedTuple):
    """What `run_evaluation` takes for one system and data set: pipeline, counter (None: Seg4Diff), configuration."""

    pipe: Any
    counter: Counter | None
    config: EvaluateConfig


Prepare = Callable[[EvaluateConfig], Ready]
"""From a data set's configuration to the system that is loaded, set as its paper evaluates it."""


def _none(task: str, dataset: str) -> tuple[str, ...]:
    return ()


class Row(NamedTuple):
    """A system of a table: what its numbers depend on, in words, how it is loaded (`ValueError` if it can't be had), and what
    its published figure for a task and data set was measured otherwise, in notes."""

    label: str
    load: Callable[[], Prepare]
    differences: Callable[[str, str], tuple[str, ...]] = _none


def seg4diff_row(
    load: Callable[..., Any], source: str | None, lora: str | None = "", *, device: str = "cpu", dtype: str = "fp32"
) -> Row:
    """Seg4Diff on a model's expert layer; ``lora`` is a MAGNET LoRA on top, None one that is not at hand.

    ``load`` is given the source, the device, the dtype and the LoRA if there is one, as `load_pipeline`.
    """

    def prepare() -> Prepare:
        if source is None or lora is None:
            raise ValueError("no checkpoint is named: give its folder or hub id")
        more = {"lora": lora} if lora else {}
        pipe = load(source, device=device, dtype=dtype, **more)
        return lambda config: Ready(pipe, None, replace(config, layers=(expert_layer(pipe),)))

    return Row("" if source is None else model_label(source, dtype, lora=lora), prepare, _seg4diff_differences)


def _seg4diff_differences(task: str, dataset: str) -> tuple[str, ...]:
    notes = ["theirs is first resized to a shorter side of 640 px, ours goes straight to the model's square"]
    if task == "unsupervised":
        notes.append("theirs is scored at the resized size, ours at the image's own")
    elif dataset == "coco-object":
        notes.append("theirs is offered background too, ours the things alone")
    return tuple(notes)


def beside_the_paper(
    rows: Mapping[str, Row],
    roots: Mapping[str, Path | None],
    paper: Mapping[tuple[str, str], float],
    config: EvaluateConfig,
    out: Path,
) -> pd.DataFrame:
    """One row a system and data set: ``paper`` and ``ours``, mIoU in percent, ``differs``, what the paper's figure was
    measured otherwise, and ``note`` where ours could not be had.

    Args:
        rows: the systems by the name they have in the table, loaded one after the other.
        roots: folder of each data set, None for the built-in one.
        paper: published mIoU in percent of (system, data set); what is not there is NaN.
        config: the task and how it is done; data set and what belongs to the system are filled in.
        out: a folder for each system and data set is made in it; runs continue there.
    """
    found = []
    prepare: Prepare | None
    for name, row in rows.items():
        prepare, missing = None, ""  # the last system goes before the next one comes
        try:
            prepare = row.load()
        except ValueError as error:
            missing = str(error)
        for dataset, root in roots.items():
            ours, note = (float("nan"), missing)
            if prepare is not None:
                ours, note = _ours(prepare, row.label, dataset, root, config, out / _folder(f"{name}-{dataset}"))
            published = paper.get((name, dataset), float("nan"))
            differs = "" if pd.isna(published) else "; ".join(row.differences(config.task, dataset))
            cell = {"system": name, "dataset": dataset, "paper": published, "ours": ours}
            found.append({**cell, "differs": differs, "note": note})
    return pd.DataFrame(found)


def _folder(name: str) -> str:
    return re.sub(r"[^\w.()+-]+", "-", name)


def _ours(
    prepare: Prepare, label: str, dataset: str, root: Path | None, config: EvaluateConfig, out: Path
) -> tuple[float, str]:
    """mIoU in percent, by names or by the paper's matching; or NaN and why not."""
    try:
        ready = prepare(replace(config, dataset=dataset))
        images = open_dataset(dataset, root, config.limit)
        views = tabulate(run_evaluation(ready.pipe, images, ready.config, out, label, counter=ready.counter)).views
    except ValueError as error:
        return float("nan"), str(error)
    return 100 * float(views["miou"].iloc[0]), ""


def told(table: pd.DataFrame) -> str:
    """The table in words: systems by data sets, ours beside the paper's, what is measured otherwise, what could not be run."""
    first = max(27, *(len(name) + 2 for name in table["system"]))
    wide = {dataset: max(13, len(dataset) + 2) for dataset in table["dataset"]}
    lines = [f"{'system':<{first}}" + "".join(f"{name:>{width}}" for name, width in wide.items())]
    for name, rows in table.groupby("system", sort=False):
        pairs = (f"{_pair(row):>{wide[row['dataset']]}}" for _, row in rows.iterrows())
        lines.append(f"{name:<{first}}" + "".join(pairs))
    lines.append("(ours / the paper's mIoU in percent; - : not run, or not in the paper)")
    lines += _unlike(table)
    for (name, note), rows in table[table["note"] != ""].groupby(["system", "note"], sort=False):
        lines.append(f"not run: {name} on {', '.join(rows['dataset'])}: {note}")
    return "\n".join(lines)


def _unlike(table: pd.DataFrame) -> list[str]:
    """A line for each way in which figures are measured otherwise: systems and data sets, then what."""
    notes = table.assign(differs=table["differs"].str.split("; ")).explode("differs")
    notes = notes[notes["differs"] != ""].groupby("differs", sort=False)
    return [
        f"measured otherwise: {', '.join(rows['system'].unique())} on {', '.join(rows['dataset'].unique())}: {note}"
        for note, rows in notes
    ]


def _pair(row: pd.Series) -> str:
    ours, paper = ("-" if pd.isna(value) else f"{value:.1f}" for value in (row["ours"], row["paper"]))
    return f"{ours} / {paper}"
