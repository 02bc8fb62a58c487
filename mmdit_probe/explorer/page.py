"""Writing contents as one HTML file that loads nothing else."""

from __future__ import annotations

import base64
import html
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image

from ..readouts.head_groups import group_labels
from ..storage.files import write_text
from ..utils.progress import Progress
from .contents import Contents
from .quantize import quantized, quantized_shares

_LOSSLESS_PIXELS = 256 * 256
"""Images with more pixels are stored as JPEG."""


@dataclass(frozen=True, eq=False)
class Page:
    """A finished page: ``text`` is the HTML, ``groups`` the number of groups of heads in it, in addition to their mean."""

    text: str
    groups: int

    @property
    def megabytes(self) -> float:
        """Size of the file in MB (10^6 bytes)."""
        return len(self.text.encode()) / 1e6

    def save(self, path: Path | str) -> Path:
        """Write the file atomically."""
        return write_text(Path(path), self.text)

    def _repr_html_(self) -> str:
        """The page in an iframe, as notebooks show it."""
        return (
            f'<iframe srcdoc="{html.escape(self.text)}" style="width:100%;height:900px;border:0" '
            'title="mmdit-probe explorer"></iframe>'
        )


def make_page(
    contents: Contents, image: np.ndarray | None, megabytes: float = 15.0, progress: Progress | None = None
) -> Page:
    """Make a page with as many groups of heads as fit into ``megabytes`` (10^6 bytes).

    ``image`` is (height, width, 3) uint8 RGB, or None. `ValueError` if not even a single group fits.
    """
    most = len(contents.sizes)
    total = contents.maps.sizes["timestep"] * contents.maps.sizes["layer"]
    for groups in sorted({most, *(n for n in (12, 8, 6, 4, 3, 2, 1) if n < most)}, reverse=True):
        fitting = contents.merged(groups)
        frame = _frame(fitting, image)
        scripts, size = [], len(frame.encode())
        for name, blob in _blobs(fitting):
            scripts.append(_script(name, blob))
            size += len(scripts[-1]) + 1
            if size > megabytes * 1e6:
                break
            if progress is not None:
                progress(min(len(scripts), total), total)
        else:
            return Page(frame.replace("<!-- maps -->", "\n".join(scripts), 1), groups)
    raise ValueError(_too_large(contents, size / 1e6 * total / len(scripts), megabytes))


def _too_large(contents: Contents, needed: float, megabytes: float) -> str:
    sizes = contents.maps.sizes
    return (
        f"explore: {sizes['layer']} layers x {sizes['timestep']} timesteps with {sizes['row']} x {sizes['col']} image and "
        f"{sizes['token']} text tokens need about {max(needed, 1.1 * megabytes):.2g} MB, more than {megabytes:g}; keep "
        "fewer with --layers and --timesteps, or allow more with --megabytes"
    )


def _blobs(contents: Contents) -> Iterator[tuple[str, np.ndarray]]:
    """Names and codes: each layer's maps, each timestep's shares of pixels and, last, the maps' largest values."""
    largest: list[np.ndarray] = []
    for timestep in range(contents.maps.sizes["timestep"]):
        shares = []
        for layer in range(contents.maps.sizes["layer"]):
            maps = contents.group_maps(timestep, layer)
            codes, tops = quantized(contents.token_maps(maps))
            largest.append(tops)
            shares.append(quantized_shares(contents.shares(maps)))
            yield f"maps-{timestep}-{layer}", codes
        if contents.whole:
            yield f"shares-{timestep}", np.stack(shares)
    yield "largest", np.stack(largest).astype("<f4")


def _script(name: str, values: np.ndarray) -> str:
    code = base64.b64encode(zlib.compress(values.tobytes(), 6)).decode()
    return f'<script type="application/octet-stream" id="{name}">{code}</script>'


def _frame(contents: Contents, image: np.ndarray | None) -> str:
    """The page without its maps."""
    prompt = str(contents.attrs.get("prompt", ""))
    return Template(_part("page.html")).substitute(
        title=html.escape(f"{prompt or 'no words'} - mmdit-probe explorer"),
        style=_part("page.css"),
        script=_part("page.js"),
        data=json.dumps(_description(contents, image), separators=(",", ":")).replace("<", "\\u003c"),
    )


def _part(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _description(contents: Contents, image: np.ndarray | None) -> dict[str, Any]:
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
    }


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
