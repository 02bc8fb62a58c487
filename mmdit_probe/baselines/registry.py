"""The baselines by name: what they do, what they run on, and where they come from. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

from ..configs import EMBEDDED_MODELS
from ..configs.baselines import (
    CorrCLIPConfig,
    DiffCutConfig,
    DiffSegConfig,
    DiffSegmenterConfig,
    ISegConfig,
    ProxyCLIPConfig,
)
from ..configs.segmentation import Method, Refine, Task
from ..utils.choices import check_choice

SEG4DIFF: Final = "seg4diff"
REFINERS: tuple[Refine, ...] = ("diffsegmenter", "iseg", "corrclip-vote")
"""Steps of baselines that also work on Seg4Diff's maps."""


@dataclass(frozen=True)
class System:
    """A baseline.

    Attributes:
        task: what it does.
        kind: what it runs on.
        source: hub id of the released backbone.
        config: the released settings.
        paper: authors and year.
        joint: whether its steps also work on an MM-DiT's attention.
        threshold: the field of ``config`` that a threshold sets, None if there is no such field.
    """

    task: Task
    kind: Literal["unet", "clip"]
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
METHODS: tuple[Method, ...] = get_args(Method)
DINO = "facebook/dino-vitb8"
SAM = "facebook/sam2.1-hiera-large"


def task_of(method: str, task: Task | None) -> Task:
    """The task asked for, or the method's own if None; `ValueError` if the method does another one."""
    check_choice("method", method, Method)
    if method == SEG4DIFF:
        return task or "open-vocabulary"
    own = SYSTEMS[method].task
    if task not in (None, own):
        raise ValueError(f"method {method} does the {own} task, not {task}; leave the task out")
    return own


def source_of(method: str, model: str) -> str:
    """The model to load: the one named, or the released backbone if the method can't run on the embedded model."""
    if model not in EMBEDDED_MODELS or method == SEG4DIFF or SYSTEMS[method].joint:
        return model
    return SYSTEMS[method].source
