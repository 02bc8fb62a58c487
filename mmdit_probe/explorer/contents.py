"""The contents of an explorer page, taken from a record: token maps, each pixel's attention budget, and curves."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import xarray as xr

from ..attention.layout import Extra
from ..attention.text_tokens import Kind
from ..probe.dataset import recorded_layout, uniform_shares
from ..studies.recording import one_call_a_step
from ..utils.text import is_content_word
from .quantize import MAP_ERROR
from .regions import Regions, regions_of

MAPS = ("i2t_group", "i2t", "word_map")
UNKNOWN = "text"
"""Kind of a text position whose token is not known."""
FILLERS = (Kind.ABSENT, Kind.PADDING)
"""Kinds of tokens that may all have the same map, which is then kept once."""


@dataclass(frozen=True)
class Token:
    """A token of the page: one text position, or several whose maps are alike.

    ``places`` are the text positions; the token's map is the mean of theirs.
    """

    text: str
    kind: str
    encoder: str
    places: tuple[int, ...]

    @property
    def count(self) -> int:
        return len(self.places)


@dataclass(frozen=True, eq=False)
class Contents:
    """One image's attention, ready to be written into a page.

    Attributes:
        maps: (timestep, layer, head_group, token, row, col) I2T probabilities in [0, 1], means over the heads of a group.
        sizes: the number of heads in each group.
        tokens: the page's tokens.
        whole: whether the tokens are all of the text, so that each pixel's attention budget is known.
        curves: of every layer, if the record has them, ``region_mass`` (timestep, layer, head, region) and ``value_norm``
            (timestep, layer, head, stream).
        uniform: each region's mass if every query attended to all tokens alike.
        uniform_token: one token's probability in that case.
        attrs: the record's attributes.
        references: the reference images that the model was given.
        regions: what the record holds beside I2T.
    """

    maps: xr.DataArray
    sizes: tuple[int, ...]
    tokens: tuple[Token, ...]
    whole: bool
    curves: xr.Dataset
    uniform: dict[str, float]
    uniform_token: float
    attrs: dict[str, Any]
    references: tuple[Extra, ...] = ()
    regions: Regions = field(default_factory=Regions.none)

    @property
    def kinds(self) -> list[str]:
        """Kinds of the tokens, in order of first occurrence."""
        return list(dict.fromkeys(token.kind for token in self.tokens))

    def group_maps(self, timestep: int, layer: int) -> np.ndarray:
        """Maps (1 + groups, text position, pixel): the mean over all heads, then each group if there are several."""
        chosen = self.maps.values[timestep, layer]
        groups = chosen.reshape(*chosen.shape[:2], -1)
        mean = np.einsum("gtp,g->tp", groups, np.array(self.sizes) / sum(self.sizes))
        return np.concatenate([mean[None], groups]) if len(groups) > 1 else mean[None]

    def token_maps(self, maps: np.ndarray) -> np.ndarray:
        """Maps (1 + groups, token, pixel) of `tokens`, from `group_maps`."""
        return np.stack([maps[:, list(token.places)].mean(1) for token in self.tokens], 1)

    def token_matrix(self, name: str, timestep: int, layer: int) -> np.ndarray:
        """A region's probabilities at one timestep and layer (query, key), text positions joined to `tokens`."""
        values = self.regions.matrices[name].values[timestep, layer]
        if name in ("t2i", "t2t"):
            values = np.stack([values[list(token.places)].mean(0) for token in self.tokens])
        if name == "t2t":
            values = np.stack([values[:, list(token.places)].mean(1) for token in self.tokens], 1)
        return values

    def shares(self, maps: np.ndarray) -> np.ndarray:
        """Each pixel's attention to the image and to each kind of token, (1 + groups, 1 + kinds, pixel); the sum is 1."""
        places = [[p for token in self.tokens if token.kind == kind for p in token.places] for kind in self.kinds]
        text = np.stack([maps[:, chosen].sum(1) for chosen in places], 1)
        return np.concatenate([np.clip(1 - text.sum(1, keepdims=True), 0, 1), text], 1)

    def merged(self, groups: int) -> Contents:
        """The same contents with neighboring groups of heads merged into ``groups``."""
        parts = np.array_split(np.arange(len(self.sizes)), groups)
        if len(parts) >= len(self.sizes):
            return self
        joined = [
            self.maps.isel(head_group=part).weighted(xr.DataArray(np.array(self.sizes)[part], dims="head_group"))
            for part in parts
        ]
        maps = xr.concat([group.mean("head_group") for group in joined], "head_group").transpose(*self.maps.dims)
        return replace(
            self, maps=maps.astype(np.float32), sizes=tuple(sum(self.sizes[place] for place in part) for part in parts)
        )

    def start(self) -> dict[str, int]:
        """What the page shows first, as indices.

        The expert layer, or the layer with most I2T mass if it is not among the layers; timestep 8, or the middle one; the
        content word whose map has the highest peak over its mean; and the pixel of that peak.
        """
        layers, timesteps = list(self.maps["layer"].values), list(self.maps["timestep"].values)
        timestep = timesteps.index(8) if 8 in timesteps else len(timesteps) // 2
        expert = self.attrs.get("expert_layer", -1)
        mass = self.maps.isel(timestep=timestep).sum("token").mean(("head_group", "row", "col"))
        layer = layers.index(expert) if expert in layers else int(np.argmax(mass.values))
        maps = self.token_maps(self.group_maps(timestep, layer))[0]
        standing_out = maps.max(-1) - maps.mean(-1)
        content = [token.kind == Kind.WORD and is_content_word(token.text) for token in self.tokens]
        token = int(np.where(content, standing_out, -1 + 0 * standing_out).argmax()) if any(content) else 0
        return {"timestep": timestep, "layer": layer, "token": token, "place": int(maps[token].argmax())}


