"""Splitting runs over processes: those that `accelerate launch` or torchrun starts together, or parts that are started apart.

Every process runs the same program. `RunFolder.finished` computes this process's share of a list of units, waits for the
others, and gives the results to the first process; the others have done their share and end by `ShareDone`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

Item = TypeVar("Item")
_PART = re.compile(r"(\d+)/(\d+)")


def _alone() -> None:
    """With one process there is nothing to wait for."""


@dataclass(frozen=True)
class WorkerShare:
    """Which part of a run this process computes.

    Attributes:
        number: this process's number, from 0.
        processes: how many there are.
        wait: returns when all processes have called it.
        is_part: whether the others may run at other times, so that nobody waits; a run of its own collects the results.
    """

    number: int = 0
    processes: int = 1
    wait: Callable[[], None] = _alone
    is_part: bool = False

    @property
    def first(self) -> bool:
        """Whether this process collects the results."""
        return self.number == 0 and not self.is_part

    @property
    def begins(self) -> bool:
        """Whether this process begins the run, or goes on with it; of those that were started together the first does."""
        return self.first or self.is_part

    @property
    def alone(self) -> bool:
        """Whether this process does the whole run."""
        return self.processes == 1 and not self.is_part

    @property
    def name(self) -> str:
        """Of a part, such as "3-of-8"."""
        return f"{self.number + 1}-of-{self.processes}"

    def of(self, units: Sequence[Item]) -> list[Item]:
        """This process's units: one of each ``processes`` in a row, another one in each row.

        So that what comes back in every row, such as the plain images before the edited ones, is not one process's alone.

        >>> [WorkerShare(number, 2).of("aAbBcC") for number in (0, 1)]
        [['a', 'B', 'c'], ['A', 'b', 'C']]
        """
        turn = ((place + place // self.processes) % self.processes for place in range(len(units)))
        return [unit for unit, number in zip(units, turn, strict=True) if number == self.number]


class ShareDone(SystemExit):
    """This process has computed its share, and the first process goes on with the results; unless caught it ends, with code 0."""

    def __init__(self, share: WorkerShare) -> None:
        super().__init__(0)
        self.share = share

    def __str__(self) -> str:
        return (
            f"part {self.share.number + 1} of {self.share.processes} is done as far as it can be; "
            "when all parts are, the same command without --part collects them"
        )


_chosen: ContextVar[WorkerShare | None] = ContextVar("chosen", default=None)
_for_all: ContextVar[bool] = ContextVar("for_all", default=False)


def worker_share() -> WorkerShare:
    """The share of this process: the whole run, unless several processes were started together, or a part was asked for."""
    return _chosen.get() or _launched()


def _launched() -> WorkerShare:
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return WorkerShare() if processes < 2 else WorkerShare(int(os.environ["RANK"]), processes, _wait)


@contextmanager
def sharing(share: WorkerShare | None) -> Iterator[None]:
    """Inside, this is the process's share; None changes nothing."""
    before = _chosen.set(share or _chosen.get())
    try:
        yield
    finally:
        _chosen.reset(before)


def share_of_part(text: str | None) -> WorkerShare | None:
    """The share that a text such as "3/8" asks for, the third of eight; None for None.

    `ValueError` if it can't be read, or if the process was started together with others, which share among themselves.

    >>> share_of_part("3/8").name
    '3-of-8'
    """
    if text is None:
        return None
    found = _PART.fullmatch(text.strip())
    number, of = (int(digits) for digits in found.groups()) if found else (0, 0)
    if not 1 <= number <= of:
        raise ValueError(f"--part: give which part of how many, such as 3/8, got {text!r}")
    if not _launched().alone:
        raise ValueError("--part: processes that were launched together share the work by themselves; leave it out")
    return WorkerShare(number - 1, of, is_part=True)


def own_device(device: str) -> str:
    """This process's own device where ``device`` is "cuda" and several processes were started together; else ``device``."""
    if _launched().alone:
        return device
    state = _state(device == "cpu")
    return str(state.device) if device == "cuda" else device


def _wait() -> None:
    import torch

    _state(not torch.cuda.is_available()).wait_for_everyone()


def _state(cpu: bool) -> Any:
    """Of the processes; the first call says whether they talk by way of their GPUs."""
    from accelerate import PartialState

    return PartialState(cpu=cpu, timeout=timedelta(days=7))  # a slower process may be hours behind


def stage() -> AbstractContextManager[None]:
    """Around a part of a run on whose results the next part does not depend: who has done its share of it goes on."""
    return suppress(ShareDone)


def leave_to_first() -> None:
    """What follows is the first process's alone: for the others `ShareDone`."""
    share = worker_share()
    if not share.first:
        raise ShareDone(share)


@contextmanager
def for_all() -> Iterator[None]:
    """Inside, results are given to every process, for parts of a run on whose results the next depends."""
    before = _for_all.set(True)
    try:
        yield
    finally:
        _for_all.reset(before)


def gets_results(share: WorkerShare) -> bool:
    """Whether the process of this share goes on with the results of all."""
    return share.first or _for_all.get()
