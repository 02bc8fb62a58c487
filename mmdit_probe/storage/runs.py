"""Output folders of long runs: each finished item is written atomically, and none is computed twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from ..configs import as_dict
from ..utils.distributed import ShareDone, gets_results, worker_share
from ..utils.progress import Progress
from .digests import digest
from .files import watchers
from .invocation import running_command
from .locks import LOCK, folder_lock, part_lock
from .records import load_record, save_record
from .run_file import ITEMS, RUN_FILE, RunFile, earlier_run, erase_run, has_items, read_run


@dataclass(frozen=True)
class Unit:
    """A part of a run that is computed at once, by one process, and kept as an item of this name."""

    name: str
    compute: Callable[[], xr.Dataset]


class RunFolder:
    """The output folder of one run: ``run.json`` holds its settings, ``items/`` its finished items.

    A run with the same settings continues from the finished items; one with different settings is refused. Where several
    processes were started together all of them open the folder, and `finished` splits the work; see `utils.distributed`.

    >>> import tempfile
    >>> import xarray as xr
    >>> from mmdit_probe.storage.records import FORMAT
    >>> folder = tempfile.mkdtemp()
    >>> def square(number):
    ...     print("computes the square of", number)
    ...     return xr.Dataset({"square": number**2}, attrs={"format": FORMAT})
    >>> units = [Unit(f"square-{number}", lambda number=number: square(number)) for number in (1, 2)]
    >>> for attempt in ("first", "second"):
    ...     with RunFolder(folder, {"study": "squares", "count": 2}).open() as run:
    ...         print(attempt, [int(item["square"]) for item in run.finished(units)])
    computes the square of 1
    computes the square of 2
    first [1, 4]
    second [1, 4]
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder, self.share = Path(folder), worker_share()
        self.settings = json.loads(json.dumps(settings, default=str))

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
        own = {} if config is None else as_dict(config)
        references = [Path(file) for file in getattr(getattr(config, "generation", None), "reference", ())]
        if references:
            own["reference_content"] = digest(references)
        return cls(folder, {"study": study, "model": model, **own, **more})

    @contextmanager
    def open(self) -> Iterator[RunFolder]:
        """Lock the folder and start or continue the run; partly written files of a killed run are deleted.

        Every file that is written to the folder while it is open is listed in its run.json. A run that ends before it has
        finished an item or a file leaves nothing. In a command the folder stays open until the command ends, and an earlier
        run with other settings is removed if the user asks for it (``--overwrite``). Of processes that were started together
        the first does all this, while the others wait.

        Raises:
            ValueError: another process is using the folder, it holds a run with different settings, or it is not writable.
        """
        command = running_command()
        if not self.share.begins:
            self.share.wait()
            yield self
        elif command is None:
            with self._held():
                self.share.wait()
                yield self
        else:
            command.hold(self.folder, self.settings, self._held())
            self.share.wait()
            yield self

    @contextmanager
    def _held(self) -> Iterator[None]:
        if self.share.is_part:
            with part_lock(self.folder, self.share.name, self._join):
                yield
            return
        with folder_lock(self.folder):
            found = self._begin()
            others = set(self.folder.iterdir())
            watchers.append(self._list)
            try:
                yield
            finally:
                watchers.remove(self._list)
                if found is None and not self._holds_work(others):
                    (self.folder / RUN_FILE).unlink(missing_ok=True)

    def _holds_work(self, others: set[Path]) -> bool:
        """Whether the folder holds a finished item, or a file that was not there before."""
        own = {self.folder / name for name in (RUN_FILE, ITEMS, LOCK)}
        return has_items(self.folder) or bool(set(self.folder.iterdir()) - others - own)

    def check(self) -> None:
        """`ValueError` if the folder holds a run with other settings that is not to be replaced."""
        found, command = earlier_run(self.folder), running_command()
        if found is None or found.settings == self.settings or (command is not None and command.overwrite):
            return
        raise ValueError(_refusal(self.folder, found.settings, self.settings))

    def _begin(self) -> RunFile | None:
        """Start the run, or go on with the one that is there, which is returned."""
        self.check()
        command = running_command()
        if command is not None and command.overwrite:
            erase_run(self.folder)
        (self.folder / ITEMS).mkdir(exist_ok=True)
        found = earlier_run(self.folder)
        self._run = found or RunFile(self.settings)
        if command is not None:
            self._run.command, self._run.options = command.command, command.options
        self._run.save(self.folder)
        return found

    def _join(self) -> None:
        """Begin a run, or go on with one, of which other processes do other parts: its settings must be the same from the start."""
        command = running_command()
        run = RunFile(self.settings)
        if command is not None:
            run.command, run.options = command.command, command.options
        found = read_run(self.folder)
        if found is None:
            (self.folder / ITEMS).mkdir(exist_ok=True)
            run.save(self.folder)
        elif found.settings != self.settings:
            raise ValueError(_refusal(self.folder, found.settings, self.settings))

    def _list(self, path: Path, is_folder: bool) -> bool:
        """Put a file that is about to be written on the run's list, if it is in its folder and not there yet.

        `ValueError` if the file exists and is of no run: it is the user's own.
        """
        try:
            name = path.resolve().relative_to(self.folder.resolve()).as_posix() + "/" * is_folder
        except ValueError:
            return False
        if name == RUN_FILE:
            return False  # an entry of the run around this one, if there is one
        if name.split("/")[0] == ITEMS or name in self._run.files:
            return True
        self._extend([name])
        return True

    def _extend(self, names: Sequence[str]) -> None:
        for name in names:
            if (self.folder / name).exists() and Path(
                name
            ).name != RUN_FILE:  # runs inside this one know their own files
                raise ValueError(f"{self.folder / name} is there already and not of this run; choose another --out")
        if names:
            self._run.files += names
            self._run.save(self.folder)

    def claim(self, names: Iterable[str]) -> None:
        """List all files that this run is to write, before it does.

        `ValueError` if the run wrote others earlier, which its tables would not speak of any more.
        """
        own = set(names)
        earlier = [name for name in self._run.files if name not in own and (self.folder / name).exists()]
        if earlier:
            raise ValueError(
                f"{self.folder} holds {earlier[0]}{' and more' * (len(earlier) > 1)} of an earlier run that this one does "
                f"not include; {_ways_out()}"
            )
        self._extend(sorted(own - set(self._run.files)))

    def item(self, name: str) -> xr.Dataset | None:
        """The finished item of this name; None if it is not there or not readable."""
        try:
            return load_record(self._path(name))
        except ValueError:
            return None

    def write(self, name: str, dataset: xr.Dataset) -> None:
        """Save an item as finished."""
        save_record(dataset, self._path(name))

    def finished(self, units: Sequence[Unit], progress: Progress | None = None) -> Iterator[xr.Dataset]:
        """The items of all units, in order; those that are there already are read, not computed.

        Where several processes share the run each computes its own units, and waits for the others before the first one
        yields the items, read from the folder; for the others `ShareDone` is raised (see `utils.distributed.for_all`).
        ``progress`` is called after each unit of this process.

        `ValueError` if an item that another process was to write is not there.
        """
        own = self.share.of(units)
        for done, unit in enumerate(own, 1):
            item = self.item(unit.name)
            if item is None:
                item = unit.compute()
                self.write(unit.name, item)
            if progress is not None:
                progress(done, len(own))
            if self.share.alone:
                yield item
        if self.share.alone:
            return
        self.share.wait()
        if not gets_results(self.share):
            raise ShareDone(self.share)
        for unit in units:
            yield self._collected(unit.name)

    def decision(self, name: str, make: Callable[[], xr.Dataset]) -> xr.Dataset:
        """An item that the first process makes of what all have computed, and that all of them read.

        ``make`` is called in every process, for its share of the work; where the first process goes on without the others
        they wait here. A part of a run that is started apart makes none: `ShareDone` if it is not there yet.
        """
        item = self.item(name)
        self.share.wait()  # until all have seen whether it is there
        if item is None:
            with suppress(ShareDone):
                self.write(name, make())
            self.share.wait()
            item = self._collected(name)
        return item

    def _collected(self, name: str) -> xr.Dataset:
        item = self.item(name)
        if item is None and self.share.is_part:
            raise ShareDone(self.share)
        if item is None:
            raise ValueError(f"{self.folder}: {name} is missing; start the run again, it computes only what is missing")
        return item

    def _path(self, name: str) -> Path:
        return self.folder / ITEMS / f"{name}.nc"


def _refusal(folder: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    names = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
    return f"{folder} holds a run with other settings ({', '.join(names)}); {_ways_out()}"


def _ways_out() -> str:
    if running_command() is None:
        return "choose another folder or delete it"
    return "choose another --out, or add --overwrite to remove exactly the files of that run first"
