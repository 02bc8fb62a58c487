"""Saving the trained parts as the pipeline folder that the package ships."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from diffusers import DiffusionPipeline


def save_half(pipe: DiffusionPipeline, folder: Path) -> None:
    """Save the pipeline in fp16 safetensors, without the paths that its parts were loaded from."""
    pipe.to(torch.float16).save_pretrained(folder)
    for file in folder.glob("*/config.json"):
        settings = json.loads(file.read_text())
        settings.pop("_name_or_path", None)
        file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file, by its path in ``folder``."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
    }
