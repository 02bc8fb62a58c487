"""The baselines by name: what they do, what they run on, where they come from. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..configs.baselines import (
    CorrCLIPConfig,
    DiffCutConfig,
    DiffSegConfig,
    DiffSegmenterConfig,
    ISegConfig,
    ProxyCLIPConfig,
)

SEG4DIFF = "seg4diff"
EMBEDDED = "tiny-sd3"
REFINERS = ("diffsegmenter", "iseg", "corrclip-vote")
"""Steps of baselines that also work on Seg4Diff's maps."""


@dataclass(frozen=True)
class System:
    """``task`` is open-vocabulary or unsupervised, ``kind`` unet or clip, ``source`` the released backbone.

    ``joint`` says that the system's steps also work on an MM-DiT's attention. ``threshold`` names the setting that
    --threshold sets.
    """

    task: str
    kind: str
    source: str
    config: Any
    paper: str
    joint: bool = False
    threshold: str | None = None


SYSTEMS: Mapping[str, System] = {
    "diffsegmenter": System(
        "open-vocabulary",
        "unet",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        DiffSegmenterConfig(),
        "Wang et al. 2023",
    ),
    "iseg": System("open-vocabulary", "unet", "stabilityai/stable-diffusion-2-1-base", ISegConfig(), "Sun et al. 2024"),
    "proxyclip": System(
        "open-vocabulary", "clip", "openai/clip-vit-base-patch16", ProxyCLIPConfig(), "Lan et al. 2024"
    ),
    "corrclip": System(
        "open-vocabulary", "clip", "facebook/metaclip-b16-fullcc2.5b", CorrCLIPConfig(), "Zhang et al. 2024"
    ),
    "diffseg": System(
        "unsupervised",
        "unet",
        "CompVis/stable-diffusion-v1-4",
        DiffSegConfig(),
        "Tian et al. 2023",
        joint=True,
        threshold="threshold",
    ),
    "diffcut": System(
        "unsupervised", "unet", "segmind/SSD-1B", DiffCutConfig(), "Couairon et al. 2024", joint=True, threshold="tau"
    ),
}
METHODS = (SEG4DIFF, *SYSTEMS)
DINO = "facebook/dino-vitb8"
SAM = "facebook/sam2.1-hiera-large"


def task_of(method: str, task: str | None) -> str:
    """The task asked for, or the method's own; `ValueError` if it does another one."""
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if method == SEG4DIFF:
        return task or "open-vocabulary"
    own = SYSTEMS[method].task
    if task not in (None, own):
        raise ValueError(f"{method} does the {own} task, not {task}; leave --task out")
    return own


def source_of(method: str, model: str) -> str:
    """The model to load: the one named, or the released backbone where the embedded one can't serve."""
    if model != EMBEDDED or method == SEG4DIFF or SYSTEMS[method].joint:
        return model
    return SYSTEMS[method].source
