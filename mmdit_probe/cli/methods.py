"""What segment, group and evaluate share: the method that labels images, selected and loaded."""

from __future__ import annotations

from dataclasses import fields, replace

from mmdit_probe.baselines.loaded import LoadedMethod, load_method
from mmdit_probe.baselines.selection import Selection
from mmdit_probe.configs import ModelConfig, Settings

from .options import by_flag
from .session import load
from .terminal import say


def selected(*settings: Settings) -> Selection:
    """The method, refinement and threshold that these settings ask for; `ValueError` with an option's name."""
    given = {field.name: getattr(one, field.name) for one in settings for field in fields(one)}
    try:
        return Selection(**{field.name: given[field.name] for field in fields(Selection) if field.name in given})
    except ValueError as error:
        raise ValueError(by_flag(str(error), *settings)) from None


def backbone(selection: Selection, model: ModelConfig) -> ModelConfig:
    """The model to load; says so if it is the method's released backbone instead of the embedded model."""
    source = selection.source(model.model)
    if source != model.model:
        say(f"{selection.method}: its released backbone, {source}; name another by --model", err=True)
    return replace(model, model=source)


def loaded(selection: Selection, model: ModelConfig) -> LoadedMethod:
    """The method on its models."""
    return load_method(selection, model.model, lambda: load(model), device=model.device, dtype=model.dtype)
