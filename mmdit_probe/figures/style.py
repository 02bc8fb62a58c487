"""The style of all figures, their wording of time, and saving them."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, SupportsFloat

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Patch

from ..configs.formats import formats_of
from ..storage.files import atomic_write
from ..storage.invocation import running_command
from .fonts import families, needs_more, text_of, warn_of_missing

IMAGE_COLOR, TEXT_COLOR, GUIDE_COLOR = "#0072B2", "#D55E00", "#555555"  # Okabe-Ito: distinct for color-blind readers
KIND_COLORS = {
    "word": "#D55E00",
    "start": "#009E73",
    "end": "#CC79A7",
    "padding": "#E69F00",
    "template": "#56B4E9",
    "absent": "#999999",
}
"""Kinds of text tokens."""
REFERENCE_COLOR = "#CC79A7"
STYLE: dict[str, Any] = {
    "pdf.fonttype": 42,  # embedded TrueType: text stays text
    "svg.hashsalt": "mmdit-probe",  # so that equal data give equal files
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
_LONGEST = 160
"""Characters of a prompt that are shown under a figure."""


SPREAD = "band: ± 1 standard deviation over prompts"


def spread_patch() -> Patch:
    """The legend's sign for a shaded band."""
    return Patch(color=GUIDE_COLOR, alpha=0.2, lw=0)


@contextmanager
def house_style() -> Iterator[None]:
    """Inside the with block new figures have the house style; text is drawn as it is, in the fonts of `fonts.families`."""
    with plt.rc_context({**STYLE, "font.family": families()}):
        yield


def time_label(timestep: SupportsFloat, sigma: SupportsFloat, steps: int | None = None) -> str:
    """How figures name a timestep, which counts from the clean end.

    >>> time_label(8, 0.5154, 28)
    't = 8 of 28 (sigma 0.515)'
    >>> time_label(8, 0.5154)
    't = 8 (sigma 0.515)'
    """
    return f"t = {int(float(timestep))}{'' if steps is None else f' of {steps}'} (sigma {float(sigma):.3f})"


def caption(model: str, prompts: Sequence[str] = (), *notes: str) -> str:
    """The line under a figure: the model, the prompt or how many there are, and whatever else the numbers depend on.

    ``model`` is a name, a hub id or a path, of which the last part is shown.

    >>> caption("tiny-sd3", ["a red circle"], "28 steps")
    'tiny-sd3; prompt: a red circle; 28 steps'
    >>> caption("/models/sd3", ["sand", "snow"])
    'sd3; n = 2 prompts'
    """
    name = Path(model).name if Path(model).is_absolute() or model.startswith(".") else model
    said = f"n = {len(prompts)} prompts"
    if len(prompts) == 1:
        said = f"prompt: {prompts[0] if len(prompts[0]) <= _LONGEST else prompts[0][:_LONGEST] + ' ...'}"
    return "; ".join([name, *([said] if prompts else []), *(note for note in notes if note)])


def captioned(figure: Figure, line: str) -> Figure:
    """The figure, made taller, with a line under it that is wrapped to its width."""
    width, height = figure.get_size_inches()
    wrapped = textwrap.wrap(line, max(30, int(width * 72 / 3.3)), break_long_words=True)
    more, legends = 0.06 + 0.115 * len(wrapped), 0.0
    if (
        figure.legends
    ):  # those of whole figures stand below the axes; the layout makes room for them only at the very bottom
        with house_style(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph .* missing from font")
            figure.draw_without_rendering()
        legends = max(legend.get_window_extent().height for legend in figure.legends) / figure.dpi + 0.06
    total = height + more
    figure.set_size_inches(width, total)
    engine = figure.get_layout_engine()
    if isinstance(engine, ConstrainedLayoutEngine):
        engine.set(rect=(0, (more + legends) / total, 1, 1 - (more + legends) / total))
    for legend in figure.legends:
        legend.set_bbox_to_anchor((0, more / total, 1, 1 - more / total), transform=figure.transFigure)
    with house_style():
        style: dict[str, Any] = {"fontsize": 6, "color": GUIDE_COLOR, "linespacing": 1.3}
        figure.text(0.01, (more - 0.02) / total, "\n".join(wrapped), va="top", ha="left", **style)
    return figure


def save_figure(figure: Figure, stem: Path, line: str = "") -> list[Path]:
    """Write ``stem``.pdf and ``stem``.png atomically, or the formats that --format names; close it, and return their paths.

    ``line`` is what stands under it, see `caption`. The axes are laid out once, for the first file. Characters that no font
    here has are named in a warning.
    """
    if line:
        captioned(figure, line)
    text, paths = text_of(figure), []
    warn_of_missing(text)
    fonts = {"pdf.fonttype": 3} if needs_more(text) else {}  # CJK fonts often have outlines that type 42 can't hold
    for kind in _formats():
        path = stem.with_name(f"{stem.name}.{kind}")
        with atomic_write(path) as part, plt.rc_context(fonts):
            _draw(figure, part, kind)
        figure.set_layout_engine("none")
        paths.append(path)
    plt.close(figure)
    return paths


def _formats() -> Sequence[str]:
    """Those of the running command's --format; PDF and PNG in Python."""
    command = running_command()
    return formats_of(None if command is None else command.options.get("formats"))


def _draw(figure: Figure, file: Any, kind: str) -> None:
    """Draw into a file; fonts are embedded here."""
    dated = {"pdf": "CreationDate", "svg": "Date"}
    metadata = {dated[kind]: None} if kind in dated else None  # so that equal data give equal files
    with house_style(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # warn_of_missing has said so
        figure.savefig(file, format=kind, metadata=metadata)


def png_bytes(figure: Figure) -> bytes:
    """The figure as a PNG file's bytes, at 200 px an inch; closes it. Characters that no font here has are named in a warning."""
    buffer = io.BytesIO()
    warn_of_missing(text_of(figure))
    _draw(figure, buffer, "png")
    plt.close(figure)
    return buffer.getvalue()
