"""Splitting a run over the processes that `accelerate launch` or torchrun starts: each takes every n-th batch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


def _alone() -> None:
    """With one process there is nothing to wait for."""


@dataclass(frozen=True)
class WorkerShare:
    """Which part of a run this process computes.

    Attributes:
        number: this process's number, from 0.
        processes: how many there are.
        wait: returns when all processes have called it.
        device: this process's own device; None if the device that the user chose is used.
    """

    number: int = 0
    processes: int = 1
    wait: Callable[[], None] = _alone
    device: str | None = None

    @property
    def first(self) -> bool:
        """Whether this process collects the results."""
        return self.number == 0


def launched_worker_share(device: str) -> WorkerShare:
    """The share of this process: the whole run, unless several processes were started together."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return WorkerShare()
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))  # a slower process may be hours behind
    own = str(state.device) if device == "cuda" else None
    return WorkerShare(state.process_index, state.num_processes, state.wait_for_everyone, own)
