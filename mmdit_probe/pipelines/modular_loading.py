"""Loading modular pipelines: made of diffusers' own steps alone, with prompts encoded as they are given."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline
from torch import nn

from ..families import T5_PARTS, needed_parts, pipeline_class, quiet, step_class, verbatim
from ..storage.files import read_text
from .hub import is_hub_id, local_only
from .pretrained import dtype_option

INDEX, MODULAR_INDEX = "model_index.json", "modular_model_index.json"
_BLOCKS = "modular_config.json"
"""In a model that brings steps of its own."""


class ModularError(ValueError):
    """A modular pipeline that can't be loaded as asked; the text says why."""


def index_of(source: str, revision: str | None, local: bool) -> Mapping[str, Any]:
    """The table of parts of an ordinary or a modular pipeline: a folder's or a hub id's."""
    options = {"revision": revision, "local_files_only": local}
    folder = Path(source)
    if folder.is_dir() and not (folder / INDEX).is_file():
        return diffusers.ModularPipeline.load_config(source, **options)
    try:
        return DiffusionPipeline.load_config(source, **options)
    except OSError:
        if folder.exists():
            raise
        try:
            return diffusers.ModularPipeline.load_config(source, **options)
        except OSError:
            pass
        raise


def index_is_modular(index: Mapping[str, Any]) -> bool:
    """Whether a table of parts is a modular pipeline's."""
    if "_blocks_class_name" in index:
        return True
    kind, modular = getattr(diffusers, str(index.get("_class_name")), None), pipeline_class()
    return isinstance(kind, type) and modular is not None and issubclass(kind, modular)


def load_modular(
    source: str,
    index: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    revision: str | None,
    variant: str | None,
    t5: bool,
    local: bool,
    refused: Collection[str] = (),
) -> Any:
    """A modular pipeline with its parts, on the CPU; its steps that rewrite prompts are left out.

    Args:
        source: a folder or a hub id.
        index: its table of parts.
        dtype: of the models.
        revision: of a hub id.
        variant: which weights are read.
        t5: as in `load_pipeline`.
        local: whether nothing is to be fetched.
        refused: what was asked for that a modular pipeline can't be loaded with.

    Raises:
        ModularError: it was made of other steps than those of diffusers, or lacks a part that it needs for a prompt.
    """
    if refused:
        raise ModularError(
            f"load_pipeline: {source!r} is a modular pipeline, which is not loaded with {', '.join(sorted(refused))}; load it "
            "with diffusers.ModularPipeline, and give that to the probe"
        )
    _refuse_code(source, revision, local)
    kind, steps = _classes(source, index)
    options = {"pretrained_model_name_or_path": source, "revision": revision, "local_files_only": local}
    pipe = kind(blocks=verbatim(steps()), **options)
    left_out = () if t5 else T5_PARTS
    loaded = {}
    for name in pipe.pretrained_component_names:
        spec = pipe.get_component_spec(name)
        if spec.pretrained_model_name_or_path and name not in left_out:
            loaded[name] = _load(spec, dtype, variant)
    pipe.register_components(**loaded)
    missing = [name for name in needed_parts(pipe) if name not in loaded and name not in left_out]
    if missing:
        raise ModularError(f"load_pipeline: {source} lacks its part {missing[0]}; copy the model again")
    quiet(pipe)
    return pipe


def _load(spec: Any, dtype: torch.dtype, variant: str | None) -> Any:
    options: dict[str, Any] = {"local_files_only": local_only(str(spec.pretrained_model_name_or_path))}
    kind = spec.type_hint
    if isinstance(kind, type) and kind.__module__.split(".")[0] == "transformers":
        options["trust_remote_code"] = False
    if kind is None or issubclass(kind, nn.Module):
        options |= {
            **dtype_option(dtype, kind),
            "use_safetensors": True,
            **({} if variant is None else {"variant": variant}),
        }
    try:
        return spec.load(**options)
    except Exception as error:
        if "trust_remote_code" in str(error):
            raise _code(f"a part {spec.name} with code of its own") from error
        raise


def _refuse_code(source: str, revision: str | None, local: bool) -> None:
    """`ModularError` if the model brings steps of its own: they are never run."""
    folder = Path(source)
    if folder.is_dir():
        brings = (folder / _BLOCKS).is_file()
    else:
        try:
            brings = bool(
                diffusers.ModularPipelineBlocks.load_config(source, revision=revision, local_files_only=local)
            )
        except OSError:
            brings = False
    if brings:
        raise _code(f"steps of its own ({_BLOCKS})")


def _code(what: str) -> ModularError:
    return ModularError(
        f"load_pipeline: this model brings {what}, which is not run here; if you trust it, load the pipeline with "
        "diffusers.ModularPipeline, and give that to the probe"
    )


def _classes(source: str, index: Mapping[str, Any]) -> tuple[Any, Any]:
    """The classes of the pipeline and of its steps, from diffusers alone."""
    pipeline, blocks = str(index.get("_class_name")), str(index.get("_blocks_class_name"))
    kind, steps = getattr(diffusers, pipeline, None), getattr(diffusers, blocks, None)
    for name, found, base in ((pipeline, kind, pipeline_class()), (blocks, steps, step_class())):
        known = isinstance(found, type) and base is not None and issubclass(found, base)
        if not known or (found is steps and not getattr(found, "block_classes", None)):
            raise ModularError(
                f"load_pipeline: {source} was made of {name}, which are no steps of diffusers {diffusers.__version__}; make the "
                "pipeline in Python, and give that to the probe"
            )
    for name, part in index.items():
        library = part[0] if isinstance(part, list) and len(part) == 3 else None
        if library not in (None, "diffusers", "transformers") and not hasattr(diffusers.pipelines, str(library)):
            raise _code(f"a part {name} of {library}")
    return kind, steps


def parts_in(folder: Path, index: Path) -> dict[str, Any]:
    """Which parts a folder's table names: of a modular pipeline, those that stand in the folder itself.

    A part of another model on the hub is fetched from there.
    """
    found = dict(json.loads(read_text(index)))
    for name, kind in list(found.items()):
        spec = kind[2] if isinstance(kind, list) and len(kind) == 3 and isinstance(kind[2], dict) else None
        if spec is not None:
            place = str(spec.get("pretrained_model_name_or_path") or "")
            elsewhere = not (folder / name).is_dir() and is_hub_id(place) and not Path(place).exists()
            found[name] = None if elsewhere else kind
    return found
