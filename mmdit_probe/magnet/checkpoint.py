"""The files of a training run: its checkpoint and its losses."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..storage.files import announce, atomic_write, unwritable, write_text

Row = Mapping[str, float | int]
"""A row of losses.csv."""
COLUMNS = ("step", "loss", "flow", "focal", "dice", "pairs", "rate", "gradient")


class Checkpoint:
    """The state of a training run in one file, written atomically."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoint.pt"

    def save(self, state: Mapping[str, Any]) -> None:
        content = io.BytesIO()  # in memory: on a full disk torch.save hides the system's error
        torch.save(dict(state), content)
        with atomic_write(self.file) as part:
            part.write_bytes(content.getvalue())

    def load(self) -> dict[str, Any] | None:
        """The last state, None if nothing was saved; `ValueError` if the file is damaged."""
        if not self.file.exists():
            return None
        try:
            return torch.load(self.file, weights_only=True, map_location="cpu")
        except Exception as error:
            raise ValueError(f"{self.file} is damaged; delete it to train from the start") from error


class LossLog:
    """losses.csv: one row per training step.

    Columns: ``step`` from 0; ``loss``, which is minimized; its parts before weighting, ``flow``, ``focal`` and ``dice``;
    ``pairs``, the number of maps compared with masks; ``rate``, the learning rate; ``gradient``, the L2 norm of all
    gradients before clipping.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "losses.csv"

    def start(self, step: int) -> None:
        """Keep only the rows before ``step``: the steps since the last checkpoint are trained again."""
        if self.file.exists():
            kept = self.read()
            write_text(self.file, kept[kept["step"] < step].to_csv(index=False))

    def add(self, row: Row) -> None:
        """Append a row; the first one creates the file."""
        announce(self.file)
        try:
            with self.file.open("a", newline="") as lines:
                writer = csv.DictWriter(lines, COLUMNS)
                if not lines.tell():
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise ValueError(unwritable(self.file, error)) from error

    def read(self) -> pd.DataFrame:
        """All complete rows; one that a kill cut short is left out."""
        table = pd.read_csv(self.file, on_bad_lines="skip")
        return table.dropna().astype({"step": int})
