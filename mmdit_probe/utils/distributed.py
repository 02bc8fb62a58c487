"""Splitting a run over the processes of `accelerate launch` or torchrun: each takes every n-th batch, the first one sums up."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta


def _alone() -> None:
    """There is nobody to wait for."""


@dataclass(frozen=True)
class WorkerShare:
    """One process's part of a run: number ``number`` of ``processes``.

    ``wait`` returns when all processes have called it; ``device`` is this process's own, None where the user's choice
    stands.
    """

    number: int = 0
    processes: int = 1
    wait: Callable[[], None] = _alone
    device: str | None = None

    @property
    def first(self) -> bool:
        return self.number == 0


def launched_worker_share(device: str) -> WorkerShare:
    """The share of this process, everything unless `accelerate launch` started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return WorkerShare()
    from accelerate import PartialState

    state = PartialState(cpu=device == "cpu", timeout=timedelta(days=7))  # a slower process may be hours behind
    own = str(state.device) if device == "cuda" else None
    return WorkerShare(state.process_index, state.num_processes, state.wait_for_everyone, own)
