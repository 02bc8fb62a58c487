"""The LoRA that MAGNET trains: an adapter on the attention projections, and the file that pipelines load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor, nn

from ..families import Pipeline, denoiser_of, image_projections, switch_lora
from ..storage.files import announce, unwritable

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"


def add_lora(pipe: Pipeline, rank: int, seed: int = 0) -> list[nn.Parameter]:
    """Put a new adapter of ``rank`` (and the same alpha) on every attention layer's image projections; freeze all else.

    Returns the adapter's parameters in fp32; the model's output is unchanged until they are trained. `ValueError` if
    ``rank`` is below 1, or the model already has an adapter.
    """
    if rank < 1:
        raise ValueError(f"magnet: the LoRA's rank must be at least 1, got {rank}")
    transformer = denoiser_of(pipe)
    if getattr(transformer, "peft_config", None):
        raise ValueError("magnet: the model has a LoRA already; train a model without one")
    targets = image_projections(pipe)
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    torch.manual_seed(seed)
    transformer.add_adapter(LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=targets))
    trained = [weight for weight in transformer.parameters() if weight.requires_grad]
    for weight in trained:
        weight.data = weight.data.float()
    return trained


def lora_weights(transformer: nn.Module) -> dict[str, Tensor]:
    """The adapter's weights by name, on the CPU."""
    return {name: weight.detach().cpu() for name, weight in get_peft_model_state_dict(transformer).items()}


def set_lora_weights(transformer: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load what `lora_weights` returned into an adapter of the same shape."""
    set_peft_model_state_dict(transformer, dict(weights))


def save_lora(pipe: Pipeline, folder: Path) -> Path:
    """Write the adapter in the format that ``pipe.load_lora_weights(folder)`` and ``--lora folder`` read."""
    transformer = denoiser_of(pipe)
    return write_lora(type(pipe), lora_weights(transformer), transformer.peft_config["default"], folder)


def write_lora(pipeline: Any, weights: Mapping[str, Tensor], config: LoraConfig | None, folder: Path) -> Path:
    """Write ``weights`` atomically in the LoRA format of a pipeline class."""
    part = folder / ".lora.part"
    announce(folder / WEIGHTS_FILE)
    try:
        pipeline.save_lora_weights(
            part,
            transformer_lora_layers=dict(weights),
            safe_serialization=True,
            transformer_lora_adapter_metadata=None if config is None else _plain(config.to_dict()),
        )
        os.replace(part / WEIGHTS_FILE, folder / WEIGHTS_FILE)
    except (OSError, SafetensorError) as error:
        raise ValueError(unwritable(folder / WEIGHTS_FILE, error)) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder / WEIGHTS_FILE


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config with sets as sorted lists, which JSON can hold."""
    return {key: sorted(value) if isinstance(value, set) else value for key, value in config.items()}


@contextmanager
def without_lora(pipe: Pipeline) -> Iterator[None]:
    """Inside the with block the pipeline computes without its LoRA."""
    switch_lora(pipe, False)
    try:
        yield
    finally:
        switch_lora(pipe, True)
