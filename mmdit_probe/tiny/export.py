"""Saving the trained parts as a pipeline folder, such as the package ships."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from ..datasets.scenes import SIZE
from ..pipelines.defaults import ModelDefaults
from ..storage.files import read_text, write_text
from .recipe import Recipe

RECIPE = "recipe.json"


def save_half(pipe: DiffusionPipeline, folder: Path) -> None:
    """Save the pipeline in fp16 safetensors, without the paths that its parts were loaded from."""
    pipe.to(torch.float16).save_pretrained(folder)
    for file in folder.glob("*/config.json"):
        settings = json.loads(file.read_text())
        settings.pop("_name_or_path", None)
        file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")


def save_recipe(recipe: Recipe, folder: Path) -> None:
    """Keep the settings that a folder's weights were trained with beside them."""
    write_text(folder / RECIPE, json.dumps(asdict(recipe), indent=1) + "\n")


def load_recipe(folder: Path) -> Recipe:
    """The settings kept by `save_recipe`; those of a tiny-sd3 from random weights if there is no such file."""
    file = folder / RECIPE
    if not file.is_file():
        return Recipe()
    values: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in json.loads(read_text(file)).items()
    }
    try:
        return Recipe(**values)
    except TypeError as error:
        raise ValueError(f"{file} is no recipe of this version ({error}); train again, or delete it") from error


def save_defaults(recipe: Recipe, folder: Path, expert_layer: int | None = None, why: str = "") -> None:
    """Write what the probe takes for this model if the user names nothing (`pipelines.model_defaults`)."""
    defaults = ModelDefaults(expert_layer, recipe.guidance, recipe.text_positions, why, SIZE)
    write_text(folder / "probe_defaults.json", json.dumps(asdict(defaults), indent=1))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file, by its path in ``folder``."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*.safetensors"))
    }


def name_of_weights(folder: Path) -> str:
    """A pipeline folder's name and the first twelve digits of its transformer's SHA-256."""
    return f"{folder.resolve().name}, transformer {next(iter(digests(folder / 'transformer').values()))[:12]}"
