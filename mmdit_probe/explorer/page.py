"""Writing contents as one HTML file that loads nothing else."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import ClassVar

import numpy as np

from ..storage.pages import HtmlPage, document
from ..utils.progress import Progress
from .contents import Contents
from .describe import description
from .quantize import quantized, quantized_shares


@dataclass(frozen=True, eq=False)
class Page(HtmlPage):
    """A finished page: ``text`` is the HTML, ``groups`` the number of groups of heads in it, in addition to their mean."""

    kind: ClassVar[str] = "explorer"
    groups: int


def make_page(
    contents: Contents,
    image: np.ndarray | None,
    megabytes: float = 15.0,
    progress: Progress | None = None,
    references: Sequence[np.ndarray] = (),
) -> Page:
    """Make a page with as many groups of heads as fit into ``megabytes`` (10^6 bytes).

    Args:
        contents: what the page holds.
        image: (height, width, 3) uint8 RGB, or None.
        megabytes: largest size of the page.
        progress: told how many parts of how many are done.
        references: the reference images, (height, width, 3) uint8 RGB, in the order in which the model was given them.

    Raises:
        ValueError: not even a single group of heads fits, or there are more pictures than references.
    """
    if len(references) > len(contents.regions.references):
        raise ValueError(
            f"explore: {len(references)} reference images are given, the record has maps of {len(contents.regions.references)}"
        )
    pictures = dict(zip(contents.regions.references, references, strict=False))
    most = len(contents.sizes)
    each = contents.maps.sizes["layer"] * (1 + len(contents.regions.matrices)) + contents.whole
    total = contents.maps.sizes["timestep"] * each + len(contents.regions.matrices) + 1
    for groups in sorted({most, *(n for n in (12, 8, 6, 4, 3, 2, 1) if n < most)}, reverse=True):
        fitting = contents.merged(groups)
        frame = _frame(fitting, image, pictures)
        scripts, size = [], len(frame.encode())
        for name, blob in _blobs(fitting):
            scripts.append(_script(name, blob))
            size += len(scripts[-1]) + 1
            if size > megabytes * 1e6:
                break
            if progress is not None:
                progress(len(scripts), total)
        else:
            return Page(frame.replace("<!-- maps -->", "\n".join(scripts), 1), groups)
    raise ValueError(_too_large(contents, size / 1e6 * total / len(scripts), megabytes))


def _too_large(contents: Contents, needed: float, megabytes: float) -> str:
    sizes = contents.maps.sizes
    return (
        f"explore: {sizes['layer']} layers x {sizes['timestep']} timesteps with {sizes['row']} x {sizes['col']} image and "
        f"{sizes['token']} text tokens need about {max(needed, 1.1 * megabytes):.2g} MB, more than {megabytes:g}; keep "
        "fewer with --layers, --timesteps and --regions, or allow more with --megabytes"
    )


def _blobs(contents: Contents) -> Iterator[tuple[str, np.ndarray]]:
    """Names and codes: each layer's maps and regions, each timestep's shares of pixels and, last, the largest values."""
    largest: list[np.ndarray] = []
    tops: dict[str, list[np.ndarray]] = {name: [] for name in contents.regions.matrices}
    for timestep in range(contents.maps.sizes["timestep"]):
        shares = []
        for layer in range(contents.maps.sizes["layer"]):
            maps = contents.group_maps(timestep, layer)
            codes, peaks = quantized(contents.token_maps(maps))
            largest.append(peaks)
            shares.append(quantized_shares(contents.shares(maps)))
            yield f"maps-{timestep}-{layer}", codes
            for name, found in tops.items():
                codes, peaks = quantized(contents.token_matrix(name, timestep, layer))
                found.append(peaks)
                yield f"{name}-{timestep}-{layer}", codes
        if contents.whole:
            yield f"shares-{timestep}", np.stack(shares)
    for name, found in tops.items():
        yield f"{name}-largest", np.stack(found).astype("<f4")
    yield "largest", np.stack(largest).astype("<f4")


def _script(name: str, values: np.ndarray) -> str:
    code = base64.b64encode(zlib.compress(values.tobytes(), 6)).decode()
    return f'<script type="application/octet-stream" id="{name}">{code}</script>'


def _frame(contents: Contents, image: np.ndarray | None, references: Mapping[int, np.ndarray]) -> str:
    """The page without its maps."""
    prompt = str(contents.attrs.get("prompt", ""))
    body = Template(part("page.html")).substitute(
        script="".join(part(name) for name in _SCRIPTS),
        data=json.dumps(description(contents, image, references), separators=(",", ":")).replace("<", "\\u003c"),
    )
    return document(f"{prompt or 'no words'} - mmdit-probe explorer", part("page.css"), body)


_SCRIPTS = ("regions.js", "linked.js", "page.js")
"""In this order, as the last one begins to draw."""


def part(name: str) -> str:
    """The text of one of the page's own files."""
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
