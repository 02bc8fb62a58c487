"""Logging the losses to TensorBoard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
    writer = SummaryWriter(str(folder))

    def write(row: Row) -> None:
        for name, value in row.items():
            if name != "step":
                writer.add_scalar(name, value, int(row["step"]))

    try:
        yield write
    finally:
        writer.close()
