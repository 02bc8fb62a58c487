"""Weights of layers, or of layers and heads, from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from ..storage.files import read_text


def read_weights(path: Path, layers: Sequence[int]) -> Tensor:
    """(layer,) or (layer, head) weights that sum to 1, from a CSV with the columns layer, weight and perhaps head.

    Layers that the file does not name weigh nothing. `ValueError` if it names one that is not read, a layer or head twice, a
    negative weight or one that is not finite, or nothing but zeros.
    """
    from io import StringIO

    try:
        table = pd.read_csv(StringIO(read_text(path)))
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ValueError(f"{path} is no table: expected a CSV with the columns layer and weight") from error
    keys = [name for name in ("layer", "head") if name in table]
    numbers = table.apply(pd.to_numeric, errors="coerce")
    if "layer" not in table or "weight" not in table or numbers[[*keys, "weight"]].isna().to_numpy().any():
        raise ValueError(f"{path}: expected the columns layer and weight (and perhaps head) with a number in each row")
    unknown = sorted({int(layer) for layer in numbers["layer"]} - set(layers))
    if unknown:
        raise ValueError(
            f"{path} names the layers {unknown}, which are not read; read {list(layers)} or change the file"
        )
    weights = numbers["weight"].astype(float)
    if numbers.duplicated(keys).any() or (weights < 0).any() or not 0 < weights.sum() < float("inf"):
        raise ValueError(f"{path}: each weight must stand once and be 0 or more, and one must be above 0")
    heads = int(numbers["head"].max()) + 1 if "head" in keys else 1
    found = torch.zeros(len(layers), heads)
    for row, weight in zip(numbers.itertuples(), weights, strict=True):
        found[list(layers).index(int(row.layer)), int(row.head) if "head" in keys else 0] = weight
    found /= found.sum()
    return found if "head" in keys else found[:, 0]
