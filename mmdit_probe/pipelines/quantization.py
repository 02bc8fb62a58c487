"""Transformers with 8-bit or 4-bit weights: the options for `from_pretrained`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from ..configs.model import Quantize
from ..families import DENOISERS

PACKAGES = {"int8": "torchao", "nf4": "bitsandbytes"}
"""The package that each kind needs."""


def quantization(kind: Quantize, dtype: torch.dtype, place: torch.device) -> dict[str, Any]:
    """Options of `DiffusionPipeline.from_pretrained` that quantize the linear layers of the transformer or U-Net.

    ``int8`` is torchao's weight-only quantization, on any device; ``nf4`` the 4-bit normal float of bitsandbytes, on
    CUDA. Activations stay in ``dtype``, so that a probe reads queries, keys and values as they are used.

    Raises:
        ValueError: the kind is unknown, its package is missing, or the device does not support it.
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
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping=dict.fromkeys(DENOISERS, chosen))}


def _int8() -> Any:
    from diffusers import TorchAoConfig
    from torchao.quantization import Int8WeightOnlyConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def _nf4(dtype: torch.dtype) -> Any:
    from diffusers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
