"""Is there one layer with the most text mass, the best masks and the most harm by blur? Over noise seeds and timesteps.

python analyses/expert_layer_law.py [--model tiny-sd3|tiny-flux] [--quick]

Both embedded models know the scenes that it is measured on; the prompt of a scene is the names of its classes. Which layer leads is
told for each timestep, with its lead over the next and in how many noise seeds it leads; beside it what the mean of all layers'
maps is worth, how much of the text's mass goes to padding, and how far the strongest single key is above uniform.
"""

from functools import partial
from pathlib import Path

import pandas as pd
import xarray as xr
from _analysis import Analysis, main

from mmdit_probe.configs import EMBEDDED_MODELS
from mmdit_probe.datasets.scenes import scenes
from mmdit_probe.families import Pipeline, layers_of
from mmdit_probe.figures.layer_signs import signs_figure
from mmdit_probe.pipelines.defaults import text_length
from mmdit_probe.storage.records import FORMAT
from mmdit_probe.storage.runs import RunFolder, Unit
from mmdit_probe.studies.layer_signs import leader_lines, measure_signs, other_lines, over_seeds, stream_of

SCENES, SEEDS, TIMESTEPS = 100, (0, 1, 2, 3, 4), (2, 8, 20)
"""Timesteps of 28, counted from the clean end."""


def run(analysis: Analysis) -> list[str]:
    if analysis.model not in EMBEDDED_MODELS and not analysis.quick:
        raise ValueError(f"--model: the scenes are known to {' and '.join(EMBEDDED_MODELS)} alone")
    pipe = analysis.pipe()
    count, seeds, timesteps = (
        analysis.fewer(SCENES, 2),
        analysis.fewer(SEEDS, SEEDS[:2]),
        analysis.fewer(TIMESTEPS, (8,)),
    )
    asked = {"scenes": count, "seeds": list(seeds), "timesteps": list(timesteps)}
    units = [
        Unit(f"seed{seed}-t{timestep:02d}", partial(measured, pipe, count, timestep, seed))
        for timestep in timesteps
        for seed in seeds
    ]
    model = Path(analysis.model).name
    where = RunFolder.for_study(analysis.folder(f"-{model}"), "expert-layer-law", analysis.label, **asked)
    with where.open() as folder:
        table = pd.concat([item.to_dataframe() for item in folder.finished(units)], ignore_index=True)
    table["layer"] = [int(name) if name.isdigit() else name for name in table["layer"]]
    together = over_seeds(table)
    sigmas = table.groupby("timestep")["sigma"].first()
    labels = {timestep: f"t = {timestep}, sigma {sigmas[timestep]:.2f}" for timestep in timesteps}
    figure = signs_figure(together, labels, first_single(pipe))
    bars = "bars: 95% intervals over noise seeds" if len(seeds) > 4 else "too few noise seeds for intervals"
    analysis.figure(figure, f"expert_layer_law_{model}", f"{count} scenes, {len(seeds)} noise seeds; {bars}")
    analysis.table(together, f"expert_layer_law_{model}")
    return [
        line
        for timestep in timesteps
        for line in (f"{labels[timestep]}:", *leader_lines(pipe, table, timestep), *other_lines(table, timestep), "")
    ]


def measured(pipe: Pipeline, count: int, timestep: int, seed: int) -> xr.Dataset:
    """The table of one timestep and seed, as it is kept."""
    table = measure_signs(pipe, list(scenes("test", count)), timestep, seed, text_length(pipe))
    return xr.Dataset.from_dataframe(table.astype({"layer": str})).assign_attrs(format=FORMAT)


def first_single(pipe: Pipeline) -> int | None:
    """The first single-stream layer; None if there is none."""
    return next((layer for layer in range(len(layers_of(pipe))) if stream_of(pipe, layer) == "single"), None)


if __name__ == "__main__":
    main(run, __doc__)
