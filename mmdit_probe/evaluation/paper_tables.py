"""The paper's mask tables next to our own results, for the systems and data sets that are available."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from ..configs import EvaluateConfig
from ..datasets.registry import open_dataset
from ..families import Pipeline
from ..pipelines.defaults import expert_layer
from ..storage.digests import model_label
from ..utils.distributed import stage, worker_share
from .run import Counter, run_evaluation
from .tables import tabulate


class Ready(NamedTuple):
    """What `run_evaluation` takes for one system and data set; ``counter`` None is Seg4Diff on ``pipe``."""

    pipe: Pipeline | None
    counter: Counter | None
    config: EvaluateConfig


Prepare = Callable[[EvaluateConfig], Ready]
"""From a data set's settings to the loaded system, set as its paper evaluates it."""


def _none(task: str, dataset: str) -> tuple[str, ...]:
    return ()


class Row(NamedTuple):
    """A system of a table.

    Attributes:
        label: what its numbers depend on, in words.
        load: loads it; `ValueError` if it is not available.
        differences: ``differences(task, dataset)``: how the published protocol differs from ours, in notes.
    """

    label: str
    load: Callable[[], Prepare]
    differences: Callable[[str, str], tuple[str, ...]] = _none


def seg4diff_row(
    load: Callable[..., Any], source: str | None, lora: str | None = "", *, device: str = "cpu", dtype: str = "fp32"
) -> Row:
    """Seg4Diff on a model's expert layer.

    Args:
        load: loads a pipeline, called as `load_pipeline` with the source, device, dtype and, if there is one, LoRA.
        source: hub id or folder of the model, None if it is not available.
        lora: a MAGNET LoRA on top, empty for none, None if it is not available.
        device: where the model runs.
        dtype: fp32, bf16 or fp16.
    """

    def prepare() -> Prepare:
        if source is None or lora is None:
            raise ValueError("no checkpoint is named: give its folder or hub id")
        more = {"lora": lora} if lora else {}
        pipe = load(source, device=device, dtype=dtype, **more)
        return lambda config: Ready(pipe, None, replace(config, layers=(expert_layer(pipe),)))

    return Row("" if source is None else model_label(source, dtype, lora=lora), prepare, _seg4diff_differences)


def _seg4diff_differences(task: str, dataset: str) -> tuple[str, ...]:
    notes = ["theirs first resizes the shorter side to 640 px, ours resizes directly to the model's square"]
    if task == "unsupervised":
        notes.append("theirs is evaluated at the resized size, ours at the image's own")
    elif dataset == "coco-object":
        notes.append("theirs also offers background, ours only the things")
    return tuple(notes)


def beside_the_paper(
    systems: Mapping[str, Row],
    roots: Mapping[str, Path | None],
    paper: Mapping[tuple[str, str], float],
    config: EvaluateConfig,
    out: Path,
) -> pd.DataFrame:
    """Evaluate systems on data sets and put the results next to the paper's.

    Args:
        systems: the systems by their name in the table; they are loaded one after the other.
        roots: folder of each data set, None for the built-in one.
        paper: published mIoU of (system, data set), a fraction in [0, 1]; missing ones become NaN.
        config: the task and its settings; the data set and the system's own settings are filled in.
        out: holds a folder for each system and data set; interrupted runs continue there.

    Returns:
        One row for each system and data set: ``paper`` and ``ours``, mIoU as fractions in [0, 1]; ``differs``, how the
        protocol of the paper's figure differs from ours; ``note``, why there is no result of ours.
    """
    found = []
    prepare: Prepare | None
    for name, row in systems.items():
        prepare, missing = None, ""  # frees the last system before the next one is loaded
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
    """mIoU in [0, 1], by names or by the paper's matching, and no note; or NaN and the reason."""
    try:
        ready = prepare(replace(config, dataset=dataset))
        images = open_dataset(dataset, root, config.limit)
    except ValueError as error:
        return float("nan"), str(error)
    found = float("nan")
    try:
        with stage():
            result = tabulate(run_evaluation(ready.pipe, images, ready.config, out, label, counter=ready.counter))
            found = float(result.settings["miou"].iloc[0])
    except ValueError as error:
        if not worker_share().alone:
            raise  # of one process: the others would wait for it
        return float("nan"), str(error)
    return found, ""


def format_table(table: pd.DataFrame) -> str:
    """The table as text: systems by data sets, "ours / paper" mIoU in percent, then differing protocols and failed runs."""
    first = max(27, *(len(name) + 2 for name in table["system"]))
    wide = {dataset: max(13, len(dataset) + 2) for dataset in table["dataset"]}
    lines = [f"{'system':<{first}}" + "".join(f"{name:>{width}}" for name, width in wide.items())]
    for name, own in table.groupby("system", sort=False):
        pairs = (f"{_pair(row):>{wide[row['dataset']]}}" for _, row in own.iterrows())
        lines.append(f"{name:<{first}}" + "".join(pairs))
    lines.append("(ours / the paper's mIoU in percent; -: not run, or not in the paper)")
    lines += _different(table)
    for (name, note), own in table[table["note"] != ""].groupby(["system", "note"], sort=False):
        lines.append(f"not run: {name} on {', '.join(own['dataset'])}: {note}")
    return "\n".join(lines)


def _different(table: pd.DataFrame) -> list[str]:
    """A line for each difference of protocol: systems and data sets, then the difference."""
    notes = table.assign(differs=table["differs"].str.split("; ")).explode("differs")
    notes = notes[notes["differs"] != ""].groupby("differs", sort=False)
    return [
        f"protocol differs: {', '.join(own['system'].unique())} on {', '.join(own['dataset'].unique())}: {note}"
        for note, own in notes
    ]


def _pair(row: pd.Series) -> str:
    ours, paper = ("-" if pd.isna(value) else f"{100 * value:.1f}" for value in (row["ours"], row["paper"]))
    return f"{ours} / {paper}"
