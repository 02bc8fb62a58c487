"""What each named edit does to the images of tiny-sd3: the prompts' facts that a scene reader no longer finds.

python analyses/edits_on_scenes.py [--model MODEL] [--quick]

Sentences of held-out scenes, one seed each, read by the metrics of `perturb`: the scene score (for tiny-sd3 or another model of
scenes), CLIP-T, and CLIP-I against the plain image. Each edit stands on the expert layer, `RemoveKeys` on all layers, beside its
control; their settings were fixed before and all are reported. The chance of each drop counts all edits of the table.
"""

from contextlib import nullcontext
from functools import partial

from _analysis import Analysis, expert_of, main

from mmdit_probe import Probe
from mmdit_probe.configs import GenerationConfig
from mmdit_probe.edits import (
    BlurGrid,
    BlurText,
    Bypass,
    Edit,
    GroupKeys,
    HeadScale,
    Knockout,
    RemoveKeys,
    Scale,
    ScaleText,
    SelfAttend,
    Uniform,
)
from mmdit_probe.families import Pipeline
from mmdit_probe.figures.contact import contact_sheet
from mmdit_probe.figures.drops import dots_and_bars, drop_figure
from mmdit_probe.metrics.image_metrics import make_metrics
from mmdit_probe.storage.runs import RunFolder
from mmdit_probe.studies.image_grid import PLAIN, Variant, generate_grid
from mmdit_probe.studies.paired_metrics import drop_table, measure_images

PROMPTS = 60
STEPS = 28
SHOWN = 5
"""Prompts on the sheet."""


def edits_at(layer: int) -> dict:
    """By what tables call it, each named edit; words are not named, so that every prompt takes each."""
    return {
        "BlurText": BlurText(layer),
        "BlurGrid": BlurGrid(layer),
        "Uniform": Uniform(layer),
        "Knockout I2T": Knockout(layer),
        "Knockout T2I": Knockout(layer, "T2I"),
        "Knockout I2I": Knockout(layer, "I2I"),
        "Scale 0.5": Scale(layer, 0.5),
        "Scale 1.5": Scale(layer, 1.5),
        "SelfAttend 1": SelfAttend(layer, 1.0),
        "HeadScale 0": HeadScale(layer, None, 0.0),
        "GroupKeys 0.5": GroupKeys(layer, "image", delta=0.5),
        "Bypass": Bypass(layer),
        "ScaleText 0": ScaleText(layer, 0.0),
        "RemoveKeys sink": RemoveKeys(None, sinks=1),
        "RemoveKeys random": RemoveKeys(None, random=1),
    }


def _edited(pipe: Pipeline, edit: Edit, seed: int) -> Probe:
    return Probe(pipe, [], edits=[edit])


def run(analysis: Analysis) -> list[str]:
    pipe, prompts = analysis.pipe(), analysis.prompts(PROMPTS)
    generation, layer = GenerationConfig(steps=analysis.fewer(STEPS, 2)), expert_of(pipe)
    edits = edits_at(layer)
    variants = [Variant(PLAIN, nullcontext)]
    variants += [Variant(name.replace(" ", "-"), partial(_edited, pipe, edit), name) for name, edit in edits.items()]
    settings = {"prompts": prompts, "layer": layer, "edits": list(edits), "steps": generation.steps}
    batch = analysis.at_once(20, 4)
    with RunFolder.for_study(analysis.folder(), "edits", analysis.label, **settings).open() as folder:
        grid = generate_grid(pipe, folder, variants, prompts, (generation.seed,), batch, generation, axis="edit")
    metrics = make_metrics(analysis.model, analysis.clip, None, analysis.device)
    table = drop_table(measure_images(grid, metrics), list(metrics))
    titles = {variant.name: variant.name.replace("-", "\n") for variant in variants}
    sheet = contact_sheet(grid.first_seed(SHOWN), prompts[:SHOWN], titles)
    analysis.figure(sheet, "edits_sheet", f"layer {layer}", prompts=prompts[:SHOWN])
    analysis.figure(drop_figure(table, "edit"), "edits_drops", dots_and_bars(table), prompts=prompts)
    analysis.table(table, "edits_on_scenes")
    return [table.to_string(index=False, float_format="%.3f", na_rep="-")]


if __name__ == "__main__":
    main(run, __doc__)
