"""Logging the losses to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..storage.files import announce
from .checkpoint import Row


@contextmanager
def tensorboard_writer(folder: Path | None) -> Iterator[Callable[[Row], None]]:
    """Give a function that logs a row of losses.csv to ``folder``, or does nothing if ``folder`` is None.

    `ValueError` if the package tensorboard is not installed.
    """
    if folder is None:
        yield lambda row: None
        return
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError("--tensorboard needs a package: run `pip install tensorboard`, or read losses.csv") from error
    made: list[SummaryWriter] = []

    def write(row: Row) -> None:
        if not made:  # once the run has its folder
            announce(folder, is_folder=True)
            made.append(SummaryWriter(str(folder)))
        for name, value in row.items():
            if name != "step":
                made[0].add_scalar(name, value, int(row["step"]))

    try:
        yield write
    finally:
        for writer in made:
            writer.close()
