"""Memory estimates, a check against free memory, and smaller batches after CUDA out-of-memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import psutil
import torch

_log = logging.getLogger(__name__)
_CGROUP = Path("/sys/fs/cgroup")
NOTABLE = 0.05
"""The share of the free memory from which on what is kept is worth a line."""
Item = TypeVar("Item")
Result = TypeVar("Result")


def free_bytes() -> int:
    """Main memory in bytes that is still free, of the system or of the container if its limit leaves less."""
    available = psutil.virtual_memory().available
    try:
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
    except (OSError, ValueError):  # not in a container, or without a limit
        return available
    return min(available, max(0, limit - used))


def check_room(what: str, kept: int, peak: int | None = None, advice: str = "") -> None:
    """Check that the memory a computation needs is free.

    Args:
        what: names the result in the log, where it is told if it is much of what is free, and in the error.
        kept: bytes of the result.
        peak: bytes needed while it is computed; ``kept`` if None.
        advice: how to need less, the end of the error message.

    Raises:
        ValueError: ``peak`` is larger than `free_bytes`.
    """
    free = free_bytes()
    needed = kept if peak is None else peak
    level = logging.INFO if needed > NOTABLE * free else logging.DEBUG
    _log.log(level, "%s: %s to keep, %s are free", what, readable_bytes(kept), readable_bytes(free))
    if needed > free:
        raise ValueError(
            f"{what}: {readable_bytes(needed)} are needed, {readable_bytes(free)} are free{advice and '; ' + advice}"
        )


def readable_bytes(count: int) -> str:
    """A number of bytes in kB, MB or GB (powers of 1000).

    >>> readable_bytes(1_700_000_000)
    '1.7 GB'
    """
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def run_in_batches(
    run: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], most: int | None = None
) -> tuple[list[Result], int]:
    """Run a function on batches of items, halving the batch size each time the GPU runs out of memory.

    Args:
        run: takes some of the items and returns one result for each.
        items: all items.
        most: the first batch size; all items if None.

    Returns:
        The results in the order of the items, and the batch size at the end.

    Raises:
        torch.OutOfMemoryError: a single item does not fit.

    >>> def squares(numbers):
    ...     if len(numbers) > 2:
    ...         raise torch.OutOfMemoryError("as a GPU with room for two")
    ...     return [number**2 for number in numbers]
    >>> run_in_batches(squares, [1, 2, 3, 4, 5], most=4)
    ([1, 4, 9, 16, 25], 2)
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
            _log.warning("CUDA out of memory: going on with batches of %d", size)
    return results, size


def empty_cuda_cache() -> None:
    """Free the CUDA memory that PyTorch caches; does nothing if CUDA has not been used."""
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
