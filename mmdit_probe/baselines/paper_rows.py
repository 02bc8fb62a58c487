"""The baselines as rows of the paper's tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ..configs import EvaluateConfig
from ..configs.baselines import for_dataset
from ..evaluation.paper_tables import Prepare, Ready, Row
from ..storage.digests import model_fingerprint, model_label
from .counters import BaselineCounter
from .loading import clip_system, load_clip_parts, unet_system
from .published_differences import differences
from .registry import SYSTEMS


def system_row(
    method: str,
    source: str,
    load: Callable[..., Any],
    dino: str | None = None,
    masks: str | None = None,
    *,
    device: str = "cpu",
    dtype: str = "fp32",
) -> Row:
    """A whole system as its paper evaluates it: CLIP ones are offered all classes, DiffSeg and DiffCut the center.

    ``load`` is what loads a U-Net's pipeline: given its source, the device and the dtype, as `load_pipeline`.
    """

    def prepare() -> Prepare:
        if SYSTEMS[method].kind == "clip":
            parts = load_clip_parts(method, source, dino, masks, device=device, dtype=dtype)
            return lambda config: _ready(method, config, lambda own: clip_system(method, parts, own))
        pipe = load(source, device=device, dtype=dtype)
        return lambda config: _ready(method, config, lambda own: unet_system(method, pipe, own))

    parts = [model_label(source, dtype), *(model_fingerprint(part) for part in (dino, masks) if part)]
    return Row(", ".join(parts), prepare, lambda task, dataset: differences(method, dataset))


def _ready(method: str, config: EvaluateConfig, make: Callable[[Any], Any]) -> Ready:
    system = make(for_dataset(SYSTEMS[method].config, config.dataset))
    crop = "center" if config.task == "unsupervised" else config.crop
    vocabulary = "full" if SYSTEMS[method].kind == "clip" else config.vocabulary
    own = replace(config, method=method, crop=crop, vocabulary=vocabulary)
    return Ready(None, BaselineCounter(system, own), own)
