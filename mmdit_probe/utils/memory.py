"""How much a run will keep, whether there is room for it, and smaller parts where a GPU's memory does not do."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import torch

_log = logging.getLogger(__name__)
_CGROUP = Path("/sys/fs/cgroup")
Item = TypeVar("Item")
Result = TypeVar("Result")


def free_bytes() -> int:
    """Main memory that can still be had: what the system has available, or less where a container's limit is nearer."""
    available = psutil.virtual_memory().available
    try:
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # no container, or no limit
        return available
    return min(available, max(0, limit - used))


def check_room(what: str, kept: int, peak: int | None = None, advice: str = "") -> None:
    """Log how many bytes ``what`` will keep; `ValueError` if its ``peak`` (``kept`` if None) is more than is free."""
    free = free_bytes()
    _log.info("%s: %s to keep, %s are free", what, in_words(kept), in_words(free))
    needed = kept if peak is None else peak
    if needed > free:
        raise ValueError(f"{what}: {in_words(needed)} are needed, {in_words(free)} are free{advice and '; ' + advice}")


def in_words(count: int) -> str:
    """Bytes as kB, MB or GB (powers of 1000)."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def run_in_batches(
    run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], most: int | None = None
) -> tuple[list[Result], int]:
    """``run(items)``, ``most`` at a time, in halves, quarters and so on where the GPU runs out of memory.

    Also the number of items that were run at once, for the record. One item that does not fit raises
    `torch.OutOfMemoryError`.
    """
    size = min(len(items), most or len(items))
    results: list[Result] = []
    while len(results) < len(items):
        try:
            results += run(items[len(results) : len(results) + size])
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size = -(-size // 2)
            empty_cuda_cache()
            _log.warning("out of memory: %d at a time from here on", size)
    return results, size


def empty_cuda_cache() -> None:
    """Return what PyTorch holds of the GPU's memory without using it."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
