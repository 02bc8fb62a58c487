"""How many layers a model has, from its configuration alone, so that layer numbers are checked before it is loaded."""

from __future__ import annotations

from typing import Any

import diffusers
import torch

from ..configs import EMBEDDED, EMBEDDED_MODELS
from ..families import DENOISERS, layers_of
from .hub import local_only
from .loading import embedded_folder
from .modular_loading import index_of
from .pretrained import quiet_loading


def layer_count(model: str = EMBEDDED, revision: str | None = None) -> int | None:
    """The number of layers that a `Probe` of the model counts, without its weights; None if that can't be said.

    ``model`` and ``revision`` as in `load_pipeline`. Of a hub id, two configuration files are fetched. Whatever is wrong
    with the model is left for `load_pipeline` to explain.

    >>> layer_count("tiny-sd3")
    12
    """
    source = str(embedded_folder(model)) if model in EMBEDDED_MODELS else model
    try:
        with quiet_loading():
            return len(layers_of(_without_weights(source, revision)))
    except Exception:
        return None


def _without_weights(source: str, revision: str | None) -> Any:
    """The pipeline's transformer or U-Net on the meta device."""
    options: dict[str, Any] = {"revision": revision, "local_files_only": local_only(source)}
    index = index_of(source, revision, options["local_files_only"])
    part = next(part for part in DENOISERS if index.get(part))
    library, name = index[part][:2]
    if library != "diffusers":
        raise ValueError(f"{source}: {name} is no class of diffusers")
    kind = getattr(diffusers, name)
    config = kind.load_config(source, subfolder=part, **options)
    with torch.device("meta"):
        return kind.from_config(config)