def contents_of(record: xr.Dataset, layers: tuple[int, ...] | None = None) -> Contents:
    """Take a page's contents from a record of `measure_exploration`, of a `Probe` with I2T maps, or of a study.

    Args:
        record: has ``i2t_group`` or ``i2t``, or ``word_map`` for chosen words only.
        layers: the layers to keep, None for all.

    Raises:
        ValueError: the record has no I2T maps, or not of these layers.
    """
    name = next((name for name in MAPS if name in record), None)
    if name is None or (name == "word_map" and record.attrs.get("direction", "i2t") != "i2t"):
        raise ValueError(
            f"explore: the record holds no I2T maps (it has {', '.join(map(str, record.data_vars)) or 'nothing'}); "
            "make one with mmdit-probe explore --record, or with Probe(pipe, [I2TMaps('all')])"
        )
    record = _one_image(record)
    maps = _kept(_ordered(record[name]), layers)
    whole = name != "word_map"
    tokens = _tokens(record, maps) if whole else tuple(_words(record))
    curves = record[[v for v in ("region_mass", "value_norm") if v in record]]
    sizes = _sizes(record, maps)
    uniform, layout = uniform_shares(record), recorded_layout(record)
    regions = regions_of(record, maps["layer"].values.tolist()) if whole else Regions.none()
    each = 1 / layout.keys
    return Contents(maps, sizes, tokens, whole, curves, uniform, each, dict(record.attrs), layout.references, regions)


def _one_image(record: xr.Dataset) -> xr.Dataset:
    """A record with the dims of a study's: the last batch row, and ``timestep`` in place of ``call``.

    If the number of sampling steps is not known, timesteps are 0, -1, -2, ... for steps 0, 1, 2, ...
    """
    if "prompt" in record.dims:
        record = record.isel(prompt=0)
    if "batch" in record.dims:
        record = record.isel(batch=-1)
    if "call" in record.dims:
        record = _last_tokens(one_call_a_step(record))
        record = record.drop_vars("timestep", errors="ignore").rename(call="timestep")
        numbers = record.attrs["steps"] - record["step"] if "steps" in record.attrs else -record["step"]
        record = record.assign_coords(timestep=numbers.values)
    return record


def _last_tokens(record: xr.Dataset) -> xr.Dataset:
    """The tokens of the last call, if calls with other prompts were recorded too."""
    by_call = [name for name in ("token_text", "token_kind") if name in record.coords and "call" in record[name].dims]
    return record.assign_coords({name: record[name].variable.isel(call=-1) for name in by_call})


def _ordered(maps: xr.DataArray) -> xr.DataArray:
    """(timestep, layer, head_group, token, row, col); a video's frames are averaged."""
    maps = maps.mean("frame") if "frame" in maps.dims else maps
    names = {"map_layer": "layer", "head": "head_group", "word": "token"}
    maps = maps.rename({old: new for old, new in names.items() if old in maps.dims})
    maps = maps if "head_group" in maps.dims else maps.expand_dims("head_group")
    return maps.transpose("timestep", "layer", "head_group", "token", "row", "col")


def _kept(maps: xr.DataArray, layers: tuple[int, ...] | None) -> xr.DataArray:
    """The maps of the chosen layers; `ValueError` if the record does not have them."""
    known = maps["layer"].values[np.isfinite(maps.values).any(axis=(0, 2, 3, 4, 5))]
    missing = sorted(set(layers or ()) - set(known.tolist()))
    if missing or not len(known):
        raise ValueError(f"explore: the record has no maps of layers {missing}; it has them of {known.tolist()}")
    return maps.sel(layer=known if layers is None else list(layers))


def _sizes(record: xr.Dataset, maps: xr.DataArray) -> tuple[int, ...]:
    if "heads" in record.coords:
        return tuple(int(size) for size in record["heads"].values)
    return (1,) * maps.sizes["head_group"]


def _words(record: xr.Dataset) -> list[Token]:
    return [Token(str(word), Kind.WORD, "", (place,)) for place, word in enumerate(record["word"].values)]


def _tokens(record: xr.Dataset, maps: xr.DataArray) -> tuple[Token, ...]:
    """A token per text position; runs of padding whose maps are equal within the page's precision become one token."""
    count = maps.sizes["token"]
    known = "token_text" in record.coords
    strings = record["token_text"].values.tolist() if known else [f"text {place}" for place in range(count)]
    kinds = record["token_kind"].values.tolist() if known else [UNKNOWN] * count
    encoders = record["token_encoder"].values.tolist() if known else [""] * count
    tokens = [Token(strings[place], kinds[place], encoders[place], (place,)) for place in range(count)]
    joined: list[Token] = []
    for token in tokens:
        last = joined[-1] if joined else None
        if last is not None and _alike(last, token, maps):
            joined[-1] = replace(last, places=(*last.places, *token.places))
        else:
            joined.append(token)
    return tuple(joined)


def _alike(first: Token, second: Token, maps: xr.DataArray) -> bool:
    if (first.kind, first.encoder) != (second.kind, second.encoder) or first.kind not in FILLERS:
        return False
    one, other = (maps.values[..., token.places[0], :, :] for token in (first, second))
    largest = one.max((-1, -2), keepdims=True)
    return bool((np.abs(one - other) <= 0.1 * MAP_ERROR * largest).all())
