"""The style of all figures, their wording of time, and saving them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..storage.files import atomic_write

IMAGE_COLOR, TEXT_COLOR, GUIDE_COLOR = "#0072B2", "#D55E00", "#555555"  # Okabe-Ito: distinct for color-blind readers
STYLE: dict[str, Any] = {
    "pdf.fonttype": 42,  # embedded TrueType: text stays text
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "text.parse_math": False,  # a prompt with dollar signs is no formula
    "figure.dpi": 200,
    "figure.constrained_layout.use": True,
}


@contextmanager
def house_style() -> Iterator[None]:
    """Inside the with block new figures have the house style."""
    with plt.rc_context(STYLE):
        yield


def plain(text: str) -> str:
    """A user's text as matplotlib draws it without reading a formula in its dollar signs.

    In the house style it reads none; elsewhere it does not where they are escaped.
    """
    return text.replace("$", r"\$") if plt.rcParams["text.parse_math"] else text


def time_label(timestep: SupportsFloat, sigma: SupportsFloat, steps: int | None = None) -> str:
    """How figures name a timestep, which counts from the clean end.

    >>> time_label(8, 0.5154, 28)
    't = 8 of 28 (sigma 0.515)'
    >>> time_label(8, 0.5154)
    't = 8 (sigma 0.515)'
    """
    return f"t = {int(float(timestep))}{'' if steps is None else f' of {steps}'} (sigma {float(sigma):.3f})"


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem``.pdf and ``stem``.png atomically, close the figure, and return their paths."""
    paths = []
    for kind in ("pdf", "png"):
        path = stem.with_name(f"{stem.name}.{kind}")
        metadata = {"CreationDate": None} if kind == "pdf" else None  # so that equal data give equal files
        with (
            atomic_write(path) as part,
            house_style(),
            warnings.catch_warnings(),
        ):  # fonts are embedded here
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # emoji are drawn as boxes
            figure.savefig(part, format=kind, metadata=metadata)
        paths.append(path)
    plt.close(figure)
    return paths
