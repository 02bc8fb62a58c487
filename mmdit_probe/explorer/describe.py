"""What a page's script reads in addition to the maps: names, sizes, curves, the image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from ..readouts.head_groups import group_labels
from .contents import Contents
from .regions import Regions, Sink

_LOSSLESS_PIXELS = 256 * 256
"""Images with more pixels are stored as JPEG."""


def description(
    contents: Contents, image: np.ndarray | None, references: Mapping[int, np.ndarray] | None = None
) -> dict[str, Any]:
    """Everything that the page's script reads in addition to the maps."""
    maps, attrs = contents.maps, contents.attrs
    of = f" of {attrs['steps']}" if "steps" in attrs else ""
    sigmas = maps["sigma"].values if "sigma" in maps.coords else np.full(maps.sizes["timestep"], np.nan)
    return {
        "prompt": str(attrs.get("prompt", "")),
        "facts": _facts(attrs),
        "grid": [maps.sizes["row"], maps.sizes["col"]],
        "image": None if image is None else _image(image),
        "layers": maps["layer"].values.tolist(),
        "timesteps": [
            {"name": f"t = {t}{of}" if t > 0 else f"step {-t}", "sigma": None if np.isnan(s) else round(float(s), 4)}
            for t, s in zip(maps["timestep"].values.tolist(), sigmas, strict=True)
        ],
        "groups": ["all", *(group_labels(list(contents.sizes)) if len(contents.sizes) > 1 else [])],
        "tokens": [{"text": t.text, "kind": t.kind, "encoder": t.encoder, "count": t.count} for t in contents.tokens],
        "kinds": contents.kinds,
        "whole": contents.whole,
        "others": _others(attrs),
        "references": [extra.tokens for extra in contents.references],
        "cross": attrs["scope"] == "cross",
        "uniformToken": contents.uniform_token,
        "curves": {
            "layers": contents.curves["layer"].values.tolist() if "layer" in contents.curves else [],
            "budget": _by_group(contents, "region_mass"),
            "norms": _by_group(contents, "value_norm"),
            "uniform": {k: None if np.isnan(v) else v for k, v in contents.uniform.items()},
        },
        "start": contents.start(),
        "regions": {name: _matrices(contents, name) for name in contents.regions.matrices},
        "frames": contents.regions.frames,
        "onReferences": _on_references(contents.regions, references or {}),
        "sinks": _sinks(contents),
        "sampled": contents.regions.sampled,
    }


def _matrices(contents: Contents, name: str) -> dict[str, Any]:
    """The sizes of a region: its keys' grid and cells, and where its queries are if they are no tokens."""
    made, (count, keys) = contents.regions.matrices[name], contents.token_matrix(name, 0, 0).shape
    return {
        "count": count,
        "keys": keys,
        "grid": made.grid,
        "cell": made.cell,
        "queries": made.queries,
    }


def _on_references(regions: Regions, pictures: Mapping[int, np.ndarray]) -> list[dict[str, Any]]:
    return [
        {"number": number, "grid": grid, "image": _image(pictures[number]) if number in pictures else None}
        for number, grid in regions.references.items()
    ]


def _sinks(contents: Contents) -> list[Any] | None:
    """Of each timestep and layer the keys with most mass; a text key by the number of the page's token that it is in."""
    if contents.regions.sinks is None:
        return None
    token = {place: number for number, made in enumerate(contents.tokens) for place in made.places}

    def said(sink: Sink) -> dict[str, Any]:
        place = token[sink.place] if sink.stream == "text" else sink.place
        found = {"stream": sink.stream, "place": place, "kind": sink.kind, "name": sink.name}
        return {**found, "mass": round(sink.mass, 6), "times": round(sink.times, 2)}

    return [[[said(sink) for sink in here] for here in row] for row in contents.regions.sinks]


def _others(attrs: dict[str, Any]) -> str:
    """What shares the image's part of a pixel's attention, in words; empty if nothing does."""
    found = {"reference images": int(attrs.get("reference_tokens", 0)), "other tokens": int(attrs["extra_tokens"])}
    return " and ".join(name for name, tokens in found.items() if tokens)


def _facts(attrs: dict[str, Any]) -> list[str]:
    """Short texts about how the record was made."""
    made = {"generated": "generated", "image": "an image that was read, one forward pass per timestep"}.get(
        attrs.get("source", "")
    )
    known = [attrs.get("model"), made]
    known += [f"{attrs['steps']} steps"] if "steps" in attrs else []
    known += [f"seed {attrs['seed']}"] if "seed" in attrs else []
    known += [f"edits {attrs['edits']}"] if attrs.get("edits", "()") != "()" else []
    return [str(fact) for fact in known if fact]


def _by_group(contents: Contents, name: str) -> list[Any] | None:
    """A curve (timestep, layer, 1 + groups, region or stream) as lists, None for NaN; None if the record lacks it."""
    if name not in contents.curves:
        return None
    values = contents.curves[name].transpose("timestep", "layer", "head", ...).values
    found = [values.mean(2)]
    if len(contents.sizes) > 1:
        found += [part.mean(2) for part in np.split(values, np.cumsum(contents.sizes)[:-1], 2)]
    stacked = np.stack(found, 2)
    known = stacked.astype(float).round(5).astype(object)
    known[~np.isfinite(stacked)] = None
    return known.tolist()


def _image(image: np.ndarray) -> dict[str, Any]:
    height, width = image.shape[:2]
    small = height * width <= _LOSSLESS_PIXELS
    buffer = io.BytesIO()
    if small:
        Image.fromarray(image).save(buffer, format="PNG")
    else:
        Image.fromarray(image).save(buffer, format="JPEG", quality=90)
    kind, code = ("png" if small else "jpeg"), base64.b64encode(buffer.getvalue()).decode()
    return {"source": f"data:image/{kind};base64,{code}", "width": width, "height": height}
