"""The edit that the settings ask for, by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..attention.layout import Region
from ..configs.edits import EditConfig
from ..edits import (
    Bias,
    BlurGrid,
    BlurText,
    Bypass,
    Edit,
    GroupKeys,
    HeadScale,
    Knockout,
    Regions,
    RemoveKeys,
    Scale,
    ScaleText,
    SelfAttend,
    Uniform,
)
from ..metrics.verdicts import listed
from .given_places import given_place, given_regions


def make_edit(config: EditConfig, layer: int, place: Mapping[str, Any] | None = None) -> Edit:
    """The edit of one layer; every one but patch, which needs another run's states first.

    Args:
        config: which edit, and what it is told.
        layer: a layer number.
        place: ``heads`` or ``steps`` that are edited alone; None for all.
    """
    where: dict[str, Any] = {"batch": config.edit_branch, **(place or {}), **_chosen(config)}
    amount = config.chosen_amount
    if config.edit in ("bypass", "scale-text") and "heads" in where:
        raise ValueError(f"perturb: {config.edit} changes a whole block, which has no heads; take --by layer or step")
    made: dict[str, Callable[[], Edit]] = {
        "blur-text": lambda: _blur_text(config, layer, where),
        "blur-grid": lambda: BlurGrid(layer, config.sigma, config.kernel, config.blur_edge, **where),
        "uniform": lambda: Uniform(layer, **where),
        "knockout": lambda: Knockout(layer, **where),
        "scale": lambda: Scale(layer, amount, **where),
        "bias": lambda: _bias(config, layer, where),
        "regions": lambda: _regions(config, layer, where),
        "self-attend": lambda: SelfAttend(layer, amount, **where),
        "remove-sinks": lambda: RemoveKeys(layer, sinks=config.keys, **where),
        "remove-random": lambda: RemoveKeys(layer, random=config.keys, **where),
        "head-scale": lambda: HeadScale(layer, factor=amount, **{"heads": None, **where}),
        "group-keys": lambda: GroupKeys(layer, "image", delta=amount, **where),
        "bypass": lambda: Bypass(layer, **where),
        "scale-text": lambda: ScaleText(layer, amount, **where),
    }
    return made[config.edit]()


def _chosen(config: EditConfig) -> dict[str, Any]:
    """The edge, the reference images and the words, as edits take them; nothing where the usual ones are meant."""
    edge = {} if config.edge == Region.I2T else {"edge": config.edge}
    references = {"references": list(config.references)} if config.references else {}
    return {**edge, **references, **({"words": config.words} if config.words else {})}


def _blur_text(config: EditConfig, layer: int, where: dict[str, Any]) -> Edit:
    if config.kernel is None:
        raise ValueError("perturb: blur-text needs a kernel size; the paper's is 5")
    return BlurText(layer, config.sigma, config.kernel, config.blur_edge, **where)


def _bias(config: EditConfig, layer: int, where: dict[str, Any]) -> Edit:
    if not config.words:
        raise ValueError("words: bias needs at least one word of the prompts")
    place = None if config.place is None else given_place("where", config.place)
    return Bias(layer, where.pop("words", ()), config.chosen_amount, place, **where)


def _regions(config: EditConfig, layer: int, where: dict[str, Any]) -> Edit:
    if not config.region:
        raise ValueError('region: regions needs a word and its place, such as --region "red circle=0,0,0.5,1"')
    places, hard = given_regions(config.region), config.binding == "hard"
    return Regions(places, hard, layer=layer, strength=config.chosen_amount, **where)


def edited_part(config: EditConfig) -> str:
    """What is done, and where: the edit's name, and what says on which words, places and edge it acts."""
    numbers = f" of reference {listed([str(number) for number in config.references])}" if config.references else ""
    edge = [] if config.edge == Region.I2T else [config.edge + numbers]
    place = [] if config.place is None else [f"in {config.place}"]
    words = [listed([repr(word) for word in config.words])] if config.words else []
    source = [] if config.source is None else [f"{config.tokens} tokens' {config.what} of {config.source!r}"]
    return ", ".join([config.edit, *edge, *words, *place, *config.region, *source])
