"""Frames to matplotlib axes, in one style for print; nothing here computes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from ..storage.files import atomic_write

IMAGE_COLOR, TEXT_COLOR, GUIDE_COLOR = "#0072B2", "#D55E00", "#555555"  # Okabe-Ito: told apart by everyone
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
    """Inside, figures have the house style."""
    with plt.rc_context(STYLE):
        yield


def plain(text: str) -> str:
    """A user's text as it is: dollar signs start no formula."""
    return text.replace("$", r"\$")


def save_figure(figure: Figure, stem: Path) -> list[Path]:
    """Write ``stem``.pdf and ``stem``.png and close the figure; a kill leaves old or new files."""
    paths = []
    for kind in ("pdf", "png"):
        path = stem.with_name(f"{stem.name}.{kind}")
        metadata = {"CreationDate": None} if kind == "pdf" else None  # the same data give the same file
        with (
            atomic_write(path) as part,
            house_style(),
            warnings.catch_warnings(),
        ):  # fonts are embedded when the file is written
            warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands for an emoji
            figure.savefig(part, format=kind, metadata=metadata)
        paths.append(path)
    plt.close(figure)
    return paths
