"""Baseline systems from hub ids or folders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..configs.baselines import CorrCLIPConfig
from ..families import Pipeline
from ..pipelines.loading import DTYPES, torch_device
from ..pipelines.pretrained import load_pretrained
from .corrclip import CorrCLIP
from .diffcut import DiffCut
from .diffseg import DiffSeg
from .diffsegmenter import DiffSegmenter
from .iseg import ISeg
from .proxyclip import ProxyCLIP
from .registry import DINO, SAM, SYSTEMS
from .sam import SamMasks

Masks = Callable[[np.ndarray], np.ndarray]
UNETS: dict[str, Any] = {"diffsegmenter": DiffSegmenter, "iseg": ISeg, "diffseg": DiffSeg, "diffcut": DiffCut}


def unet_system(method: str, pipe: Pipeline, config: Any = None) -> Any:
    """DiffSegmenter, iSeg, DiffSeg or DiffCut on a loaded pipeline; `ValueError` if the pipeline has no U-Net."""
    return UNETS[method](pipe, config or SYSTEMS[method].config)


class ClipParts(NamedTuple):
    """The models of ProxyCLIP or CorrCLIP; ``masks`` is None for ProxyCLIP."""

    clip: Any
    processor: Any
    dino: Any
    masks: Any


def load_clip_parts(
    method: str,
    model: str,
    dino: str | None = None,
    masks: str | None = None,
    *,
    device: str = "cpu",
    dtype: str = "fp32",
) -> ClipParts:
    """Load the models of ProxyCLIP or CorrCLIP from hub ids or folders; `ValueError` if one is not available."""
    from transformers import CLIPModel, CLIPProcessor, ViTModel

    return ClipParts(
        load_part("CLIP", CLIPModel, model, device, dtype),
        load_part("CLIP", CLIPProcessor, model),
        load_part("DINO", ViTModel, dino or DINO, device, dtype, add_pooling_layer=False),
        load_masks(masks, device, SYSTEMS[method].config) if method == "corrclip" else None,
    )


def clip_system(method: str, parts: ClipParts, config: Any = None) -> ProxyCLIP | CorrCLIP:
    """ProxyCLIP or CorrCLIP with its loaded models."""
    config = config or SYSTEMS[method].config
    if method == "proxyclip":
        return ProxyCLIP(parts.clip, parts.processor, parts.dino, config)
    return CorrCLIP(parts.clip, parts.processor, parts.dino, parts.masks, config)


def load_masks(source: str | None, device: str = "cpu", config: CorrCLIPConfig | None = None) -> SamMasks:
    """SAM or SAM 2 from a hub id or folder."""
    from transformers import AutoConfig, Sam2Model, SamModel

    source, config = source or SAM, config or CorrCLIPConfig()
    kind = load_part("SAM", AutoConfig, source).model_type
    # SAM 2's video checkpoints hold the image model
    classes = {"sam": SamModel, "sam2": Sam2Model, "sam2_video": Sam2Model}
    if kind not in classes:
        raise ValueError(f"masks: {source!r} is a {kind} model; give a SAM or SAM 2, such as {SAM}")
    return SamMasks(load_part("SAM", classes[kind], source, device), config.points, config.iou, config.stability)


def load_part(what: str, kind: Any, source: str, device: str | None = None, dtype: str = "fp32", **options: Any) -> Any:
    """One transformers object; models on ``device``, without gradients; `ValueError` if it can't be loaded."""
    if device is None:
        return load_pretrained(what, kind, source, **options)
    model = load_pretrained(what, kind, source, dtype=DTYPES[dtype], **options)
    return model.eval().requires_grad_(False).to(torch_device(device))
