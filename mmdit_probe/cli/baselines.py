"""What segment, group and evaluate share about the baselines: options, settings and loading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import typer

from mmdit_probe.baselines.registry import SEG4DIFF, SYSTEMS, source_of
from mmdit_probe.configs import EvaluateConfig
from mmdit_probe.configs.baselines import DiffSegConfig, RefineConfig, for_dataset
from mmdit_probe.storage.digests import model_fingerprint

from . import options as common

Refine = Annotated[
    Literal["none", "i2i", "diffsegmenter", "iseg", "corrclip-vote"],
    typer.Option(
        help="Seg4Diff's maps refined: i2i or diffsegmenter, smoothed by the image's own attention; iseg, smoothed again "
        "and again by it sharpened, with longer words; corrclip-vote, every mask (--masks, else one color) one class."
    ),
]
Masks = Annotated[
    str | None,
    typer.Option(
        help="SAM or SAM 2 for corrclip and corrclip-vote, hub id or folder. corrclip's default: "
        "facebook/sam2.1-hiera-large; corrclip-vote's: connected parts of one color, without any model."
    ),
]
Dino = Annotated[
    str | None, typer.Option(help="DINO for proxyclip and corrclip, hub id or folder. Default: facebook/dino-vitb8.")
]
RefineSteps = Annotated[
    int | None,
    typer.Option(
        min=1, help="How often the maps are smoothed. Default: 1 for diffsegmenter; for iseg 8, 5 or 10 by data set."
    ),
]
RefineEntropy = Annotated[
    float | None,
    typer.Option(min=0, help="iseg: how much the attention is sharpened. Default: 0.015, 0.002 or 0.2 by data set."),
]


def chosen(method: str, source: common.Source) -> common.Source:
    """The source with the released backbone where the method can't run on the embedded model; says so."""
    model = source_of(method, source.model)
    if model != source.model:
        typer.echo(f"{method}: its released backbone, {model}; name another by --model", err=True)
    return replace(source, model=model)


def label(method: str, source: common.Source, dino: str | None, masks: str | None, refine: str = "none") -> str:
    """What the numbers depend on, in words."""
    parts = [source.label]
    if method in SYSTEMS and SYSTEMS[method].kind == "clip" and dino is not None:
        parts.append(f"DINO {model_fingerprint(dino)}")
    if (method == "corrclip" or refine == "corrclip-vote") and masks is not None:
        parts.append(f"masks {model_fingerprint(masks)}")
    return ", ".join(parts)


def checked(method: str, refine: str, masks: str | None, dino: str | None) -> None:
    """`ValueError` where an option belongs to another method."""
    if method != SEG4DIFF and refine != "none":
        raise ValueError(f"--refine is for seg4diff's maps; leave it out with --method {method}")
    if masks is not None and method != "corrclip" and refine != "corrclip-vote":
        raise ValueError("--masks is for --method corrclip or --refine corrclip-vote")
    if dino is not None and method not in ("proxyclip", "corrclip"):
        raise ValueError("--dino is for --method proxyclip or corrclip")


def refinement(steps: int | None, entropy: float | None, dataset: str = "") -> RefineConfig:
    """The refiners' settings: the released ones, as they are for the data set, with what was asked for."""
    config = for_dataset(RefineConfig(), dataset)
    if steps is not None:
        config = replace(config, steps=steps, iterations=steps)
    return config if entropy is None else replace(config, entropy=entropy)


def without_layer(method: str, layer: str | None) -> None:
    """`ValueError` where a layer was named for a whole system."""
    if layer is not None:
        raise ValueError(f"--layer is about an MM-DiT; --method {method} is a whole system here, leave it out")


def is_joint(pipe: Any) -> bool:
    """Whether a pipeline has a transformer, not a U-Net."""
    return getattr(pipe, "transformer", None) is not None


def settings(method: str, threshold: float | None, dataset: str = "", joint: bool = False) -> Any:
    """A system's settings: the released ones, as they are for the data set, with the threshold that was asked for."""
    config: Any = for_dataset(SYSTEMS[method].config, dataset)
    name = SYSTEMS[method].threshold
    if threshold is not None and name is None:
        raise ValueError(f"--threshold is for seg4diff, diffseg and diffcut, not for {method}")
    if threshold is None and joint and isinstance(config, DiffSegConfig):
        threshold = config.joint_threshold
    return config if threshold is None or name is None else replace(config, **{name: threshold})


def load_masks(masks: str | None, source: common.Source) -> Callable[..., Any] | None:
    """SAM, None where none was named."""
    from mmdit_probe.baselines.loading import load_masks

    return None if masks is None else load_masks(masks, source.device)


def load_system(method: str, source: common.Source, config: Any, dino: str | None, masks: str | None) -> Any:
    """A whole system: U-Net or CLIP and what it needs beside it."""
    from mmdit_probe.baselines.loading import clip_system, load_clip_parts, unet_system

    if SYSTEMS[method].kind == "clip":
        parts = load_clip_parts(method, source.model, dino, masks, device=source.device, dtype=source.dtype)
        return clip_system(method, parts, config)
    return unet_system(method, source.load(), config)


def counted(
    config: EvaluateConfig, source: common.Source, threshold: float | None, dino: str | None, masks: str | None
) -> tuple[Any, Any]:
    """A baseline for `run_evaluation`: the pipeline and its counter on an MM-DiT, None and its counter for a whole system."""
    from mmdit_probe.baselines.counters import BaselineCounter, RegionCounter
    from mmdit_probe.baselines.loading import unet_system

    method = config.method
    if not SYSTEMS[method].joint:
        own = settings(method, threshold, config.dataset)
        check_whole(config)
        return None, BaselineCounter(load_system(method, source, own, dino, masks), config)
    pipe = source.load()
    own = settings(method, threshold, config.dataset, is_joint(pipe))
    if is_joint(pipe):
        return pipe, RegionCounter(pipe, config, own)
    check_whole(config)
    return None, BaselineCounter(unet_system(method, pipe, own), config)


def check_whole(config: EvaluateConfig) -> None:
    """`ValueError` where an option is about an MM-DiT's maps and the method is a whole system."""
    plain = EvaluateConfig()
    for name in ("layers", "heads", "timesteps", "normalize"):
        if getattr(config, name) != getattr(plain, name):
            raise ValueError(
                f"--{name} is about an MM-DiT's maps; --method {config.method} is a whole system, leave it out"
            )
