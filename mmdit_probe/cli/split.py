"""Where the results of a run go that several processes may share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from mmdit_probe.configs.setting import OUTPUT, Setting
from mmdit_probe.utils.distributed import share_of_part

from .options import RunConfig


@dataclass(frozen=True, kw_only=True)
class SplitRunConfig(RunConfig):
    """Where the results of a run go that several processes may share, and which part of it this process computes."""

    part: Annotated[
        str | None,
        Setting(
            "Compute one part of the run, such as 3/8, and write no tables; when all parts are done, the same command without "
            "--part collects them.",
            OUTPUT,
            default="the whole run",
        ),
    ] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if share_of_part(self.part) is not None and self.overwrite:
            raise ValueError(
                "--overwrite would remove the work of the other parts: choose another --out, or delete the folder"
            )
