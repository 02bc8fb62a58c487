"""What a training run keeps on disk: its checkpoint and its losses."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ..storage.files import atomic_write, unwritable, write_text

Row = Mapping[str, float | int]
"""A row of losses.csv."""
COLUMNS = ("step", "loss", "flow", "focal", "dice", "pairs", "rate", "gradient")


class Checkpoint:
    """One file; a kill leaves the old one or the new one."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "checkpoint.pt"

    def save(self, state: Mapping[str, Any]) -> None:
        content = io.BytesIO()  # PyTorch's own error on a full disk is not the system's
        torch.save(dict(state), content)
        with atomic_write(self.file) as part:
            part.write_bytes(content.getvalue())

    def load(self) -> dict[str, Any] | None:
        """The last state, None if there is none; `ValueError` if the file is damaged."""
        if not self.file.exists():
            return None
        try:
            return torch.load(self.file, weights_only=True, map_location="cpu")
        except Exception as error:
            raise ValueError(f"{self.file} is damaged; delete it to train from the start") from error


class LossLog:
    """losses.csv: a row a step.

    ``loss`` is what was minimized, ``flow``, ``focal`` and ``dice`` its parts before weighting, ``pairs`` the number of
    masks that were compared, ``rate`` the learning rate, ``gradient`` the norm of all gradients before clipping.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "losses.csv"

    def start(self, step: int) -> None:
        """Keep the rows before ``step`` alone; what came after the last checkpoint is computed again."""
        if self.file.exists():
            kept = self.read()
            write_text(self.file, kept[kept["step"] < step].to_csv(index=False))

    def add(self, row: Row) -> None:
        """Append a row; the first makes the file."""
        try:
            with self.file.open("a", newline="") as lines:
                writer = csv.DictWriter(lines, COLUMNS)
                if not lines.tell():
                    writer.writeheader()
                writer.writerow(row)
        except OSError as error:
            raise ValueError(unwritable(self.file, error)) from error

    def read(self) -> pd.DataFrame:
        """All whole rows."""
        table = pd.read_csv(self.file, on_bad_lines="skip")
        return table.dropna().astype({"step": int})
