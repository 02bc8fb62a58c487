"""Measures an embedded model and writes its numbers and model card: ``python -m mmdit_probe.tiny.evaluate``.

Layer and timestep are chosen on validation scenes and reported on test scenes, over several noise seeds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
from tqdm.auto import tqdm

from ..configs import AgreementConfig, GenerationConfig
from ..datasets.scenes import Scene, scenes
from ..families import Pipeline
from ..metrics.image_metrics import Clip
from ..metrics.scene_reader import SceneReader
from ..pipelines.forward import noise_level
from ..pipelines.loading import embedded_folder, load_pipeline
from ..storage.files import read_text, write_text
from ..studies.layer_agreement import layer_agreement, summary
from ..studies.scene_grounding import MEAN_OF_LAYERS, baselines, blur_harm, measure_layers
from .card import outline, write_card
from .export import digests, load_recipe, name_of_weights, save_defaults
from .eye import LABELS, measure_instruments, read_labels
from .kinds import make_denoiser, make_pipeline
from .recipe import Recipe
from .retrieval import retrieval_accuracy
from .samples import generate, read_samples, sample_sheet
from .scene_reader import reader_accuracy

TIMESTEPS = (2, 4, 6, 8, 10, 12, 16, 20, 24)
SHOWN = 40
"""Images in the model card."""
BLUR_TIMESTEP = 8
"""The timestep at which the harm of a blur is measured, the paper's; with less noise the caption hardly matters."""


def choose(pipe: Pipeline, held_out: list[Scene], positions: int) -> tuple[int, int, pd.DataFrame]:
    """The layer and timestep with the highest mIoU, and a table of mIoU by timestep and layer."""
    frames = [
        measure_layers(pipe, held_out, t, 0, positions)[0] for t in tqdm(TIMESTEPS, "choosing layer and timestep")
    ]
    table = pd.concat(frames)
    single = table[table["layer"] != MEAN_OF_LAYERS]
    best = single.sort_values("miou").iloc[-1]
    return int(best["layer"]), int(best["timestep"]), table


def measure(
    pipe: Pipeline, untrained: Any, counts: tuple[int, int], seeds: tuple[int, ...], positions: int
) -> dict[str, Any]:
    """All numbers of the model card."""
    validation, test = list(scenes("val", counts[0])), list(scenes("test", counts[1]))
    layer, timestep, by_timestep = choose(pipe, validation, positions)
    parts = [measure_layers(pipe, test, timestep, seed, positions) for seed in tqdm(seeds, "test scenes, noise seeds")]
    masks = pd.concat([masks for masks, _ in parts])
    seeds_of = masks.groupby("layer")[["miou", "pixel_accuracy"]].agg(["mean", "std"])
    mass = parts[0][1].set_index("layer")
    harm = blur_harm(pipe, test, BLUR_TIMESTEP, 0, positions).set_index("layer")["harm"]
    rows = []
    for number in mass.index:
        rows.append(
            {
                "layer": number,
                "miou": seeds_of.loc[number, ("miou", "mean")],
                "miou_std": seeds_of.loc[number, ("miou", "std")],
                "pixel_accuracy": seeds_of.loc[number, ("pixel_accuracy", "mean")],
                "i2t_mass": mass.loc[number, "i2t_mass"],
                "i2t_ratio": mass.loc[number, "i2t_mass"] / mass.loc[number, "uniform"],
                "blur_harm": harm[number],
            }
        )
    nothing, _ = measure_layers(untrained, test, timestep, 0, positions)
    references = baselines(test)
    best_untrained = nothing.sort_values("miou").iloc[-1]
    mean_map = seeds_of.loc[MEAN_OF_LAYERS]
    references["untrained model, its best layer"] = best_untrained[["miou", "pixel_accuracy"]].to_dict()
    references[MEAN_OF_LAYERS] = {key: mean_map[(key, "mean")] for key in ("miou", "pixel_accuracy")}
    sigma = float(parts[0][0]["sigma"].iloc[0])
    return {
        "expert_layer": layer,
        "timestep": timestep,
        "sigma": sigma,
        "blur_timestep": BLUR_TIMESTEP,
        "blur_sigma": noise_level(pipe, BLUR_TIMESTEP, GenerationConfig.steps),
        "validation_scenes": counts[0],
        "test_scenes": counts[1],
        "noise_seeds": list(seeds),
        "layers": rows,
        "references": references,
        "validation_miou": by_timestep.pivot(index="timestep", columns="layer", values="miou").to_dict("index"),
    }


