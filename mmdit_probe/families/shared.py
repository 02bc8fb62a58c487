"""Changes of what all threads share (a module's attribute, torch's settings): the first makes them, the last undoes them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

Undo = Callable[[], object]


@dataclass
class _Held:
    undo: Undo
    users: int


_lock = threading.RLock()
_held: dict[Hashable, _Held] = {}


@contextmanager
def shared_change(key: Hashable, make: Callable[[], Undo]) -> Iterator[None]:
    """Inside, the change that ``make`` makes is in force, also if several threads need it and leave in any order.

    ``make`` returns how to undo it; ``key`` names the change.
    """
    with _lock:
        held = _held.get(key)
        if held is None:
            held = _held[key] = _Held(make(), 0)
        held.users += 1
    try:
        yield
    finally:
        with _lock:
            held.users -= 1
            if held.users == 0:
                del _held[key]
                held.undo()


def is_held(key: Hashable) -> bool:
    """Whether the change is in force."""
    return key in _held
