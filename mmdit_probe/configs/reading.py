"""Which attention tells where words are, and how layers and heads are put together."""

from __future__ import annotations

from typing import Literal

from .setting import Setting

Read = Literal["i2t", "t2i", "output", "concept", "contribution"]
AGGREGATES = ("layer", "mean", "goca")
WEIGHTS = "weights:"

READ_NAMES: dict[str, str] = {
    "i2t": "I2T",
    "t2i": "T2I",
    "output": "similarity in the output",
    "concept": "concepts",
    "contribution": "contributions",
}
"""What is read, in words."""
READ = Setting(
    "What is read of each word: i2t, image queries on it; t2i, the word on the image; output, its similarity in the attention's "
    "output; concept, that of a concept that rides along with an empty prompt; contribution, what it adds to the image stream."
)
AGGREGATE = Setting(
    "layer: each layer alone; mean: over all layers named; goca: heads and layers weighted as in GoCA (i2t); weights:FILE, a CSV "
    "with the columns layer, weight and, for i2t and t2i, head."
)


def check_aggregate(aggregate: str) -> None:
    """`ValueError` if it is none of layer, mean, goca and weights:FILE."""
    if aggregate not in AGGREGATES and not aggregate.removeprefix(WEIGHTS) != aggregate:
        raise ValueError(f"aggregate must be layer, mean, goca or weights:FILE, got {aggregate!r}")
    if aggregate == WEIGHTS:
        raise ValueError("aggregate weights:FILE needs a file, a CSV with the columns layer and weight")


def reading_name(read: str, aggregate: str) -> str:
    """What masks rest on, in words."""
    own = " (Seg4Diff's reading)" if (read, aggregate) == ("i2t", "layer") else ""
    return f"{READ_NAMES[read]}{own}"
