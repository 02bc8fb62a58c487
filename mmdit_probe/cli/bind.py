"""mmdit-probe bind."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmdit_probe.configs import EMBEDDED_MODELS, BindConfig, ModelConfig, PromptConfig

from .layers import check_layers, resolve_layers
from .options import RESULTS
from .session import Bar, check_prompts_fit, chosen_prompts, figure_line, finish, label, load
from .split import SplitRunConfig

_SHEET_ROWS = 8


def bind(
    prompts: PromptConfig,
    config: BindConfig,
    model: ModelConfig,
    output: SplitRunConfig = SplitRunConfig(out=RESULTS / "bind"),
) -> None:
    """Bind words to places: draw a prompt with each word kept in its part of the image, and without.

    With --region, every --prompt is drawn with these places. Without, embedded models draw built-in layouts of two objects and
    measure how much of each stands where it was asked.

    Writes bind_sheet.pdf / .png (places, plain and bound images); for the built-in layouts also bind.csv with 95% bootstrap
    intervals over layouts (from 5 on) and bind_layouts.csv with every image's numbers.
    """
    import numpy as np

    from mmdit_probe.figures.contact import contact_sheet
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.metrics.scene_reader import SceneReader
    from mmdit_probe.metrics.verdicts import counted
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.binding import (
        BOUND,
        Layout,
        binding_lines,
        binding_table,
        built_in_layouts,
        drawn_layout,
        measure_binding,
        run_binding,
    )
    from mmdit_probe.studies.given_places import given_regions
    from mmdit_probe.studies.image_grid import PLAIN

    if config.region:
        regions = given_regions(config.region)
        layouts = [Layout(prompt, regions) for prompt in chosen_prompts(prompts, model)]
    elif model.model in EMBEDDED_MODELS and not prompts.prompt and prompts.prompts is None:
        layouts = built_in_layouts(config.layouts)
    else:
        raise ValueError('give --region "WORD=left,top,right,bottom" for words of --prompt')
    check_layers(config.layers, model)
    pipe = load(model)
    check_prompts_fit(pipe, [layout.prompt for layout in layouts], config.generation.max_sequence_length)
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    with Bar("plain and bound layouts") as bar:
        images = run_binding(pipe, config, layouts, output.out, label(model), bar.update)
    shown = layouts[:_SHEET_ROWS]
    height, width = images[PLAIN].shape[2:4]
    columns = {"layout": [drawn_layout(layout, height, width) for layout in shown]}
    columns |= {name: list(images[name][:_SHEET_ROWS, 0]) for name in (PLAIN, BOUND)}

    how = (f"{config.binding} binding", counted(config.generation.steps, "step"), f"seed {config.seeds[0]}")
    line = figure_line(model, [layout.prompt for layout in shown], *how)
    sheet = contact_sheet(
        {name: np.stack(made) for name, made in columns.items()},
        [layout.prompt for layout in shown],
        {"layout": "places", PLAIN: "plain", BOUND: "bound"},
    )
    files: list[Path] = save_figure(sheet, output.out / "bind_sheet", line)
    if config.region:
        finish(
            output,
            [f"{counted(len(layouts), 'prompt')} drawn with {', '.join(regions)} in their places, and without."],
            files,
        )
        return
    measured = measure_binding(layouts, images, SceneReader.load())
    table = binding_table(measured)
    files = [
        *files,
        write_text(output.out / "bind.csv", table.to_csv(index=False)),
        write_text(output.out / "bind_layouts.csv", measured.to_csv(index=False)),
    ]
    finish(output, binding_lines(table), files, table=table)
