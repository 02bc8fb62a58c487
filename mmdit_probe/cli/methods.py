"""What segment, group and evaluate share: the method that labels images, selected and loaded."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING

from mmdit_probe.configs import ModelConfig, Settings
from mmdit_probe.utils.distributed import own_device

from .options import naming_options
from .session import load
from .terminal import tell

if TYPE_CHECKING:
    from mmdit_probe.baselines.loaded import LoadedMethod
    from mmdit_probe.baselines.selection import Selection


def selected(*settings: Settings) -> Selection:
    """The method, refinement and threshold that these settings ask for; `ValueError` with an option's name."""
    from mmdit_probe.baselines.selection import Selection

    given = {field.name: getattr(one, field.name) for one in settings for field in fields(one)}
    with naming_options(*(type(one) for one in settings)):
        return Selection(**{field.name: given[field.name] for field in fields(Selection) if field.name in given})


def backbone(selection: Selection, model: ModelConfig) -> ModelConfig:
    """The model to load; says so if it is the method's released backbone instead of the embedded model."""
    source = selection.source(model.model)
    if source != model.model:
        tell(f"{selection.method}: its released backbone, {source}; name another by --model")
    return replace(model, model=source)


def loaded(selection: Selection, model: ModelConfig) -> LoadedMethod:
    """The method on its models."""
    from mmdit_probe.baselines.loaded import load_method

    return load_method(selection, model.model, lambda: load(model), device=own_device(model.device), dtype=model.dtype)
