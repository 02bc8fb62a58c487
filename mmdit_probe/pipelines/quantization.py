"""Transformers with weights of 8 or 4 bits: what `from_pretrained` is told."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch

Quantize = Literal["none", "int8", "nf4"]
PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}
"""What each kind needs beside this package."""


def quantization(kind: str, dtype: torch.dtype, place: torch.device) -> dict[str, Any]:
    """Options for a pipeline whose transformer or U-Net keeps its linear layers' weights in fewer bits.

    ``int8`` is torchao's weight-only quantization, on any device; ``nf4`` the 4-bit normal float of bitsandbytes, on
    CUDA. What is computed stays ``dtype``: queries, keys and values are read as they are used. `ValueError` if the kind is
    unknown, its package is missing, or the device does not do.
    """
    if kind == "none":
        return {}
    if kind not in PACKAGES:
        raise ValueError(f"load_pipeline: quantize must be none, {' or '.join(PACKAGES)}, got {kind!r}")
    if find_spec(PACKAGES[kind]) is None:
        raise ValueError(f"quantize {kind} needs {PACKAGES[kind]}: pip install 'mmdit-probe[quantized]'")
    if kind == "nf4" and place.type != "cuda":
        raise ValueError(f"quantize nf4 needs --device cuda, got {place.type}; int8 works on any")
    from diffusers import PipelineQuantizationConfig

    chosen = _int8() if kind == "int8" else _nf4(dtype)
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping={"transformer": chosen, "unet": chosen})}


def _int8() -> Any:
    from diffusers import TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _nf4(dtype: torch.dtype) -> Any:
    from diffusers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
