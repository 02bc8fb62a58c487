"""Arrays of the baselines' released functions, and whether all of them were read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(os.environ.get("MMDIT_PROBE_GOLDENS") or Path(__file__).parent / "golden" / "rivals")
"""The folder of the arrays; other numbers of the same form can be put in its place."""


class Arrays:
    """The arrays of one file, which remembers those that were read."""

    def __init__(self, path: Path) -> None:
        self._loaded, self.seen = np.load(path), set()
        self.names = set(self._loaded.files)

    def __getitem__(self, name: str) -> np.ndarray:
        self.seen.add(name)
        return self._loaded[name]

    def __contains__(self, name: str) -> bool:
        return name in self.names

    def tensor(self, name: str) -> torch.Tensor:
        """The array as a tensor, half precision as single."""
        array = self[name]
        return torch.from_numpy(array.astype(np.float32) if array.dtype == np.float16 else array)

    def cases(self, prefix: str) -> list[int]:
        """Numbers N of the arrays PREFIX_N; there is at least one."""
        found = sorted(int(name[len(prefix) + 1 :]) for name in self.names if re.fullmatch(rf"{prefix}_\d+", name))
        assert found, f"no array is called {prefix}_N"
        return found

    def below(self, prefix: str) -> dict[str, torch.Tensor]:
        """All arrays whose names begin with ``prefix``, by the rest of their names."""
        return {name[len(prefix) :]: self.tensor(name) for name in sorted(self.names) if name.startswith(prefix)}


@contextmanager
def goldens(name: str, **uncompared: str) -> Iterator[Arrays]:
    """The arrays of a file; at the end all must have been read, except ``uncompared`` ones, each with its reason."""
    arrays = Arrays(FOLDER / f"{name}.npz")
    yield arrays
    left = arrays.names - arrays.seen - uncompared.keys()
    assert not left, f"{name}: {sorted(left)} were not compared"


def close(ours, theirs: np.ndarray, tolerance: float = 1e-4) -> None:
    """Same shape, and numbers alike to 1e-4."""
    ours = ours.numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, atol=tolerance, rtol=tolerance)


def same(ours, theirs: np.ndarray) -> None:
    """Label maps alike in every pixel."""
    ours = ours.numpy() if isinstance(ours, torch.Tensor) else np.asarray(ours)
    assert ours.shape == theirs.shape
    assert (ours != theirs).sum() == 0


def same_parts(ours, theirs: np.ndarray) -> None:
    """Label maps that divide the pixels alike, whatever the numbers of the parts."""
    pairs = np.unique(np.stack([np.asarray(ours).ravel(), np.asarray(theirs).ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(ours)) == len(np.unique(theirs))
