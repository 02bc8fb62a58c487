"""mmdit-probe patch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from mmdit_probe.configs import EMBEDDED_MODELS, MetricConfig, ModelConfig, PatchConfig

from .layers import check_layers, resolve_layers
from .options import RESULTS, RUN_FOLDER, from_run_setting
from .session import Bar, check_prompts_fit, figure_line, finish, label, load
from .split import SplitRunConfig

_SHEET_ROWS = 6


@dataclass(frozen=True, kw_only=True)
class PatchOutputConfig(SplitRunConfig):
    """Where the results go; ``--from`` is a prompt here."""

    from_run: Annotated[Path | None, from_run_setting("--from-run")] = None
    out: Annotated[Path, RUN_FOLDER] = RESULTS / "patch"


def patch(
    config: PatchConfig,
    metric_models: MetricConfig,
    model: ModelConfig,
    output: PatchOutputConfig = PatchOutputConfig(),
) -> None:
    """Causal tracing: write one prompt's states into another prompt's run, layer by layer, and see how far the image moves.

    Both prompts start from the same noise. Each layer is patched by itself, from each of --steps-from on to the end. How
    far: CLIP-I by --clip and DINO by --dino, 0 the target's image and 1 the source's; for embedded models also which of the
    source's colors, shapes and grounds a scene reader finds, and how far the object goes to the source's place.

    Writes patch_moves.pdf / .png (layers by steps), patch_sheet.pdf / .png, patch_moves.csv with 95% bootstrap intervals
    over pairs of prompts (from 5 on), and patch_pairs.csv with every pair's numbers.
    """
    from mmdit_probe.figures.contact import contact_sheet
    from mmdit_probe.figures.patching import move_figure
    from mmdit_probe.figures.style import save_figure
    from mmdit_probe.metrics.image_metrics import make_metrics
    from mmdit_probe.metrics.scene_reader import SceneReader
    from mmdit_probe.metrics.verdicts import counted
    from mmdit_probe.storage.files import write_text
    from mmdit_probe.studies.patching import PAIRS, measure_moves, most_moving, move_table, run_patching

    embedded = model.model in EMBEDDED_MODELS
    if not config.source and not config.to:
        if not embedded:
            raise ValueError("give --from and --to: the built-in pairs are scenes that the embedded models alone know")
        source, to = zip(*PAIRS, strict=True)
        config = replace(config, source=source, to=to)
    check_layers(config.layers, model)
    pipe = load(model)
    check_prompts_fit(pipe, [*config.source, *config.to], config.generation.max_sequence_length)
    metrics = make_metrics(model.model, metric_models.clip, metric_models.dino, model.device)
    config = replace(config, layers=resolve_layers(pipe, config.layers))
    with Bar("plain images and patched layers") as bar:
        images = run_patching(pipe, config, output.out, label(model), bar.update)
    similar = {name: metric for name, metric in metrics.items() if name in ("clip_i", "dino")}
    measured = measure_moves(images, similar, SceneReader.load() if embedded else None)
    table = move_table(measured)
    shown = images.pairs[:_SHEET_ROWS]
    columns = {"source": images.source, "target": images.target}
    columns |= {f"layer{layer}": images.patched[:, place, 0] for place, layer in enumerate(images.layers)}
    titles = {"source": "source", "target": "target", **{f"layer{layer}": str(layer) for layer in images.layers}}
    how = (f"{config.tokens} tokens' {config.what} written", counted(config.generation.steps, "step"))
    average = f"averages over {counted(len(images.pairs), 'pair')} of prompts"
    files = [
        *save_figure(move_figure(table), output.out / "patch_moves", figure_line(model, config.to, *how, average)),
        *save_figure(
            contact_sheet(
                {name: made[:_SHEET_ROWS] for name, made in columns.items()},
                [f"{source} -> {target}" for source, target in shown],
                titles,
            ),
            output.out / "patch_sheet",
            figure_line(model, config.to[:_SHEET_ROWS], *how, f"each layer from step {images.starts[0]} on"),
        ),
        write_text(output.out / "patch_moves.csv", table.to_csv(index=False)),
        write_text(output.out / "patch_pairs.csv", measured.to_csv(index=False)),
    ]
    lines = [line for name in dict.fromkeys(measured["metric"]) for line in most_moving(measured, name)]
    finish(output, lines, files, table=table)