def measure_eye(pipe: Pipeline, folder: Path, recipe: Recipe) -> dict[str, Any] | None:
    """How the scene reader and the tiny CLIP agree with the hand labels; None if there are none, or of images of other weights."""
    if not (folder / LABELS).is_file():
        return None
    labels = read_labels(folder / LABELS)
    if labels.transformer not in digests(folder / "transformer").values():
        return None
    images = generate(pipe, [seen.prompt for seen in labels.images], labels.seed, recipe)
    return measure_instruments(labels, images, SceneReader.load(), Clip())


def main(
    folder: Annotated[
        Path | None, typer.Option(help="The model's folder; the package's tiny-sd3 if not given.")
    ] = None,
    training: Annotated[
        Path | None, typer.Option(help="flow.jsonl of the training run, for samples seen and time.")
    ] = None,
    before: Annotated[
        Path | None, typer.Option(help="Folder of the edition whose place it takes, to be compared with in the card.")
    ] = None,
    validation_count: Annotated[int, typer.Option(help="Validation scenes.")] = 200,
    test_count: Annotated[int, typer.Option(help="Test scenes.")] = 300,
    only_eye: Annotated[
        bool,
        typer.Option("--only-eye", help="Measure the agreement with the hand labels alone; the other numbers stay."),
    ] = False,
) -> None:
    """Measure an embedded model; writes evaluation.json, probe_defaults.json, samples.png and MODEL_CARD.md to its folder."""
    folder = folder or embedded_folder()
    file = folder / "evaluation.json"
    pipe, recipe = load_pipeline(str(folder)), load_recipe(folder)
    if only_eye:
        numbers = json.loads(file.read_text())
        numbers["eye"] = measure_eye(pipe, folder, recipe)
        write_text(file, json.dumps(numbers, indent=1))
        write_card(numbers, recipe, folder / "MODEL_CARD.md")
        typer.echo(f"written: {file}, MODEL_CARD.md")
        return
    known = json.loads(file.read_text()) if file.is_file() else {}
    if training is None and not known.get("training"):
        raise typer.BadParameter(
            "give the flow.jsonl of a model that has not been measured before", param_hint="--training"
        )
    untrained = make_pipeline(make_denoiser(recipe).eval().requires_grad_(False), pipe.vae, recipe)
    kept = {"training": known.get("training"), "before": known.get("before")}
    if training is not None:
        last = [json.loads(line) for line in training.read_text().splitlines() if "loss" in line][-1]
        kept["training"] = {"samples": last["samples"], "seconds": last["seconds"], "loss": last["loss"]}
    if before is not None:
        earlier = outline(json.loads(read_text(before / "evaluation.json")))
        kept["before"] = {"weights": name_of_weights(before), **earlier}
    numbers = kept | measure(pipe, untrained, (validation_count, test_count), (0, 1, 2), recipe.text_positions)
    prompts = [scene.sentence() for scene in scenes("test", 100)]
    images = generate(pipe, prompts, 0, recipe)
    numbers["samples"] = read_samples(prompts, images)
    numbers["prompts"] = prompts[:SHOWN]
    sample_sheet(images[:SHOWN], folder / "samples.png")
    numbers["agreement"] = summary(layer_agreement(pipe, AgreementConfig(scenes=test_count)))
    numbers["clip_retrieval"] = retrieval_accuracy(embedded_folder().parent / "tiny-clip")
    numbers["reader"] = reader_accuracy(SceneReader.load())
    numbers["eye"] = measure_eye(pipe, folder, recipe)
    parts = (embedded_folder().parent / "scene-reader", embedded_folder().parent / "tiny-clip", folder)
    numbers["sha256"] = {f"{part.name}/{name}": digest for part in parts for name, digest in digests(part).items()}
    write_text(file, json.dumps(numbers, indent=1))
    best = numbers["layers"][numbers["expert_layer"]]["miou"]
    why = f"best masks on scenes: {best:.1%} mIoU on {test_count} held-out scenes, chosen on {validation_count} others"
    save_defaults(recipe, folder, numbers["expert_layer"], why)
    write_card(numbers, recipe, folder / "MODEL_CARD.md")
    typer.echo(f"written: {file}, MODEL_CARD.md, samples.png, probe_defaults.json")


if __name__ == "__main__":
    typer.run(main)
