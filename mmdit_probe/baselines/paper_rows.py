"""The baselines as rows of the paper's tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..configs import EvaluateConfig
from ..evaluation.paper_tables import Prepare, Ready, Row
from ..storage.digests import model_label
from .loaded import LoadedMethod, load_method
from .published_differences import differences
from .registry import SYSTEMS, Method
from .selection import Selection


def system_row(
    method: Method,
    source: str,
    load: Callable[..., Any],
    dino_backbone: str | None = None,
    sam: str | None = None,
    *,
    device: str = "cpu",
    dtype: str = "fp32",
) -> Row:
    """A whole system as its paper evaluates it: CLIP ones offer all classes, DiffSeg and DiffCut take the center square.

    Args:
        method: the baseline.
        source: hub id or folder of its backbone.
        load: loads a U-Net's pipeline, called as `load_pipeline` with the source, device and dtype.
        dino_backbone: DINO for proxyclip and corrclip.
        sam: SAM or SAM 2 for corrclip.
        device: where the models run.
        dtype: fp32, bf16 or fp16.
    """
    selection = Selection(method=method, dino_backbone=dino_backbone, sam=sam)

    def prepare() -> Prepare:
        loaded = load_method(
            selection, source, lambda: load(source, device=device, dtype=dtype), device=device, dtype=dtype
        )
        return lambda config: _ready(loaded, config)

    return Row(selection.label(model_label(source, dtype)), prepare, lambda task, dataset: differences(method, dataset))


def _ready(loaded: LoadedMethod, config: EvaluateConfig) -> Ready:
    crop = "center" if config.task == "unsupervised" else config.crop
    vocabulary = "full" if SYSTEMS[loaded.selection.method].kind == "clip" else config.vocabulary
    own = replace(loaded.selection.fill(config), crop=crop, vocabulary=vocabulary)
    return Ready(None, loaded.counter(own), own)
