"""The probes of one run, and the records that they leave of each image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import xarray as xr

from ..attention.text_tokens import TextTokens
from ..explorer.measure import joined
from ..families import Pipeline
from ..probe.probe import Probe
from ..readouts.base import Readout
from ..readouts.feature_pca import FeaturePCA
from ..readouts.head_groups import HeadGroupMaps
from ..readouts.head_stats import HeadStats
from ..readouts.region_mass import RegionMass
from ..readouts.value_norms import ValueNorms
from ..studies.recording import by_timestep, check_steps, prompt_branch
from .plan import Plan


class RunProbes:
    """Reads one run of a pipeline as its plan says.

    I2T maps of groups of heads in the plan's layers; region mass and value norms in all layers; head statistics and
    principal components in all layers at the plan's one timestep.

    Args:
        pipe: the pipeline that is called.
        plan: what is read.
        positions: the steps at which it is read, as the probes count them; of a given image 0, 1, ...
    """

    def __init__(self, pipe: Pipeline, plan: Plan, positions: Sequence[int]) -> None:
        self.pipe, self.plan, self.positions = pipe, plan, tuple(positions)
        self._focus = self.positions[plan.timesteps.index(plan.timestep)]
        everywhere: list[Readout] = [RegionMass(), ValueNorms()]
        self.maps = Probe(pipe, [HeadGroupMaps(plan.head_groups)], layers=plan.layers, steps=self.positions)
        self.curves = Probe(pipe, everywhere, steps=self.positions)
        self.details = Probe(pipe, [HeadStats(), FeaturePCA()], steps=[self._focus])
        self._exit = ExitStack()

    def __enter__(self) -> RunProbes:
        with ExitStack() as stack:
            for probe in (self.maps, self.curves, self.details):
                stack.enter_context(probe)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    @property
    def images(self) -> int:
        """How many images the prompts' batch rows are."""
        return int(self.maps.dataset(prompt_branch(self.maps)).sizes["batch"])

    def records(self, row: int, attrs: Mapping[str, Any]) -> tuple[xr.Dataset, xr.Dataset]:
        """What was read of one image, and its details at the plan's one timestep; (timestep, layer, ...) both.

        The first is a record of the explorer's. `ValueError` if the pipeline took more steps than it was asked for, or did
        not come past one that is read.
        """
        check_steps(self.pipe, self.maps, self.plan.steps)
        times, steps = self.plan.timesteps, self.plan.positions
        maps = by_timestep(self.maps, self.positions, times, steps, row).assign_attrs(attrs)
        curves = by_timestep(self.curves, self.positions, times, steps, row)
        record = joined(self.pipe, maps, curves, self.plan.head_groups)
        place = times.index(self.plan.timestep)
        details = by_timestep(self.details, [self._focus], [times[place]], [steps[place]], row)
        return record, details.assign_attrs(attrs)

    def text(self, row: int) -> TextTokens | None:
        """What the text positions hold, of one image's batch row; None if that is not known."""
        text = self.maps.text(prompt_branch(self.maps))
        return None if text is None else text.rows(slice(row, row + 1))
