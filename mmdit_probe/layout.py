"""Where the tokens sit: the only place that knows which positions are image and which are text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Order = Literal["image-text", "text-image"]


class Region(StrEnum):
    """The four blocks of the joint attention matrix, named query-to-key."""

    I2I = "I2I"
    I2T = "I2T"
    T2I = "T2I"
    T2T = "T2T"


@dataclass(frozen=True)
class TokenLayout:
    """Image grid, number of text positions, and which come first.

    ``grid`` is (rows, cols), or (frames, rows, cols) for video. Text positions include start, end
    and padding tokens and whatever else the model puts into its text stream.
    """

    grid: tuple[int, ...]
    text: int
    order: Order = "image-text"

    def __post_init__(self) -> None:
        if len(self.grid) not in (2, 3) or any(size < 1 for size in self.grid):
            raise ValueError(f"TokenLayout: grid must be (rows, cols) or (frames, rows, cols), got {self.grid}")
        if self.text < 0:
            raise ValueError(f"TokenLayout: the number of text tokens must be 0 or more, got {self.text}")
        if self.order not in ("image-text", "text-image"):
            raise ValueError(f"TokenLayout: order must be 'image-text' or 'text-image', got {self.order!r}")

    @property
    def image(self) -> int:
        """Number of image tokens."""
        return math.prod(self.grid)

    @property
    def tokens(self) -> int:
        """Number of all tokens."""
        return self.image + self.text

    @property
    def image_slice(self) -> slice:
        """Positions of the image tokens."""
        return slice(0, self.image) if self.order == "image-text" else slice(self.text, self.tokens)

    @property
    def text_slice(self) -> slice:
        """Positions of the text tokens."""
        return slice(self.image, self.tokens) if self.order == "image-text" else slice(0, self.text)

    @property
    def grid_dims(self) -> tuple[str, ...]:
        """Names of the grid's axes."""
        return ("row", "col") if len(self.grid) == 2 else ("frame", "row", "col")

    def uniform(self, region: Region) -> float:
        """The region's mass if every query attended to all tokens alike, in [0, 1]."""
        keys = self.image if region in (Region.I2I, Region.T2I) else self.text
        return keys / self.tokens
