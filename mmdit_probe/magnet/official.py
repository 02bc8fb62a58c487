"""Converting the released LoRA files to the format that pipelines load."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from ..families import stable_diffusion_3_pipeline
from ..pipelines.pretrained import quiet_loading
from .lora import write_lora

_NAME = re.compile(r"backbone\.transformer\.(?P<module>.+)\.lora_(?P<side>[AB])\.default\.weight")


def import_official(file: Path, folder: Path) -> Path:
    """Convert a released ``lora_weights.pth`` to ``folder``/pytorch_lora_weights.safetensors.

    The file's ``model`` maps ``backbone.transformer.<module>.lora_A.default.weight`` (and ``lora_B``) to tensors. Anything
    else in it, such as the mask head, is left out. No code in the file is executed.

    Raises:
        ValueError: the file is missing, has another format, or the two matrices of a module do not fit together.
    """
    weights = official_weights(_loaded(file), file)
    ranks = {len(weight) for name, weight in weights.items() if ".lora_A." in name}
    if len(ranks) != 1:
        raise ValueError(f"import-official: {file} has LoRAs of several ranks ({sorted(ranks)}); expected one")
    rank = ranks.pop()
    modules = sorted({name.rsplit(".lora_", 1)[0] for name in weights})
    config = LoraConfig(r=rank, lora_alpha=rank, target_modules=modules)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_loading():
        pipeline = stable_diffusion_3_pipeline()  # its import prints notes

    return write_lora(pipeline, weights, config, folder)


def official_weights(state: Mapping[str, Any], source: Path) -> dict[str, Tensor]:
    """The LoRA's weights under peft's names; `ValueError` if there are none, or a module lacks one of its two matrices."""
    weights = {}
    for name, value in state.items():
        found = _NAME.fullmatch(name)
        if found and isinstance(value, Tensor):
            weights[f"{found['module']}.lora_{found['side']}.weight"] = value.contiguous()
    if not weights:
        raise ValueError(
            f"import-official: {source} holds no LoRA of the released code "
            f"(backbone.transformer.<module>.lora_A.default.weight); its first name is {next(iter(state), 'none')!r}"
        )
    for name, down in weights.items():
        up = weights.get(name.replace(".lora_A.", ".lora_B."))
        if ".lora_A." in name and (up is None or up.shape[1] != down.shape[0]):
            raise ValueError(f"import-official: {source}: {name} has no lora_B of the same rank")
    return weights


def _loaded(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        raise ValueError(f"import-official: no file {file}")
    try:
        content = torch.load(file, weights_only=True, map_location="cpu")
    except Exception as error:
        raise ValueError(
            f"import-official: {file} can't be read as tensors alone ({type(error).__name__}); nothing else is loaded"
        ) from error
    state = content.get("model", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping):
        raise ValueError(f"import-official: {file} holds a {type(content).__name__}; expected a dict of tensors")
    return state
