"""Which method labels images, and which settings belong to it: the one place of these decisions. Imports no torch.

`Selection` holds what a user asks for and refuses what does not go together; `loaded.load_method` loads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from ..configs import EvaluateConfig, GroupConfig, SegmentConfig
from ..configs.baselines import DiffSegConfig, RefineConfig, for_dataset
from ..storage.digests import model_fingerprint
from ..utils.choices import check_choice
from .registry import SEG4DIFF, SYSTEMS, Method, Refine, System, Task, source_of, task_of

Config = TypeVar("Config", EvaluateConfig, SegmentConfig, GroupConfig)
MAP_SETTINGS = ("layer", "layers", "heads", "timesteps", "normalize", "read", "aggregate")
"""Settings of an MM-DiT's maps, which whole systems do not have."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """A method and what is asked of it beyond its released settings; `ValueError` if these do not go together.

    Attributes:
        method: seg4diff or a baseline.
        refine: how Seg4Diff's maps are refined.
        refine_steps: how often the maps are smoothed; None is 1 for diffsegmenter and the data set's own for iseg.
        refine_entropy: how much iseg sharpens the attention; None is the data set's own.
        threshold: of regions; None is the method's own. DiffCut's is tau.
        sam: hub id or folder of a SAM or SAM 2, for corrclip and refine corrclip-vote.
        dino_backbone: hub id or folder of a DINO, for proxyclip and corrclip.

    >>> Selection(method="diffcut", threshold=0.3).system_config().tau
    0.3
    >>> Selection(method="iseg").system_config("coco-object").iterations
    10
    >>> Selection(method="iseg", refine="i2i")
    Traceback (most recent call last):
    ...
    ValueError: refine is for seg4diff's maps; leave it out with method iseg
    """

    method: Method = "seg4diff"
    refine: Refine = "none"
    refine_steps: int | None = None
    refine_entropy: float | None = None
    threshold: float | None = None
    sam: str | None = None
    dino_backbone: str | None = None

    def __post_init__(self) -> None:
        check_choice("method", self.method, Method)
        check_choice("refine", self.refine, Refine)
        if self.method != SEG4DIFF and self.refine != "none":
            raise ValueError(f"refine is for seg4diff's maps; leave it out with method {self.method}")
        if self.sam is not None and self.method != "corrclip" and self.refine != "corrclip-vote":
            raise ValueError("sam is for method corrclip or refine corrclip-vote; leave it out")
        if self.dino_backbone is not None and self.method not in ("proxyclip", "corrclip"):
            raise ValueError("dino_backbone is for method proxyclip or corrclip; leave it out")
        if self.threshold is None:
            return
        if self.baseline is not None and self.baseline.threshold is None:
            raise ValueError(f"threshold is for seg4diff, diffseg and diffcut, not for {self.method}; leave it out")
        if not self.threshold > 0:
            raise ValueError(f"threshold must be above 0, got {self.threshold}")

    @property
    def baseline(self) -> System | None:
        """The baseline, None for Seg4Diff."""
        return SYSTEMS.get(self.method)

    def task(self, asked: Task | None = None) -> Task:
        """The task asked for, or the method's own; `ValueError` if the method does another one."""
        return task_of(self.method, asked)

    def source(self, model: str) -> str:
        """The model to load: ``model``, or the released backbone if the method can't run on the embedded one."""
        return source_of(self.method, model)

    def label(self, model: str) -> str:
        """What the numbers depend on, in words: the model (`storage.digests.model_label`) and the other models named."""
        parts = [model]
        if self.dino_backbone is not None:
            parts.append(f"DINO {model_fingerprint(self.dino_backbone)}")
        if self.sam is not None:
            parts.append(f"SAM {model_fingerprint(self.sam)}")
        return ", ".join(parts)

    def system_config(self, dataset: str = "", joint: bool = False) -> Any:
        """A baseline's settings: the released ones, as they are for the data set, with the threshold asked for.

        ``joint`` says that its steps run on an MM-DiT, for which DiffSeg has another threshold.
        """
        system = SYSTEMS[self.method]
        config, threshold = for_dataset(system.config, dataset), self.threshold
        if threshold is None and joint and isinstance(config, DiffSegConfig):
            threshold = config.joint_threshold
        return (
            config
            if threshold is None or system.threshold is None
            else replace(config, **{system.threshold: threshold})
        )

    def refine_config(self, dataset: str = "") -> RefineConfig:
        """The refinement's settings: the released ones, as they are for the data set, with what is asked for."""
        config: RefineConfig = for_dataset(RefineConfig(), dataset)
        if self.refine_steps is not None:
            config = replace(config, steps=self.refine_steps, iterations=self.refine_steps)
        return config if self.refine_entropy is None else replace(config, entropy=self.refine_entropy)

    def fill(self, config: Config) -> Config:
        """The settings of an evaluation, of segments or of regions with this method, refinement and threshold."""
        own = {"method": self.method, "refine": self.refine, "threshold": self.threshold}
        known = {field.name for field in fields(config)}
        chosen: dict[str, Any] = {name: value for name, value in own.items() if name in known and value is not None}
        return replace(config, **chosen)

    def check_given(self, given: Iterable[str]) -> None:
        """`ValueError` if one of these settings is about an MM-DiT's maps and the method never runs on an MM-DiT."""
        if self.baseline is not None and not self.baseline.joint:
            refuse_map_settings(self.method, given)


def refuse_map_settings(method: str, given: Iterable[str]) -> None:
    """`ValueError` if one of these settings is about an MM-DiT's maps; the method runs as a whole system."""
    for name in given:
        if name in MAP_SETTINGS:
            raise ValueError(f"{name} is about an MM-DiT's maps; method {method} is a whole system here, leave it out")


def changed_settings(config: EvaluateConfig | SegmentConfig) -> list[str]:
    """Names of settings that are not at their defaults."""
    plain = type(config)()
    return [field.name for field in fields(config) if getattr(config, field.name) != getattr(plain, field.name)]
