"""Output folders of long runs: each finished item is written atomically, and none is computed twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xarray as xr

from ..configs import as_dict
from .files import write_text
from .locks import LOCK, folder_lock
from .records import load_record, save_record


class RunFolder:
    """The output folder of one run: ``run.json`` holds its settings, ``items/`` its finished items.

    A run with the same settings continues from the finished items; one with different settings is refused.

    >>> import tempfile
    >>> import xarray as xr
    >>> from mmdit_probe.storage.records import FORMAT
    >>> folder = tempfile.mkdtemp()
    >>> for attempt in ("first", "second"):
    ...     with RunFolder(folder, {"study": "squares", "count": 2}).open() as run:
    ...         for number in range(2):
    ...             if run.item(f"square-{number}") is None:
    ...                 print(f"{attempt} run computes item {number}")
    ...                 run.write(f"square-{number}", xr.Dataset({"square": number**2}, attrs={"format": FORMAT}))
    first run computes item 0
    first run computes item 1
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings))

    @classmethod
    def for_study(cls, folder: Path, study: str, model: str, config: Any = None, **more: Any) -> RunFolder:
        """The folder of a study's run.

        Args:
            folder: the output folder.
            study: the study's name.
            model: the model and whatever else its numbers depend on, see `model_label`.
            config: the study's config, a dataclass, if it has one.
            **more: further settings; they take the place of the config's where the names agree.
        """
        return cls(folder, {"study": study, "model": model, **({} if config is None else as_dict(config)), **more})

    @contextmanager
    def open(self) -> Iterator[RunFolder]:
        """Lock the folder and start or continue the run; partly written files of a killed run are deleted.

        A run that ends before it has finished an item leaves no folder.

        Raises:
            ValueError: another process is using the folder, it holds a run with different settings, or it is not writable.
        """
        with folder_lock(self.folder):
            fresh = self._check_settings()
            try:
                yield self
            except BaseException:
                if fresh and not self._holds_work():
                    (self.folder / "run.json").unlink(missing_ok=True)
                raise

    def _holds_work(self) -> bool:
        """Whether the folder holds a finished item, or a file that the study itself has written."""
        own = {"run.json", "items", LOCK}
        return any((self.folder / "items").iterdir()) or any(path.name not in own for path in self.folder.iterdir())

    def _check_settings(self) -> bool:
        """True if the run is new, False if it continues one with the same settings."""
        file = self.folder / "run.json"
        (self.folder / "items").mkdir(exist_ok=True)
        if not file.exists():
            write_text(file, json.dumps(self.settings, indent=1))
            return True
        try:
            found = json.loads(file.read_text())
            if not isinstance(found, dict):
                raise ValueError(f"{type(found).__name__} instead of settings")
        except (OSError, ValueError) as error:
            raise ValueError(f"{file} is damaged; choose another --out or delete the folder") from error
        if found != self.settings:
            names = sorted(key for key in {*found, *self.settings} if found.get(key) != self.settings.get(key))
            raise ValueError(
                f"{self.folder} holds a run with other settings ({', '.join(names)}); choose another --out or delete it"
            )
        return False

    def item(self, name: str) -> xr.Dataset | None:
        """The finished item of this name; None if it is not there or not readable."""
        try:
            return load_record(self._path(name))
        except ValueError:
            return None

    def write(self, name: str, dataset: xr.Dataset) -> None:
        """Save an item as finished."""
        save_record(dataset, self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / "items" / f"{name}.nc"
