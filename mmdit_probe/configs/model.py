"""Which model, and how it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from .setting import MODEL, Setting, Settings

EMBEDDED = "tiny-sd3"
"""Stands for the model that is taken where none is named."""
EMBEDDED_MODELS = (EMBEDDED, "tiny-flux")
"""The models that the package brings; they know the built-in scenes."""

Dtype = Literal["fp32", "bf16", "fp16"]
Offload = Literal["none", "model", "sequential"]
Quantize = Literal["none", "int8", "nf4"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """A diffusers pipeline, and how it is loaded (`pipelines.load_pipeline`)."""

    model: Annotated[
        str,
        Setting(
            "tiny-sd3 or tiny-flux (embedded), a diffusers folder, or a hub id such as "
            "stabilityai/stable-diffusion-3-medium-diffusers.",
            MODEL,
            is_place=True,
        ),
    ] = EMBEDDED
    dtype: Annotated[Dtype, Setting("Number format of the weights.", MODEL)] = "fp32"
    device: Annotated[str, Setting("cpu, cuda, cuda:1, or mps (untested).", MODEL)] = "cpu"
    revision: Annotated[str | None, Setting("Branch, tag or commit of a hub id.", MODEL)] = None
    weights_variant: Annotated[
        str | None,
        Setting(
            "Which weights to read of a model that has several: fp16 for files named *.fp16.safetensors.",
            MODEL,
            flags=("--variant",),
            default="the plain ones",
        ),
    ] = None
    offload: Annotated[
        Offload,
        Setting(
            "CPU offload: model keeps one component on the GPU at a time, sequential one layer (slow).",
            MODEL,
        ),
    ] = "none"
    quantize: Annotated[
        Quantize,
        Setting(
            "Weights of the transformer in fewer bits: int8 needs torchao, nf4 bitsandbytes and --device cuda.", MODEL
        ),
    ] = "none"
    lora: Annotated[
        str | None, Setting("A LoRA on top: a .safetensors file, a folder or a hub id.", MODEL, is_place=True)
    ] = None
